"""What the rest of a search is expected to use."""

from __future__ import annotations

import pytest

from agenttts.run.progress import PlannedTrial, TrialProgress
from agenttts.run.state import RunState
from agenttts.spec.model import SearchSection
from agenttts.status.to_come import to_come
from agenttts.tables.forecast import Forecast, Span

SPAN = Span(100.0, 300.0)
FORECAST = Forecast(SPAN, SPAN, SPAN, SPAN, SPAN)
SEARCH = SearchSection(budget=10, iterations=3, batch_size=4)


def begun(*trials: tuple[int, str]) -> RunState:
    """A run whose trials, of these iterations and sources, have not ended."""
    return RunState(
        trials={
            f"t{number:04}": TrialProgress(
                PlannedTrial(f"t{number:04}", iteration, (), source, "", 1.0)
            )
            for number, (iteration, source) in enumerate(trials)
        }
    )


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([(0, "initial")], 1 + 3 * 4),
        ([(0, "first")], 1 + 3 * 4),
        ([(0, "random")], 1 + 2 * 4),
        ([(0, "random"), (1, "random"), (1, "random")], 3 + 4),
        ([(0, "random"), (2, "random")], 2),
        ([(0, "initial"), (3, "agent")], 2),
        ([(0, "random"), (2, "random"), (2, "finalist")], 3),
        ([(0, "random"), (0, "finalist")], 2),
    ],
)
def test_the_trials_of_the_iterations_to_come_are_counted(trials, expected):
    state = begun(*trials)
    last = max(iteration for iteration, source in trials if source != "finalist")
    document = to_come(SEARCH, state, [], None, FORECAST, last)
    assert document == {
        "trials": expected,
        "gpu_seconds": {"low": 100.0, "high": 300.0},
        "measured": False,
    }


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([(0, "initial")], 1 + 3 * 4),
        ([(0, "initial"), (1, "agent")], 2 + 3 + 2 * 4),
        ([(0, "initial"), *[(n, "agent") for n in (1, 2, 3) for _ in range(4)][:-1]], 12 + 1),
        ([(0, "random")], 1 + 3 + 2 * 4),
        ([*[(0, "random")] * 4], 4 + 2 * 4),
        ([*[(2, "random")] * 2, (2, "finalist")], 3),
    ],
)
def test_the_trials_that_an_asynchronous_search_may_still_propose(trials, expected):
    search = SEARCH.model_copy(update={"asynchronous": True})
    state = begun(*trials)
    last = max(iteration for iteration, _ in trials)
    document = to_come(search, state, [], None, FORECAST, last)
    assert document is not None
    assert document["trials"] == expected


def test_an_extended_asynchronous_search_gets_its_total():
    search = SEARCH.model_copy(update={"asynchronous": True})
    state = begun((0, "random"), (0, "finalist"))
    state.earlier_closing = {"t0001"}
    document = to_come(search, state, [], None, FORECAST, 0)
    assert document is not None
    assert document["trials"] == 2 + 3 * 4 - 1


def test_a_search_that_is_ended_early_has_only_its_unfinished_trials_to_come():
    state = begun((0, "initial"), (0, "initial"))
    state.finishing = True
    document = to_come(SEARCH, state, [], None, FORECAST, 0)
    assert document is not None
    assert document["trials"] == 2


def test_nothing_is_said_of_what_is_not_known():
    assert to_come(SEARCH, RunState(), [], None, None, None) is None
    assert to_come(SEARCH, begun((0, "initial")), [], None, None, 0) is None
