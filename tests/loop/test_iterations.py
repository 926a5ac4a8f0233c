"""Which iteration the next trial of an asynchronous search belongs to."""

from __future__ import annotations

import pytest

from agenttts.loop.iterations import Iterations
from agenttts.run.progress import PlannedTrial, TrialProgress
from agenttts.run.state import RunState
from agenttts.space import Allocation, Choice
from agenttts.spec import SearchSection


def state_of(*iterations: int, told: int) -> RunState:
    """The state of a run whose trials have these iterations, of which so many are over."""
    state = RunState(told=told)
    for number, iteration in enumerate(iterations):
        allocation = Allocation((Choice("answer", "weak", 1 + number),))
        planned = PlannedTrial(f"t{number:04}", iteration, allocation, "initial", "", 1.0)
        state.trials[planned.trial] = TrialProgress(planned)
    return state


@pytest.mark.parametrize(
    ("iterations", "told", "initial", "upcoming", "to_come"),
    [
        ((), 0, 4, (0, 4), 10),
        ((0, 0), 0, 4, (0, 2), 8),
        ((0, 0, 0, 0), 0, 6, (0, 2), 8),  # the batch is not over, and gets more trials
        ((0, 0, 0, 0), 1, 6, (1, 3), 6),
        ((0, 0, 0, 0), 1, 3, (1, 3), 6),
        ((0, 0, 0, 0, 1, 1), 1, 8, (1, 1), 4),
        ((), 0, 0, (0, 3), 6),
        ((0, 0, 0), 1, 0, (1, 3), 3),
    ],
)
def test_an_initial_batch_that_is_over_gets_no_more_trials(
    iterations: tuple[int, ...], told: int, initial: int, upcoming: tuple[int, int], to_come: int
) -> None:
    """An extension, for example of the budget, may change how many the searcher wants."""
    search = SearchSection(budget=10.0, iterations=2, batch_size=3, asynchronous=True)
    found = Iterations(state_of(*iterations, told=told), search, initial)
    assert found.upcoming() == upcoming
    assert found.trials_to_come() == to_come
