"""Trials in parts: when leading or trailing stages go to a smaller worker."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agenttts.loop.assignment import Assignment, Policy, ResourceClass, Worker, assign
from agenttts.loop.list_cost import ModelCost, StageWork, TrialWork

COSTS = {
    "s": ModelCost(60.0, 2000.0, 20000.0, gpus=1),
    "m": ModelCost(100.0, 1000.0, 8000.0, gpus=2),
    "l": ModelCost(250.0, 700.0, 6000.0, gpus=4),
}
CLASSES = [ResourceClass(f"{gpus}", gpus, 8, sleep_gb=400) for gpus in (1, 2, 4)]
POLICY = Policy(hand_over=True)


def trial(name: str, *stages: tuple[str, float]) -> TrialWork:
    """A trial of (model, tokens to generate) stages; 0 tokens: all its samples are stored."""
    return TrialWork(
        name,
        tuple(
            StageWork(model, f"{name} {number}", 1000.0 if tokens else 0.0, tokens)
            for number, (model, tokens) in enumerate(stages)
        ),
    )


def parts(found: Assignment) -> dict[str, int]:
    return {t: n for part in (*found.lists, *found.new) for t, n in part.upto.items()}


def test_leading_stages_go_to_a_small_worker_before_a_large_one_starts() -> None:
    trials = [trial("t0", ("s", 3e5), ("l", 1e4)), trial("t1", ("s", 3e5), ("s", 1e4))]
    found = assign(trials, [], CLASSES, COSTS, POLICY)
    assert parts(found) == {"t0": 1}
    assert {part.gpus for part in found.new} == {1}
    assert {part.gpus for part in assign(trials, [], CLASSES, COSTS).new} == {1, 4}


def test_a_large_worker_that_runs_draws_leading_stages_itself() -> None:
    trials = [trial("t0", ("s", 3e5), ("l", 1e4))]
    found = assign(trials, [Worker("a", 4, awake="l", sleep_gb=400)], CLASSES, COSTS, POLICY)
    assert parts(found) == {}
    assert [part.worker for part in found.lists] == ["a"]


def test_long_trailing_stages_are_left_to_a_small_worker() -> None:
    long, short = (trial("t0", ("l", 1e4), ("s", tokens)) for tokens in (4e6, 1e4))
    assert parts(assign([long], [], CLASSES, COSTS, POLICY)) == {"t0": 1}
    assert parts(assign([short], [], CLASSES, COSTS, POLICY)) == {}


def test_a_wait_in_the_queue_may_cost_more_than_the_hand_over_saves() -> None:
    queued = [replace(each, queue_seconds=3600) for each in CLASSES]
    for one in (trial("t0", ("s", 3e5), ("l", 1e4)), trial("t0", ("l", 1e4), ("s", 4e6))):
        assert parts(assign([one], [], CLASSES, COSTS, POLICY)) == {"t0": 1}
        assert parts(assign([one], [], queued, COSTS, POLICY)) == {}


def test_a_part_that_would_go_to_a_large_worker_is_not_divided() -> None:
    """Only one worker may be started, and another trial needs the large one at once."""
    trials = [trial("t0", ("s", 3e5), ("l", 1e4)), trial("t1", ("l", 1e5))]
    one = replace(POLICY, most_new=1)
    found = assign(trials, [], CLASSES, COSTS, one)
    assert (parts(found), [part.gpus for part in found.new]) == ({}, [4])
    found = assign(trials[:1], [], CLASSES, COSTS, one)
    assert (parts(found), [part.gpus for part in found.new]) == ({"t0": 1}, [1])


def test_trailing_stages_are_left_to_another_worker_if_it_may_run_beside() -> None:
    long = trial("t0", ("l", 1e4), ("s", 4e6))
    large, small = Worker("a", 4, awake="l", sleep_gb=400), Worker("b", 1, sleep_gb=400)
    one = replace(POLICY, most_new=1)
    assert parts(assign([long], [], CLASSES, COSTS, one)) == {}
    assert parts(assign([long], [large], CLASSES, COSTS, one)) == {"t0": 1}
    assert parts(assign([long], [small], CLASSES, COSTS, one)) == {"t0": 1}


def test_leading_stages_are_drawn_by_a_small_worker_until_a_large_one_may_start() -> None:
    full = [replace(each, most=0) for each in CLASSES]
    small = Worker("b", 1, sleep_gb=400)
    found = assign([trial("t0", ("s", 3e5), ("l", 1e4))], [small], full, COSTS, POLICY)
    assert parts(found) == {"t0": 1}


def test_a_stage_without_missing_samples_may_need_its_worker() -> None:
    """Its model may have to fuse the samples, unless the trial itself has drawn it."""
    work = trial("t0", ("s", 3e5), ("l", 0.0))
    needed = replace(work, stages=(work.stages[0], replace(work.stages[1], least_gpus=4)))
    assert needed.gpus(COSTS) == 4
    assert needed.upto(1).gpus(COSTS) == 1
    assert needed.after(1).gpus(COSTS) == 4
    assert needed.after(2).gpus(COSTS) == 0
    [part] = assign([needed], [], CLASSES, COSTS, POLICY).new
    assert (part.gpus, dict(part.upto)) == (1, {"t0": 1})


def test_trials_that_run_alone_are_evaluated_whole() -> None:
    one = replace(trial("t0", ("s", 3e5), ("l", 1e4)), alone=True)
    assert parts(assign([one], [], CLASSES, COSTS, POLICY)) == {}


choices = st.tuples(st.sampled_from("sml"), st.sampled_from([0.0, 1e3, 1e5, 3e6]))


@given(
    st.lists(st.lists(choices, min_size=1, max_size=4), min_size=1, max_size=6),
    st.sampled_from([0.0, 60.0, 3600.0]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_trial_is_complete_after_a_bounded_number_of_hand_overs(
    drawn: list[list[tuple[str, float]]], queue: float, more: bool
) -> None:
    left = {f"t{i}": trial(f"t{i}", *stages) for i, stages in enumerate(drawn)}
    classes = [replace(each, queue_seconds=queue) for each in CLASSES]
    policy = replace(POLICY, more=more)
    for _ in range(5):  # one more than a trial has stages
        found = assign(list(left.values()), [], classes, COSTS, policy)
        assert not found.waiting
        assert not found.unfit
        for part in (*found.lists, *found.new):
            for name in part.trials:
                upto = part.upto.get(name)
                if upto is None:
                    del left[name]
                    continue
                missing = [stage for stage in left[name].stages[:upto] if not stage.empty]
                assert missing, "a part draws something"
                assert max(COSTS[stage.model].gpus for stage in missing) <= part.gpus
                left[name] = left[name].after(upto)
        if not left:
            return
    raise AssertionError(f"not complete: {sorted(left)}")
