"""Which trials one job evaluates together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agenttts.loop.job_lists import job_lists
from agenttts.run.progress import PlannedTrial, TrialProgress
from agenttts.space import Allocation, Choice

GPUS = {"small": 1, "large": 4}


def gpus(planned: PlannedTrial) -> int:
    return max(GPUS[choice.model] for choice in planned.allocation.choices)


def trial(number: int, *models: str, alone: bool = False) -> TrialProgress:
    allocation = Allocation(tuple(Choice(f"s{n}", model, 1) for n, model in enumerate(models)))
    planned = PlannedTrial(f"t{number:04}", 0, allocation, "initial", "", 1.0)
    return TrialProgress(planned, alone=alone)


def names(lists):
    return [[t.planned.trial for t in members] for members in lists]


def test_one_trial_a_job_keeps_the_order_of_the_trials():
    trials = [trial(0, "large", "small"), trial(1, "small", "small"), trial(2, "large", "large")]
    assert names(job_lists(trials, 1, gpus)) == [["t0000"], ["t0001"], ["t0002"]]


def test_trials_that_begin_with_the_same_models_go_together():
    order = [("small", "large"), ("large", "small"), ("small", "large"), ("large", "small")]
    trials = [trial(n, *models) for n, models in enumerate(order)]
    assert names(job_lists(trials, 2, gpus)) == [["t0000", "t0002"], ["t0001", "t0003"]]


def test_a_trial_that_has_to_run_alone_does():
    trials = [trial(n, "small", "small", alone=n == 1) for n in range(4)]
    assert names(job_lists(trials, 8, gpus)) == [["t0000", "t0002", "t0003"], ["t0001"]]


MODELS = st.sampled_from(sorted(GPUS))
TRIALS = st.lists(st.tuples(MODELS, MODELS, st.booleans()), max_size=30)


@given(TRIALS, st.integers(1, 9))
def test_every_trial_is_in_one_list_of_its_resource_class(kinds, most):
    trials = [trial(n, a, b, alone=alone) for n, (a, b, alone) in enumerate(kinds)]
    lists = job_lists(trials, most, gpus)
    assert sorted(name for members in names(lists) for name in members) == [
        t.planned.trial for t in trials
    ]
    for members in lists:
        assert 1 <= len(members) <= most
        assert len({gpus(t.planned) for t in members}) == 1
        assert len(members) == 1 or not any(t.alone for t in members)
        assert [t.planned.trial for t in members] == sorted(t.planned.trial for t in members)
    shared = [t for t in trials if not t.alone]
    for need in {gpus(t.planned) for t in shared}:
        mine = [m for m in lists if gpus(m[0].planned) == need and not m[0].alone]
        assert len(mine) == -(-sum(len(m) for m in mine) // most), "as few as possible"
        assert max(map(len, mine)) - min(map(len, mine)) <= 1
