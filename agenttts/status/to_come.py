"""What the rest of a search is expected to use, from its trials so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agenttts.run.state import RunState
from agenttts.search.base import FIRST_SOURCE
from agenttts.spec.model import SearchSection
from agenttts.tables.cost import RunCost
from agenttts.tables.forecast import Forecast
from agenttts.tables.schema import AFTER_SEARCH, CLOSING_SOURCES, TrialRow


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
) -> dict[str, Any] | None:
    """Return the trials that may still run and what they may use, as `ToComeDocument`.

    The lower bound is the mean of the ended trials times the number of trials to come. The upper
    bound adds the idle time and starts of their jobs. Before a trial has ended, both are from the
    forecast of the launch.

    Returns:
        The document; None if neither is known.
    """
    unfinished = len(state.unfinished())
    if iteration is None:
        if forecast is None:
            return None
        span = {"low": forecast.gpu_seconds.low, "high": forecast.gpu_seconds.high}
        return {"trials": None, "gpu_seconds": span, "measured": False}
    trials = unfinished + _further(search, state, iteration)
    ended = [row for row in rows if row.source not in AFTER_SEARCH]
    if not ended or cost is None:
        if forecast is None:
            return None
        span = {"low": forecast.gpu_seconds.low, "high": forecast.gpu_seconds.high}
        return {"trials": trials, "gpu_seconds": span, "measured": False}
    alone = sum(row.gpu_seconds or 0.0 for row in rows) / len(rows)
    whole = max(alone, cost.gpu_seconds.used / len(rows))
    span = {"low": round(alone * trials, 3), "high": round(whole * trials, 3)}
    return {"trials": trials, "gpu_seconds": span, "measured": True}


def _further(search: SearchSection, state: RunState, iteration: int) -> int:
    """Return how many trials may still be proposed.

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
