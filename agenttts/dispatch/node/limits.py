"""Whether a trial makes progress.

An engine that does not start or a call that hangs holds GPUs without using them. These count as
progress:

- a new phase of the trial (each engine call is two)
- anything logged (an engine at work logs every few seconds, `agenttts.inference.beats`)
- a new shard of the trial in the sample store
- without GPUs: processor time. Calls are slow there, and a hang costs little.

The time of the task's own code is not watched, because it has limits of its own. Time in which the
job is suspended (Slurm's PreemptMode=SUSPEND, gang scheduling, scontrol suspend) does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

from agenttts.dispatch.attempts import MAX_PREEMPTIONS
from agenttts.dispatch.blame import Stop
from agenttts.trial.phase import Phase

# Tokens a second: no GPU engine with a full batch was seen below this. A call of an engine that
# logs nothing may take as long as its tokens need at this rate.
SLOWEST_TOKENS_PER_SECOND = 500.0
# Longest time between two looks of a job that runs. It looks every few seconds.
_LONGEST_BETWEEN_LOOKS_S = 60.0
# Share of processor time above which a process is busy; a waiting one takes a little too.
_BUSY_SHARE = 0.05


@dataclass(frozen=True)
class Limits:
    """The limits that a job enforces.

    Attributes:
        start_seconds: Seconds that one engine's start may take.
        stall_seconds: Seconds without progress.
        max_preemptions: How often a trial's job may be preempted before the trial is given up.
    """

    start_seconds: float = 1800.0
    stall_seconds: float = 1800.0
    max_preemptions: int = MAX_PREEMPTIONS


@dataclass(frozen=True)
class Sight:
    """What is seen of a trial at one moment.

    ``cpu_seconds`` is None if processor time does not count as progress.
    """

    phase: Phase | None
    log_bytes: int
    store_changed_ns: int
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Overrun:
    """A limit that has passed, and a sentence about it."""

    stop: Stop
    problem: str


class Watch:
    """Compares what is seen of a trial from one look to the next.

    Times are seconds of any steady clock.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._last: Sight | None = None
        self._last_look = self._phase_since = self._progress = now

    def look(self, sight: Sight, now: float) -> Overrun | None:
        """Return the limit that has passed, if one has."""
        last, self._last = self._last, sight
        passed, self._last_look = now - self._last_look, now
        suspended = passed if passed > _LONGEST_BETWEEN_LOOKS_S else 0.0
        self._phase_since += suspended
        self._progress += suspended
        if last is None or sight.phase != last.phase:
            self._phase_since = self._progress = now
        elif _moved(last, sight, passed - suspended):
            self._progress = now
        phase = sight.phase
        if phase is not None and phase.name == "other":
            self._progress = now
            return None
        still = now - self._progress
        if phase is not None and phase.name == "load":
            loading = now - self._phase_since
            if loading > self._limits.start_seconds:
                text = (
                    f"the engine of model '{phase.model}' did not start within {_minutes(loading)}"
                )
                return Overrun("start limit", text)
        tokens = phase.tokens if phase is not None else 0
        if still > max(self._limits.stall_seconds, tokens / SLOWEST_TOKENS_PER_SECOND):
            what = (
                f"a call of model '{phase.model}'"
                if phase is not None and phase.name == "generate"
                else "the trial"
            )
            return Overrun("stall limit", f"{what} made no progress for {_minutes(still)}")
        return None


def _moved(last: Sight, sight: Sight, passed: float) -> bool:
    """Return whether anything but the phase shows progress."""
    if (last.log_bytes, last.store_changed_ns) != (sight.log_bytes, sight.store_changed_ns):
        return True
    if sight.cpu_seconds is None or last.cpu_seconds is None:
        return False
    return sight.cpu_seconds - last.cpu_seconds > _BUSY_SHARE * passed


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"
