"""How far the trials of a program have come: ``progress.json`` among its notes.

The program writes it when a draw of samples begins and ends, and every few seconds while engines
work. `agenttts.status` reads it; nothing else depends on it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from agenttts.files.atomic import atomic_write_json
from agenttts.files.documents import parse_json, typed
from agenttts.inference.draw_counts import DrawCounts

PROGRESS_FILE = "progress.json"
PROGRESS_SECONDS = 5.0
"""Time between two writes during an engine call, at least."""


@dataclass(frozen=True)
class TrialStage:
    """The stage of a trial whose samples are drawn, or were drawn last.

    Attributes:
        trial: The trial.
        stage: The stage.
        number: Its number, from 1.
        stages: Number of stages of the trial.
        examples: Number of examples for which samples are drawn.
        done: For how many of them all samples are there.
    """

    trial: str
    stage: str
    number: int
    stages: int
    examples: int
    done: int = 0


@dataclass(frozen=True)
class Progress:
    """How far the trials of one start of a program have come.

    Attributes:
        started: When the program began (ISO 8601, UTC).
        model: The model that samples are drawn from, or were drawn from last.
        seconds: Seconds since the first engine call of the draw.
        tokens: Tokens of the samples that engines have finished in these seconds.
        trials: The trials of its list that have begun.
    """

    started: str
    model: str = ""
    seconds: float = 0.0
    tokens: int = 0
    trials: Sequence[TrialStage] = ()

    @property
    def tokens_per_second(self) -> float | None:
        """The rate of the draw; None before its first sample."""
        return self.tokens / self.seconds if self.tokens and self.seconds > 0 else None


def read_progress(directory: Path) -> Progress | None:
    """Return the progress in a job's directory.

    It is None if there is none that can be read.
    """
    try:
        found = typed(Progress, parse_json((directory / PROGRESS_FILE).read_bytes()))
        return found if datetime.fromisoformat(found.started).tzinfo else None
    except (OSError, ValueError):
        return None


class ProgressNotes:
    """Writes the progress of one start of a program.

    If it cannot be written, the program goes on.

    Args:
        directory: Where the program's notes are.
        clock: Seconds that never go back.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = directory / PROGRESS_FILE
        self._clock = clock
        self._progress = Progress(datetime.now(UTC).isoformat(timespec="milliseconds"))
        self._trials: dict[str, TrialStage] = {}
        self._written = -PROGRESS_SECONDS

    def new_list(self) -> None:
        """Forget the trials of the list before."""
        self._trials = {}

    def begin(self, model: str, stages: Iterable[TrialStage]) -> None:
        """Take note that the samples of these stages are drawn next; `counted` writes it."""
        self._trials |= {stage.trial: stage for stage in stages}
        self._progress = replace(self._progress, model=model, seconds=0.0, tokens=0)

    def counted(self, counts: DrawCounts) -> None:
        """Take note of how many samples are there."""
        for trial, done in counts.done.items():
            if trial in self._trials:
                self._trials[trial] = replace(self._trials[trial], done=done)
        self._progress = replace(
            self._progress, seconds=round(counts.seconds, 3), tokens=counts.tokens
        )
        self._write()

    @property
    def is_due(self) -> bool:
        """Whether the last write was long enough ago."""
        return self._clock() - self._written >= PROGRESS_SECONDS

    def _write(self) -> None:
        self._written = self._clock()
        progress = replace(self._progress, trials=tuple(self._trials.values()))
        with contextlib.suppress(OSError):
            atomic_write_json(self._path, asdict(progress), durable=False)
