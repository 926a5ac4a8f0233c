"""What the rest of a search is expected to use."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agenttts.run.progress import PlannedTrial, TrialProgress
from agenttts.run.rows import row_to_json
from agenttts.run.state import RunState
from agenttts.spec.model import SearchSection
from agenttts.status.to_come import to_come
from agenttts.tables.cost import MeasuredStart, RunCost, job_costs
from agenttts.tables.forecast import Forecast, Span
from agenttts.tables.schema import TrialRow
from tests.support.written_runs import trial as trial_row

SPAN = Span(100.0, 300.0)
FORECAST = Forecast(SPAN, SPAN, SPAN, SPAN, SPAN)
SEARCH = SearchSection(budget=10, iterations=3, batch_size=4)
CLOSING = SearchSection.model_validate(
    {
        "budget": 10,
        "iterations": 1,
        "batch_size": 4,
        "finalists": {"examples": 60, "top": 3},
        "test_split": {"top": 2},
    }
)
EXAMPLES = {"initial": 10, "random": 10, "finalist": 60, "test": 40}


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
    document = to_come(SEARCH, state, [], None, FORECAST, last, EXAMPLES.__getitem__)
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
    document = to_come(search, state, [], None, FORECAST, last, EXAMPLES.__getitem__)
    assert document is not None
    assert document["trials"] == expected


def test_an_extended_asynchronous_search_gets_its_total():
    search = SEARCH.model_copy(update={"asynchronous": True})
    state = begun((0, "random"), (0, "finalist"))
    state.earlier_closing = {"t0001"}
    document = to_come(search, state, [], None, FORECAST, 0, EXAMPLES.__getitem__)
    assert document is not None
    assert document["trials"] == 2 + 3 * 4 - 1


def test_a_search_that_is_ended_early_has_only_its_unfinished_trials_to_come():
    state = begun((0, "initial"), (0, "initial"))
    state.finishing = True
    document = to_come(SEARCH, state, [], None, FORECAST, 0, EXAMPLES.__getitem__)
    assert document is not None
    assert document["trials"] == 2


def test_nothing_is_said_of_what_is_not_known():
    for state, last in ((RunState(), None), (begun((0, "initial")), 0)):
        assert to_come(SEARCH, state, [], None, None, last, EXAMPLES.__getitem__) is None


def ended(state: RunState, *trials: str, seconds: float) -> list[TrialRow]:
    """Let trials end, each after these GPU-seconds an example; return their rows."""
    rows = []
    for trial in trials:
        planned = state.trials[trial].planned
        examples = len(planned.examples or ()) or EXAMPLES[planned.source]
        row = trial_row(
            int(trial[1:]), 0.5, 1.0, source=planned.source, gpu_seconds=seconds * examples
        )
        state.trials[trial].row = row_to_json(row)
        rows.append(row)
    return rows


def used(seconds: float) -> RunCost:
    """A run that used these GPU-seconds."""
    start = MeasuredStart("t0000", "1", "n1", 1, 1, 0.0, seconds, seconds, 0.0, 0.0)
    return RunCost(job_costs([start]), 0)


@pytest.mark.parametrize(
    ("trials", "over", "expected", "examples"),
    [
        # The batch that is open, the next one, finalists and final tests.
        ([(0, "random")] * 2, 1, 1 + 3 + 2, 10 + 3 * 60 + 2 * 40),
        ([(0, "initial")] * 2, 1, 1 + 4 + 3 + 2, 10 + 4 * 10 + 3 * 60 + 2 * 40),
        ([(0, "random")] * 2, 2, 3 + 2, 3 * 60 + 2 * 40),
        ([(0, "random"), *[(0, "finalist")] * 3], 1, 3 + 2, 3 * 60 + 2 * 40),
        ([(0, "random"), *[(0, "finalist")] * 3], 3, 1 + 2, 60 + 2 * 40),
        ([(0, "random"), *[(0, "finalist")] * 3], 4, 2, 2 * 40),
        ([(0, "random"), *[(0, "test")] * 2], 1, 2, 2 * 40),
        ([(0, "random"), *[(0, "finalist")] * 3, *[(0, "test")] * 2], 6, 0, 0),
    ],
)
def test_finalists_and_final_tests_count_with_their_examples(trials, over, expected, examples):
    state = begun(*trials)
    rows = ended(state, *list(state.trials)[:over], seconds=2.0)
    cost = used(1.5 * sum(row.gpu_seconds for row in rows))
    document = to_come(CLOSING, state, rows, cost, FORECAST, 0, EXAMPLES.__getitem__)
    assert document == {
        "trials": expected,
        "gpu_seconds": {
            "low": pytest.approx(2 * examples),
            "high": pytest.approx(3 * examples),
        },
        "measured": True,
    }


def test_trials_of_a_part_of_the_examples_count_with_that_part():
    state = begun((0, "initial"), (0, "initial"), (0, "initial"))
    for trial, examples in zip(state.trials.values(), (2, 4, 5), strict=True):
        trial.planned = replace(trial.planned, examples=tuple(range(examples)))
    rows = ended(state, "t0000", "t0001", seconds=2.0)
    document = to_come(CLOSING, state, rows, used(24.0), FORECAST, 0, EXAMPLES.__getitem__)
    assert document is not None
    # Trials that are not proposed yet: as many examples as the ended ones, on average.
    expected = 5 + 4 * 3 + 3 * 60 + 2 * 40
    assert document["gpu_seconds"]["low"] == pytest.approx(2 * expected)


def test_an_extended_run_has_its_finalists_again():
    state = begun((0, "random"), (0, "finalist"), (0, "test"))
    state.earlier_closing = {"t0001", "t0002"}
    document = to_come(CLOSING, state, [], None, FORECAST, 0, EXAMPLES.__getitem__)
    assert document is not None
    assert document["trials"] == 3 + 3 + 2
