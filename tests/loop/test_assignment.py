"""Who evaluates which trials: every trial once, within limits, near the best makespan."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttts.loop.assignment import (
    Assignment,
    Policy,
    ResourceClass,
    Worker,
    assign,
    worth_keeping,
)
from agenttts.loop.list_cost import (
    ModelCost,
    StageWork,
    TrialWork,
    plan_engines,
    work_seconds,
)

PACKING_FACTOR = 1.5
"""How many times as long as the best the packing may be; the worst of 2,000 random cases is 1.24."""
FACTOR = Policy().slack * PACKING_FACTOR
"""The makespan, of these lists and of those given earlier, is at most this multiple of the shortest
one, counted from the earliest moment at which a worker can begin."""

COSTS = {
    "s": ModelCost(40.0, 4000.0, 40000.0, gpus=1, asleep_gb=6.0, first_sleep_seconds=8.0, sleep_seconds=0.3),
    "m": ModelCost(90.0, 1500.0, 12000.0, gpus=1, asleep_gb=20.0, first_sleep_seconds=14.0, sleep_seconds=0.3),
    "l": ModelCost(250.0, 700.0, 6000.0, gpus=4, asleep_gb=140.0, first_sleep_seconds=30.0, sleep_seconds=0.5),
}  # fmt: skip


def two_stages(
    name: str, first: str, k: int, second: str, j: int, *, alone: bool = False
) -> TrialWork:
    """A trial of 50 examples, as `first`×k → `second`×j."""
    return TrialWork(
        name,
        (
            StageWork(first, f"1 {first}", 50 * 2048.0, 50.0 * 128 * k),
            StageWork(second, f"2 {first}×{k} {second}", 50 * 256.0, 50.0 * 64 * j, 50 * 300.0, 50 * 64.0),
        ),
        alone,
    )  # fmt: skip


models = st.sampled_from(["s", "m", "l"])
counts = st.integers(1, 60)


@st.composite
def trial_lists(draw: st.DrawFn, most: int, alone: bool = False) -> list[TrialWork]:
    number = draw(st.integers(1, most))
    return [
        two_stages(
            f"t{i:04}", draw(models), draw(counts), draw(models), draw(counts),
            alone=alone and draw(st.integers(0, 4)) == 0,
        )
        for i in range(number)
    ]  # fmt: skip


@st.composite
def worker_lists(draw: st.DrawFn, most: int, limits: bool = True) -> list[Worker]:
    found = []
    for i in range(draw(st.integers(0, most))):
        gpus = draw(st.sampled_from([1, 4]))
        served = [name for name, cost in COSTS.items() if cost.gpus <= gpus]
        engines = draw(st.lists(st.sampled_from(served), unique=True))
        sleep_gb = draw(st.sampled_from([0.0, 30.0, 400.0]))
        time_left = draw(st.sampled_from([300.0, 2000.0, math.inf])) if limits else math.inf
        found.append(
            Worker(
                f"w{i}",
                gpus,
                awake=engines[0] if engines else None,
                asleep=frozenset(engines[1:]) if sleep_gb == 400 else frozenset(),
                free_in=draw(st.sampled_from([0.0, 0.0, 150.0])),
                time_left=time_left,
                sleep_gb=sleep_gb,
                models=draw(st.sampled_from([None, None, frozenset({"s", "m"})])),
            )
        )
    return found


@st.composite
def class_lists(draw: st.DrawFn, most: int, limits: bool = True) -> list[ResourceClass]:
    return [
        ResourceClass(
            f"{gpus} GPUs",
            gpus,
            draw(st.integers(0, most)),
            queue_seconds=draw(st.sampled_from([0.0, 60.0, 3600.0])),
            start_seconds=20.0,
            time_limit=draw(st.sampled_from([900.0, 14400.0])) if limits else math.inf,
            sleep_gb=draw(st.sampled_from([0.0, 400.0])),
        )
        for gpus in (1, 4)
    ]


def ends_of(
    trials: list[TrialWork],
    begins: float,
    awake: str | None,
    asleep: frozenset[str],
    sleep_gb: float,
) -> float:
    plan = plan_engines(
        {t.signature for t in trials}, COSTS, awake=awake, asleep=asleep, sleep_gb=sleep_gb
    )
    return begins + plan.seconds + work_seconds(trials, COSTS)


def places(workers: list[Worker], classes: list[ResourceClass]) -> list[tuple[int, frozenset[str] | None, float, str | None, frozenset[str], float]]:  # fmt: skip
    """All that lists can be given to: (gpus, models, begins, awake, asleep, sleep_gb)."""
    return [(w.gpus, w.models, w.free_in, w.awake, w.asleep, w.sleep_gb) for w in workers] + [
        (c.gpus, c.models, c.queue_seconds + c.start_seconds, None, frozenset(), c.sleep_gb)
        for c in classes
        for _ in range(c.most)
    ]


def least_makespan(trials: list[TrialWork], workers: list[Worker], classes: list[ResourceClass]) -> float:  # fmt: skip
    """The shortest makespan of all assignments, found by trying each."""
    best = math.inf
    available = places(workers, classes)
    for choice in itertools.product(range(len(available)), repeat=len(trials)):
        lists: dict[int, list[TrialWork]] = {}
        for trial, place in zip(trials, choice, strict=True):
            lists.setdefault(place, []).append(trial)
        ends = 0.0
        for place, members in lists.items():
            gpus, served, begins, awake, asleep, sleep_gb = available[place]
            needed = {model for t in members for model in t.signature if model}
            if gpus < max(t.gpus(COSTS) for t in members) or not needed <= (served or needed):
                ends = math.inf
                break
            ends = max(ends, ends_of(members, begins, awake, asleep, sleep_gb))
            if ends >= best:
                break
        best = min(best, ends)
    return best


def earliest(workers: list[Worker], classes: list[ResourceClass]) -> float:
    return min((place[2] for place in places(workers, classes)), default=0.0)


def placed(assignment: Assignment) -> list[str]:
    return sorted(t for part in (*assignment.lists, *assignment.new) for t in part.trials)


@given(trial_lists(5, alone=True), worker_lists(2), class_lists(2))
@settings(max_examples=50)
def test_trials_from_10000_on_are_placed_as_those_before(trials, workers, classes):
    later = {t.trial: f"t{int(t.trial[1:]) + 9998:04}" for t in trials}
    before = assign(trials, workers, classes, COSTS)
    after = assign([replace(t, trial=later[t.trial]) for t in trials], workers, classes, COSTS)
    for one, other in ((before.lists, after.lists), (before.new, after.new)):
        assert [[later[t] for t in each.trials] for each in one] == [list(each.trials) for each in other]  # fmt: skip
    assert [later[t] for t in before.waiting] == list(after.waiting)


@given(trial_lists(12, alone=True), worker_lists(4), class_lists(3), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_trial_is_assigned_once_or_said_not_to_fit(
    trials: list[TrialWork], workers: list[Worker], classes: list[ResourceClass], more: bool
) -> None:
    found = assign(trials, workers, classes, COSTS, Policy(more=more))
    everything = [*placed(found), *found.waiting, *found.unfit]
    assert sorted(everything) == [t.trial for t in trials]
    names = [part.worker for part in found.lists]
    assert len(set(names)) == len(names)
    assert set(names) <= {w.name for w in workers}
    assert not set(names) & set(found.retire)
    for each in classes:
        assert sum(part.worker == each.name for part in found.new) <= each.most


@given(trial_lists(12, alone=True), worker_lists(4), class_lists(3))
@settings(max_examples=150, deadline=None)
def test_lists_respect_resources_time_limits_and_trials_that_run_alone(
    trials: list[TrialWork], workers: list[Worker], classes: list[ResourceClass]
) -> None:
    policy = Policy()
    found = assign(trials, workers, classes, COSTS, policy)
    by_name = {t.trial: t for t in trials}
    existing = {w.name: w for w in workers}
    startable = {c.name: c for c in classes}
    for part in (*found.lists, *found.new):
        members = [by_name[name] for name in part.trials]
        place = existing.get(part.worker) or startable[part.worker]
        needed = {model for t in members for model in t.signature if model}
        assert max(t.gpus(COSTS) for t in members) <= place.gpus == part.gpus
        assert needed <= (place.models or needed)
        assert len(members) == 1 or not any(t.alone for t in members)
        if isinstance(place, Worker):
            left = place.time_left - place.free_in
            ends = ends_of(members, place.free_in, place.awake, place.asleep, place.sleep_gb)
        else:
            left = place.time_limit - place.start_seconds
            ends = ends_of(
                members,
                place.queue_seconds + place.start_seconds,
                None,
                frozenset(),
                place.sleep_gb,
            )
        assert part.ends == pytest.approx(ends)
        assert part.seconds * policy.time_margin <= left * (1 + 1e-9)


@given(trial_lists(15), worker_lists(3), class_lists(4))
@settings(max_examples=150, deadline=None)
def test_engines_start_for_no_longer_than_with_one_trial_a_worker(
    trials: list[TrialWork], workers: list[Worker], classes: list[ResourceClass]
) -> None:
    found = assign(trials, workers, classes, COSTS)
    by_name = {t.trial: t for t in trials}
    sleep_gb = max(place.sleep_gb for place in (*workers, *classes))
    apart = math.fsum(
        plan_engines([by_name[name].signature], COSTS, sleep_gb=sleep_gb).start_seconds
        for name in placed(found)
    )
    assert found.start_seconds <= apart * (1 + 1e-9)


@given(trial_lists(5), worker_lists(2, limits=False), class_lists(1, limits=False))
@settings(max_examples=150, deadline=None)
def test_the_makespan_is_within_the_factor_of_the_best(
    trials: list[TrialWork], workers: list[Worker], classes: list[ResourceClass]
) -> None:
    found = assign(trials, workers, classes, COSTS)
    possible = [t for t in trials if t.trial not in found.unfit and t.trial not in found.waiting]
    if not possible:
        return
    begin = earliest(workers, classes)
    earlier = max((worker.free_in for worker in workers), default=0.0)
    least = max(least_makespan(possible, workers, classes), earlier) - begin
    assert found.makespan - begin <= FACTOR * least
    fastest = assign(trials, workers, classes, COSTS, Policy(slack=1.0, gpu_weight=0.0))
    assert fastest.makespan - begin <= PACKING_FACTOR * least * (1 + 1e-9)


@given(
    trial_lists(12, alone=True),
    worker_lists(4),
    class_lists(3),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_arguments_does_not_matter(
    trials: list[TrialWork], workers: list[Worker], classes: list[ResourceClass], random: object
) -> None:
    first = assign(trials, workers, classes, COSTS)
    for part in (trials, workers, classes):
        random.shuffle(part)  # type: ignore[attr-defined]
    assert assign(trials, workers, classes, COSTS) == first
    assert assign(trials, workers, classes, dict(reversed(COSTS.items()))) == first


@given(
    trial_lists(10), worker_lists(3, limits=False), class_lists(2, limits=False),
    st.sampled_from([1, 4]),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_a_further_free_worker_does_not_make_it_longer_beyond_the_factor(
    trials: list[TrialWork], workers: list[Worker], classes: list[ResourceClass], gpus: int
) -> None:
    before = assign(trials, workers, classes, COSTS)
    after = assign(trials, [*workers, Worker("x", gpus, sleep_gb=400)], classes, COSTS)
    assert set(after.waiting) <= set(before.waiting)
    if placed(before) == placed(after):
        earlier = max((worker.free_in for worker in workers), default=0.0)
        assert after.makespan <= FACTOR * max(before.makespan, earlier)


def test_trials_of_one_costly_model_go_together_where_the_makespan_allows() -> None:
    """The first samples of one model are drawn once, and its engine starts once."""
    trials = [two_stages(f"t{i}", "m", 4 + i, "s", 2) for i in range(4)]
    trials += [two_stages(f"u{i}", "s", 4 + i, "s", 2) for i in range(4)]
    found = assign(trials, [], [ResourceClass("one", 1, 8, sleep_gb=400)], COSTS)
    holders = [part for part in found.new if "m" in part.engines.starts]
    assert len(holders) == 1


def test_work_that_pays_for_further_engine_starts_is_spread() -> None:
    trials = [two_stages(f"t{i:02}", "m", 60, "s", 60 + i) for i in range(8)]
    trials += [two_stages(f"u{i:02}", "s", 100 + i, "m", 400 + i) for i in range(16)]
    found = assign(trials, [], [ResourceClass("one", 1, 8, sleep_gb=400)], COSTS)
    assert 3 <= len(found.new) <= 8
    longest, shortest = (f(part.seconds for part in found.new) for f in (max, min))
    assert longest < 2 * shortest


def test_a_worker_that_has_the_engines_is_preferred_to_a_start() -> None:
    trials = [two_stages("t0", "m", 4, "s", 2)]
    workers = [Worker("a", 1), Worker("b", 1, awake="m", asleep=frozenset({"s"}), sleep_gb=400)]
    found = assign(trials, workers, [ResourceClass("one", 1, 5)], COSTS)
    assert [part.worker for part in found.lists] == ["b"]
    assert found.start_seconds == 0
    assert found.new == ()


def test_a_worker_that_is_busy_is_waited_for_if_the_iteration_gets_no_longer() -> None:
    busy = Worker("a", 4, awake="l", free_in=800, busy=True, sleep_gb=400)
    short = Worker("b", 4, awake="l", free_in=500, busy=True, sleep_gb=400)
    trials = [two_stages("t0", "l", 1, "l", 1)]
    found = assign(trials, [busy, short], [ResourceClass("four", 4, 3)], COSTS)
    assert found.new == ()
    assert [part.worker for part in found.lists] == ["b"]


def test_one_large_worker_that_starts_at_once_takes_all_trials() -> None:
    """Its engines cannot sleep, and the models of the trials alternate."""
    trials = [
        two_stages("t0", "l", 11, "l", 46), two_stages("t1", "s", 36, "l", 2),
        two_stages("t2", "s", 29, "m", 49), two_stages("t3", "s", 7, "s", 51),
        two_stages("t4", "m", 56, "m", 28), two_stages("t5", "m", 50, "m", 7),
    ]  # fmt: skip
    four = ResourceClass("four", 4, 1)
    one = ResourceClass("one", 1, 2, queue_seconds=3600, sleep_gb=400)
    found = assign(trials, [], [one, four], COSTS)
    assert [part.worker for part in found.new] == ["four"]


def test_small_trials_stay_off_large_workers() -> None:
    trials = [two_stages("t0", "m", 4, "s", 2), two_stages("t1", "m", 4, "l", 2)]
    classes = [ResourceClass("one", 1, 5, sleep_gb=400), ResourceClass("four", 4, 5, sleep_gb=400)]
    found = assign([trials[0]], [], classes, COSTS)
    assert [part.worker for part in found.new] == ["one"]
    found = assign([trials[1]], [], classes, COSTS)
    assert [part.worker for part in found.new] == ["four"]


def test_a_long_queue_is_not_waited_for_where_a_worker_is_free() -> None:
    trials = [two_stages(f"t{i}", "m", 10, "s", 10 + i) for i in range(10)]
    worker = Worker("a", 1, awake="m", asleep=frozenset({"s"}), sleep_gb=400)
    found = assign(trials, [worker], [ResourceClass("one", 1, 9, queue_seconds=3600)], COSTS)
    assert found.new == ()
    assert len(found.lists[0].trials) == 10


def test_a_reserved_worker_takes_only_its_trials() -> None:
    trials = [two_stages("t0", "s", 4, "s", 2), two_stages("t1", "s", 4, "s", 2)]
    worker = Worker("a", 1, awake="s", reserved_for=frozenset({"t1"}))
    found = assign(trials, [worker], [], COSTS)
    assert [(part.worker, part.trials) for part in found.lists] == [("a", ("t1",))]
    assert list(found.unfit) == ["t0"]


def test_a_trial_alone_waits_where_it_would_take_the_others_last_worker() -> None:
    trials = [two_stages("t0", "s", 4, "s", 2, alone=True), two_stages("t1", "s", 4, "s", 2)]
    found = assign(trials, [Worker("a", 1)], [], COSTS)
    assert [part.trials for part in found.lists] == [("t1",)]
    assert list(found.waiting) == ["t0"]
    found = assign(trials, [Worker("a", 1)], [ResourceClass("one", 1, 1)], COSTS)
    assert not found.waiting
    assert len(found.lists) == len(found.new) == 1


def test_the_most_new_workers_bound_all_classes_together() -> None:
    trials = [two_stages(f"t{i}", "m", 60, "l" if i % 2 else "s", 300 + i) for i in range(12)]
    trials.append(two_stages("t9alone", "s", 4, "s", 2, alone=True))
    classes = [ResourceClass("one", 1, 5), ResourceClass("four", 4, 5)]
    assert len(assign(trials, [], classes, COSTS).new) > 2
    found = assign(trials, [], classes, COSTS, Policy(most_new=2))
    assert len(found.new) == 2
    assert sorted([*placed(found), *found.waiting]) == sorted(t.trial for t in trials)


def test_a_trial_that_no_time_limit_allows_is_said_not_to_fit() -> None:
    trials = [two_stages("t0", "l", 40, "l", 2), two_stages("t1", "l", 1, "l", 2)]
    found = assign(trials, [], [ResourceClass("four", 4, 1, time_limit=600)], COSTS)
    assert placed(found) == ["t1"]
    assert "time limits leave at most 480 s" in found.unfit["t0"]
    found = assign(trials, [Worker("a", 1)], [ResourceClass("one", 1, 3)], COSTS)
    assert set(found.unfit) == {"t0", "t1"}
    assert "has 4 GPUs and serves l" in found.unfit["t0"]


def test_trials_wait_for_workers_that_may_be_started_later() -> None:
    found = assign([two_stages("t0", "s", 1, "s", 1)], [], [ResourceClass("one", 1, 0)], COSTS)
    assert list(found.waiting) == ["t0"]


def test_idle_workers_end_when_nothing_follows_or_idling_costs_more_than_a_start() -> None:
    trials = [two_stages("t0", "s", 1, "s", 1)]
    idle = Worker("b", 4, awake="l", asleep=frozenset({"m"}), sleep_gb=400)
    workers = [Worker("a", 1, awake="s"), idle]
    classes = [ResourceClass("four", 4, 3)]
    assert assign(trials, workers, classes, COSTS, Policy(more=False)).retire == ("b",)
    assert assign(trials, workers, classes, COSTS).retire == ()
    assert assign(trials, workers, classes, COSTS, Policy(pause_seconds=600)).retire == ("b",)
    # An hour in the queue is worth a quarter of an hour's idling.
    busy = [replace(classes[0], queue_seconds=3600)]
    assert assign(trials, workers, busy, COSTS, Policy(pause_seconds=600)).retire == ()
    assert not worth_keeping(replace(idle, time_left=400), 100, COSTS, Policy(), busy[0])


def test_a_worker_that_is_longer_at_its_list_than_expected_is_not_retired() -> None:
    late = Worker("a", 1, awake="s", free_in=0.0, busy=True)
    assert assign([], [late], [], COSTS, Policy(more=False)).retire == ()
    assert assign([], [replace(late, busy=False)], [], COSTS, Policy(more=False)).retire == ("a",)


def test_idling_adds_up() -> None:
    """A worker that is seldom used ends, also if each of its waits is short."""
    worker = Worker("a", 4, awake="l", sleep_gb=400)
    four = ResourceClass("four", 4, 3)
    assert worth_keeping(worker, 100, COSTS, Policy(), four)
    assert not worth_keeping(replace(worker, idle_for=200), 100, COSTS, Policy(), four)


def test_trials_without_missing_samples_need_no_engine() -> None:
    stored = TrialWork("t0", (StageWork("l", "g", 0, 0),))
    found = assign([stored], [Worker("a", 1)], [], COSTS)
    assert placed(found) == ["t0"]
    assert found.gpu_seconds == 0


def test_shared_samples_count_once() -> None:
    trials = [two_stages("t0", "m", 8, "s", 2), two_stages("t1", "m", 20, "s", 2)]
    both = work_seconds(trials, COSTS)
    apart = sum(work_seconds([t], COSTS) for t in trials)
    common = COSTS["m"].draw_seconds(50 * 2048, 50 * 128 * 8)
    assert both == pytest.approx(apart - common)


def test_five_thousand_trials_and_fifty_workers_take_little_time() -> None:
    """Measured: 0.4 s of CPU. The bound allows for a slow machine."""
    names = ["s", "m", "l"]
    trials = [
        two_stages(f"t{i:04}", names[i % 3], 1 + i * 7 % 60, names[i // 3 % 3], 1 + i * 11 % 60)
        for i in range(5000)
    ]
    workers = [Worker(f"w{i}", 4 if i % 2 else 1, sleep_gb=400, time_left=14400) for i in range(50)]
    began = time.process_time()
    found = assign(trials, workers, [], COSTS)
    assert time.process_time() - began < 3.0
    assert len(placed(found)) == 5000


@given(
    st.lists(st.tuples(models, models, models), min_size=1, max_size=6, unique=True),
    st.sampled_from([0.0, 25.0, 165.0, 400.0]),
)
@settings(max_examples=200, deadline=None)
def test_an_engine_plan_serves_every_trial_stage_by_stage(
    signatures: list[tuple[str, str, str]], sleep_gb: float
) -> None:
    plan = plan_engines(signatures, COSTS, sleep_gb=sleep_gb)
    for signature in signatures:
        visits = iter(plan.visits)
        current = next(visits)
        for model in signature:
            while current != model:
                current = next(visits)  # StopIteration: the order does not serve the trial
    assert set(plan.starts) == {model for signature in signatures for model in signature}
    apart = sum(plan_engines([s], COSTS, sleep_gb=sleep_gb).start_seconds for s in signatures)
    assert plan.start_seconds <= apart + 1e-9
    if sleep_gb == 400:
        assert len(plan.starts) == len(set(plan.starts))


def test_engines_that_cannot_sleep_are_loaded_in_the_order_that_loads_least() -> None:
    plan = plan_engines([("s", "m"), ("m", "s"), ("s", "s")], COSTS)
    assert len(plan.starts) == 3  # the last model of a stage is the first of the next
    plan = plan_engines([("s", "s"), ("m", "m")], COSTS, awake="m")
    assert plan.starts == ("s",)
