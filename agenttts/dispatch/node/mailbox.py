"""The mailbox of a worker: a directory in which it is given further lists.

A worker is a job that stays for more trials when its own have ended. The controller alone writes
lists. Each is a file of its own, numbered from 1, in the mailbox of the worker that is to evaluate
it. So there is nothing to claim and nothing to lock. If a worker ends before it takes a list, the
trials of the list have no attempts, and the controller gives them to another job.

A worker that waits ends when the controller has given no keep-alive sign for some time. A sign is
a new content of the file ``sign``. The worker compares contents and uses its own clock, so the
clocks of the two hosts may differ.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agenttts.dispatch.base import JobTrial
from agenttts.files.atomic import atomic_write_json
from agenttts.files.documents import read_object

_LISTS = "lists"
_RETIRED = "retired"
_SIGN = "sign"


@dataclass(frozen=True)
class GivenList:
    """A list of trials as the controller gives it to a worker.

    Args:
        trials: The trials.
        seconds: How long they are expected to take; 0 if that is not known.
    """

    trials: tuple[JobTrial, ...]
    seconds: float = 0.0


class Mailbox:
    """The mailbox in a worker's directory.

    Both sides use it. Only the controller calls the methods that write: `prepare`, `give`,
    `give_sign` and `retire`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def give(self, number: int, given: GivenList) -> None:
        """Write list ``number``, unless it is there or the worker's directory was removed."""
        file = self._list(number)
        if file.exists() or not file.parent.is_dir():
            return
        trials_of = [
            # A worker of an older version reads two values.
            [str(t.directory), t.earlier_attempts, *([] if t.upto is None else [t.upto])]
            for t in given.trials
        ]
        atomic_write_json(file, {"trials": trials_of, "seconds": given.seconds})

    def read(self, number: int) -> GivenList | None:
        """Return list ``number``; None if it is not there."""
        with suppress(OSError):  # NFS looks for a file again when its directory is listed
            list((self._directory / _LISTS).iterdir())
        document = read_object(self._list(number))
        if "trials" not in document:
            return None
        trials = [JobTrial(Path(place), *map(int, more)) for place, *more in document["trials"]]
        seconds = document.get("seconds")
        if not isinstance(seconds, int | float) or not math.isfinite(seconds):
            seconds = 0.0
        return GivenList(tuple(trials), float(seconds))

    def give_sign(self) -> None:
        """Tell the worker that its controller works, unless its directory was removed."""
        if (self._directory / _LISTS).is_dir():
            (self._directory / _LISTS / _SIGN).write_text(f"{time.time_ns()}\n", encoding="ascii")

    @property
    def sign(self) -> str:
        """The last keep-alive sign of the controller; '' before the first."""
        with suppress(OSError):
            return (self._directory / _LISTS / _SIGN).read_text(encoding="ascii")
        return ""

    def prepare(self) -> None:
        """Make the mailbox in the worker's directory."""
        (self._directory / _LISTS).mkdir(exist_ok=True)

    def retire(self) -> None:
        """Tell the worker to end when it has nothing to do."""
        if (self._directory / _LISTS).is_dir():
            (self._directory / _LISTS / _RETIRED).touch()

    @property
    def is_retired(self) -> bool:
        """Whether the worker is to end when it has nothing to do."""
        return (self._directory / _LISTS / _RETIRED).exists()

    def _list(self, number: int) -> Path:
        return self._directory / _LISTS / f"{number:04}.json"
