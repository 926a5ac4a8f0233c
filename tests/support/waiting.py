"""Waiting for a condition or for jobs, with a limit and a message that says what did not happen."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from agenttts.dispatch.base import JobStatus, Scheduler

T = TypeVar("T")


def until(
    condition: Callable[[], T], what: str = "", *, seconds: float = 60, pause: float = 0.05
) -> T:
    """Call ``condition`` until its value is true, and return that value.

    Args:
        condition: Called at least once, then every ``pause`` seconds.
        what: What is waited for, for the message; by default the source line of ``condition``.
        seconds: The limit.
        pause: Seconds between two calls.

    Raises:
        AssertionError: ``condition`` was still false after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(
                f"not within {seconds:g} s: {what or _source(condition)} (last value: {value!r})"
            )
        time.sleep(pause)
    return value


def until_ended(
    scheduler: Scheduler, job_ids: Iterable[str], *, seconds: float = 60
) -> dict[str, JobStatus]:
    """Poll until all jobs have ended, and return their statuses."""
    ids = list(job_ids)
    statuses: dict[str, JobStatus] = {}

    def ended() -> bool:
        statuses.update(scheduler.poll(ids))
        return all(status.ended for status in statuses.values())

    until(ended, f"the end of jobs {', '.join(ids)}", seconds=seconds)
    return statuses


def _source(condition: Callable[[], object]) -> str:
    """The first source line of a condition; its representation where there is no source."""
    try:
        return inspect.getsource(condition).strip().splitlines()[0]
    except (OSError, TypeError):
        return repr(condition)
