"""What the rest of a search is expected to use, from its trials so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agenttts.run.progress import PlannedTrial
from agenttts.run.state import RunState
from agenttts.search.base import FIRST_SOURCE
from agenttts.spec.model import SearchSection
from agenttts.tables.cost import RunCost
from agenttts.tables.forecast import Forecast
from agenttts.tables.schema import (
    AFTER_SEARCH,
    CLOSING_SOURCES,
    FINALIST_SOURCE,
    TEST_SOURCE,
    TrialRow,
)


def iterations_left(search: SearchSection, state: RunState, iteration: int) -> int:
    """Return how many iterations may follow ``iteration``.

    It counts from 0, which is the iteration of the initial trials where there are such.
    """
    proposed = [t.planned for t in state.trials.values() if t.planned.source not in CLOSING_SOURCES]
    initial = any(p.source in ("initial", FIRST_SOURCE) for p in proposed)
    return max(0, search.iterations - iteration - (not initial))


def to_come(
    search: SearchSection,
    state: RunState,
    rows: Sequence[TrialRow],
    cost: RunCost | None,
    forecast: Forecast | None,
    iteration: int | None,
    frozen: Callable[[str], int],
) -> dict[str, Any] | None:
    """Return the trials that may still run and what they may use, as `ToComeDocument`.

    The lower bound is the GPU-seconds of the ended trials an example, times the examples of the
    trials to come. The upper bound adds the idle time and starts of their jobs. Before a trial has
    ended, both are from the forecast of the launch.

    Args:
        search: The run's search.
        state: The run's state.
        rows: The rows of the trials that have ended.
        cost: What the run has used.
        forecast: The forecast of the launch.
        iteration: The last iteration (`last_iteration`).
        frozen: Returns the number of frozen examples of a trial's source.

    Returns:
        The document; None if neither is known.
    """

    def size(planned: PlannedTrial) -> int:
        return frozen(planned.source) if planned.examples is None else len(planned.examples)

    unfinished = [t.planned for t in state.unfinished()]
    further = 0 if iteration is None else _further(search, state, iteration)
    closing = _closing_to_come(search, state)
    trials = None if iteration is None else len(unfinished) + further + sum(closing.values())
    ended = [row for row in rows if row.source not in AFTER_SEARCH]
    if iteration is None or not ended or cost is None:
        if forecast is None:
            return None
        span = {"low": forecast.gpu_seconds.low, "high": forecast.gpu_seconds.high}
        return {"trials": trials, "gpu_seconds": span, "measured": False}
    searched = [size(state.trials[row.trial].planned) for row in ended]
    examples = (
        sum(map(size, unfinished))
        + further * sum(searched) / len(searched)
        + sum(count * frozen(source) for source, count in closing.items())
    )
    known = sum(size(state.trials[row.trial].planned) for row in rows)
    alone = sum(row.gpu_seconds or 0.0 for row in rows) / known
    whole = max(alone, cost.gpu_seconds.used / known)
    span = {"low": round(alone * examples, 3), "high": round(whole * examples, 3)}
    return {"trials": trials, "gpu_seconds": span, "measured": True}


def _closing_to_come(search: SearchSection, state: RunState) -> dict[str, int]:
    """Return how many trials after the search may be proposed, by source.

    There may be fewer, if fewer allocations score.
    """
    asked = {
        FINALIST_SOURCE: search.finalists.top if search.finalists else 0,
        TEST_SOURCE: search.test_split.top if search.test_split else 0,
    }
    planned = {t.planned.source for t in state.closing}
    if TEST_SOURCE in planned:
        return {}
    return {source: count for source, count in asked.items() if count and source not in planned}


def _further(search: SearchSection, state: RunState, iteration: int) -> int:
    """Return how many trials of the search may still be proposed.

    An asynchronous search proposes them one by one, up to a total. The rest of its initial trials
    is not known here.
    """
    # After the first closing trial nothing is proposed, as after the user's end of the search.
    if state.finishing or state.closing:
        return 0
    if not search.asynchronous:
        return iterations_left(search, state, iteration) * search.batch_size
    proposed = [t.planned for t in state.trials.values() if t.planned.source not in CLOSING_SOURCES]
    initial = {p.iteration for p in proposed if p.source in ("initial", FIRST_SOURCE)}
    counted = sum(p.iteration not in initial for p in proposed)
    return max(0, search.iterations * search.batch_size - counted)
