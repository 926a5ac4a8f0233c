"""What a search was expected to cost, before it began."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A range that a quantity is expected to be in."""

    low: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """What a search is expected to cost.

    Attributes:
        gpu_seconds: GPU-seconds of the trials' jobs.
        wall_seconds: Seconds from the first trial to the last, with waits in the queue.
        engine_starts: Engine starts.
        jobs: Jobs of trials.
        one_trial_a_job: GPU-seconds if each trial had a job of its own.
        assumptions: What was assumed, in sentences.
    """

    gpu_seconds: Span
    wall_seconds: Span
    engine_starts: Span
    jobs: Span
    one_trial_a_job: Span
    assumptions: tuple[str, ...] = ()
