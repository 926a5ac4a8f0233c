"""The current phase of a trial: ``phase.json`` in its directory.

The job on the host reads it. The job ends a trial whose engine does not start, or whose engine call
makes no progress. Only the trial knows in which phase it is, or whether its task's own code runs,
which has limits of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from agenttts.files.atomic import atomic_write_json
from agenttts.files.documents import parse_json
from agenttts.inference.base import (
    Completion,
    Engine,
    ModelConfig,
    OnFinished,
    Request,
    WrappedEngine,
)

PHASE_FILE = "phase.json"
PhaseName = Literal["load", "generate", "other"]
_NAMES: tuple[PhaseName, ...] = get_args(PhaseName)


@dataclass(frozen=True)
class Phase:
    """A phase of a trial.

    ``number`` counts the phases of an attempt. ``tokens`` bounds the tokens that an engine call may
    generate without a sign of life. It is 0 for an engine that gives signs of life in the trial's
    log (`agenttts.inference.beats`).
    """

    number: int
    name: PhaseName
    model: str = ""
    tokens: int = 0


class PhaseNotes:
    """Writes the phases of one attempt."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / PHASE_FILE
        self._number = 0

    def note(self, name: PhaseName, model: str = "", tokens: int = 0) -> None:
        """Record that a new phase begins.

        If it cannot be written, the trial goes on, and the job cannot watch over it.
        """
        self._number += 1
        with contextlib.suppress(OSError):
            phase = Phase(self._number, name, model, tokens)
            atomic_write_json(self._path, asdict(phase), durable=False)

    @contextlib.contextmanager
    def during(self, name: PhaseName, model: str, tokens: int = 0) -> Iterator[None]:
        """Record a phase that lasts as long as the block, however that ends."""
        self.note(name, model, tokens)
        try:
            yield
        finally:
            self.note("other", model)


def read_phase(directory: Path) -> Phase | None:
    """Return the phase of the current attempt.

    None before the trial's program has begun, and for images that write no phases.
    """
    try:
        document = parse_json((directory / PHASE_FILE).read_bytes())
        name: PhaseName = next((n for n in _NAMES if n == document["name"]), "other")
        model = str(document.get("model", ""))
        return Phase(int(document["number"]), name, model, int(document.get("tokens", 0)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def noted(
    engine_factory: Callable[[ModelConfig], Engine], notes: PhaseNotes
) -> Callable[[ModelConfig], Engine]:
    """Return a factory that records the starts and calls of its engines."""

    def create(config: ModelConfig) -> Engine:
        with notes.during("load", config.name):
            engine = engine_factory(config)
        return _NotedEngine(engine, config.name, notes)

    return create


class _NotedEngine(WrappedEngine):
    """An engine whose calls are recorded."""

    def __init__(self, engine: Engine, model: str, notes: PhaseNotes) -> None:
        super().__init__(engine)
        self._model = model
        self._notes = notes

    def generate(
        self, requests: Sequence[Request], on_finished: OnFinished | None = None
    ) -> list[Completion]:
        """Return what the engine generates."""
        tokens = 0
        if not getattr(self._engine, "reports_progress", False):
            tokens = sum(len(request.seeds) * request.params.max_tokens for request in requests)
        with self._notes.during("generate", self._model, tokens):
            return super().generate(requests, on_finished)

    def sleep(self) -> bool:
        """Put the engine to sleep; the limit of a start holds for it, too."""
        with self._notes.during("load", self._model):
            return super().sleep()

    def wake(self) -> None:
        """Wake the engine, which is part of its start as far as limits are concerned."""
        with self._notes.during("load", self._model):
            super().wake()
