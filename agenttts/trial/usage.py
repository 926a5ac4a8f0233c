"""What the program of a job used, and of which engines.

Each start of the program has one file, ``usage/NN.json``. It is in the directory of notes: that
of the worker, or of a job's only trial. A file is written anew at each end of an engine start, of
an engine call and of a list of trials. It is then true up to that moment, however the program ends.
A job that is requeued starts a new program, which writes a new file.

The controller reads the files while jobs run, and the tables of a run are made from them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from agenttts.files.numbered import check_moments, next_number, read_numbered, write_numbered
from agenttts.inference.engine_use import EngineObserver, ModelDraw

USAGE = "usage"
"""The folder of the files."""


@dataclass(frozen=True)
class EngineSeconds:
    """Wall seconds of the start or the wake of one engine.

    ``model`` is the model's name in the spec.
    """

    model: str
    seconds: float


@dataclass(frozen=True)
class ModelUsage:
    """What engines computed for one model, by its name in the spec.

    Reused samples do not count. ``prompt_tokens`` counts a prompt once per engine call. ``seconds``
    are wall seconds of the engine calls.
    """

    model: str
    prompt_tokens: int = 0
    decode_tokens: int = 0
    sequences: int = 0
    seconds: float = 0.0
    calls: int = 0

    def plus(self, draw: ModelDraw) -> ModelUsage:
        """Return the usage with one more engine call."""
        return ModelUsage(
            self.model,
            self.prompt_tokens + draw.prompt_tokens,
            self.decode_tokens + draw.decode_tokens,
            self.sequences + draw.sequences,
            self.seconds + draw.seconds,
            self.calls + 1,
        )


@dataclass(frozen=True)
class PhaseSeconds:
    """Wall seconds of a program by phase; they add up to its time so far.

    Attributes:
        load: Until engines were ready: starts, wakes, making room, and starts that failed.
        generate: In engine calls.
        idle: Waiting for a list of trials.
        other: The rest, such as the task's own code and the sample store.
    """

    load: float = 0.0
    generate: float = 0.0
    idle: float = 0.0
    other: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.load + self.generate + self.idle + self.other


@dataclass(frozen=True)
class JobUsage:
    """What one start of a program used up to ``written``.

    Models are named as in the spec. An engine that serves several names has the name that it was
    started for.

    Attributes:
        number: Counts the program's starts in its directory, from 1.
        started: When the program began (ISO 8601, UTC).
        written: When the file was written (ISO 8601, UTC).
        seconds: Wall seconds by phase.
        starts: The engines that were started, in order.
        wakes: The engines that were woken, in order.
        draws: What was computed, one entry per model.
        awake: The engine that was used last, if a call of it needs no waking.
        asleep: The other engines that are loaded: asleep or, without GPUs, beside it.
        idles: Whether the program waits for a list since ``written``.
    """

    number: int
    started: str
    written: str
    seconds: PhaseSeconds = field(default_factory=PhaseSeconds)
    starts: Sequence[EngineSeconds] = ()
    wakes: Sequence[EngineSeconds] = ()
    draws: Sequence[ModelUsage] = ()
    awake: str | None = None
    asleep: Sequence[str] = ()
    idles: bool = False


def read_usages(directory: Path) -> list[JobUsage]:
    """Return the usage of each program start in a job's directory, oldest first.

    Files that are absent or cannot be read are left out. Fields of a newer version are ignored.
    """
    return read_numbered(JobUsage, directory / USAGE, _check)


class UsageNotes(EngineObserver):
    """Writes the usage of one start of a program.

    If it cannot be written, the program goes on.

    Args:
        directory: Where the program's notes are.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / USAGE
        moment = _now()
        self._usage = JobUsage(next_number(self._folder), moment, moment)
        self._draws: dict[str, ModelUsage] = {}
        self._began = time.monotonic()
        self._idle_since: float | None = None

    def work_begins(self) -> None:
        """Record that a list of trials begins, or that the program is about to end."""
        if self._idle_since is not None:
            self._add(idle=time.monotonic() - self._idle_since)
        self._idle_since = None
        self._write()

    def work_ended(self) -> None:
        """Record that the trials of a list have ended."""
        self._idle_since = time.monotonic()
        self._write()

    def started(self, model: str, seconds: float) -> None:
        entry = EngineSeconds(model, round(seconds, 3))
        self._usage = replace(self._usage, starts=(*self._usage.starts, entry))

    def woken(self, model: str, seconds: float) -> None:
        entry = EngineSeconds(model, round(seconds, 3))
        self._usage = replace(self._usage, wakes=(*self._usage.wakes, entry))

    def loaded(self, seconds: float) -> None:
        self._add(load=seconds)
        if seconds > _WORTH_WRITING_S:
            self._write()

    def called(self, draws: Sequence[ModelDraw], seconds: float) -> None:
        self._add(generate=seconds)
        for draw in draws:
            self._draws[draw.model] = self._draws.get(draw.model, ModelUsage(draw.model)).plus(draw)
        self._write()

    def kept(self, awake: str | None, others: Sequence[str]) -> None:
        self._usage = replace(self._usage, awake=awake, asleep=tuple(others))

    def _add(self, *, load: float = 0.0, generate: float = 0.0, idle: float = 0.0) -> None:
        seconds = self._usage.seconds
        self._usage = replace(
            self._usage,
            seconds=replace(
                seconds,
                load=seconds.load + load,
                generate=seconds.generate + generate,
                idle=seconds.idle + idle,
            ),
        )

    def _write(self) -> None:
        seconds = self._usage.seconds
        known = seconds.load + seconds.generate + seconds.idle
        other = time.monotonic() - self._began - known
        draws = [replace(draw, seconds=round(draw.seconds, 3)) for draw in self._draws.values()]
        usage = replace(
            self._usage,
            written=_now(),
            seconds=_rounded(replace(seconds, other=max(0.0, other))),
            draws=draws,
            idles=self._idle_since is not None,
        )
        with contextlib.suppress(OSError):
            write_numbered(self._folder, usage.number, asdict(usage))


# An engine that is awake is ready at once, which is no reason to write.
_WORTH_WRITING_S = 0.001


def _check(usage: JobUsage) -> None:
    """Raise `ValueError` for moments that cannot be used."""
    check_moments(usage.started, usage.written)


def _rounded(seconds: PhaseSeconds) -> PhaseSeconds:
    values: Mapping[str, float] = asdict(seconds)
    return PhaseSeconds(**{name: round(value, 3) for name, value in values.items()})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
