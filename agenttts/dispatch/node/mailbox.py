"""The mailbox of a worker: a directory through which the controller gives it further lists.

A worker is a job that stays for more trials when its own have ended. The controller alone writes
lists. Each is a file of its own, numbered from 1, in the mailbox of the worker that is to evaluate
it. So there is nothing to claim and nothing to lock. If a worker ends before it takes a list, the
trials of the list have no attempts, and the controller gives them to another job.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from agenttts.dispatch.base import JobTrial
from agenttts.files.atomic import atomic_write_json
from agenttts.files.documents import read_object

_LISTS = "lists"
_RETIRED = "retired"


class Mailbox:
    """The mailbox in a worker's directory.

    Both sides use it. Nothing but `give` and `retire` writes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def give(self, number: int, trials: Sequence[JobTrial]) -> None:
        """Write list ``number``, unless it is there or the worker's directory was removed."""
        file = self._list(number)
        if file.exists() or not file.parent.is_dir():
            return
        trials_of = [[str(trial.directory), trial.earlier_attempts] for trial in trials]
        atomic_write_json(file, {"trials": trials_of})

    def read(self, number: int) -> list[JobTrial] | None:
        """Return list ``number``; None if it is not there."""
        with suppress(OSError):  # NFS looks for a file again when its directory is listed
            list((self._directory / _LISTS).iterdir())
        document = read_object(self._list(number))
        if "trials" not in document:
            return None
        return [JobTrial(Path(place), int(earlier)) for place, earlier in document["trials"]]

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
