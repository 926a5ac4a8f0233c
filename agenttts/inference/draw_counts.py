"""How many samples of a draw are there, counted while engines work."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class DrawCounts:
    """How far the requests of one draw have come.

    Attributes:
        done: For how many prompts all samples are there, by the trial of the request.
        seconds: Seconds since the first engine call of the draw; 0 without one.
        tokens: Generated tokens of the samples that engines have finished since.
    """

    done: Mapping[str, int]
    seconds: float = 0.0
    tokens: int = 0


class DrawWatcher(Protocol):
    """Is told how far a draw has come."""

    @property
    def is_due(self) -> bool:
        """Whether it wants to be told now; it is told of begin and end in any case."""

    def counted(self, counts: DrawCounts) -> None:
        """Take note of the counts."""


@dataclass(frozen=True)
class WantedPrompts:
    """The keys of a request's prompts, and how many samples each of them needs."""

    keys: Sequence[str]
    samples: int


class DrawCounter:
    """Counts one draw.

    Args:
        watcher: Is told the counts; None: nobody is.
        wanted: What is drawn for each trial.
        samples: The samples that are there, by key. The sampler adds to them.
    """

    def __init__(
        self,
        watcher: DrawWatcher | None,
        wanted: Mapping[str, WantedPrompts],
        samples: Mapping[str, Sized],
    ) -> None:
        self._watcher = watcher
        self._wanted = wanted
        self._samples = samples
        self._since: float | None = None
        self._tokens = 0

    def engine_call(self) -> None:
        """Take note that an engine call begins."""
        self._since = time.monotonic() if self._since is None else self._since

    def add(self, tokens: int) -> None:
        """Count a sample that an engine has finished."""
        self._tokens += tokens
        if self._watcher is not None and self._watcher.is_due:
            self.tell()

    def tell(self) -> None:
        """Tell the counts."""
        if self._watcher is None:
            return
        done = {
            trial: sum(len(self._samples[key]) >= prompts.samples for key in prompts.keys)
            for trial, prompts in self._wanted.items()
        }
        seconds = 0.0 if self._since is None else time.monotonic() - self._since
        self._watcher.counted(DrawCounts(done, seconds, self._tokens))
