"""Which trials workers get, and which jobs are started: both planners."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agenttts.dispatch.profile import Profile
from agenttts.dispatch.schedulers import create_scheduler
from agenttts.loop.list_planner import CostLists, EvenLists, ListPlan, ListPlanner, Moment
from agenttts.loop.run_costs import RunCosts
from agenttts.loop.workers import LiveWorker, Workers
from agenttts.run.directory import Run
from agenttts.run.journal import Journal
from agenttts.run.progress import PlannedTrial, TrialProgress, WorkerProgress
from agenttts.space import Allocation, Choice

MODELS = ("weak", "strong")


def trial(number: int, *choices: tuple[str, int], alone: bool = False) -> TrialProgress:
    stages = ("retrieval", "answer")
    allocation = Allocation(
        tuple(Choice(stage, *choice) for stage, choice in zip(stages, choices, strict=True))
    )
    planned = PlannedTrial(f"t{number:04}", 0, allocation, "random", "", 1.0)
    return TrialProgress(planned, alone=alone)


def gpus(planned: PlannedTrial) -> int:
    """The strong model needs two GPUs, the weak one."""
    return 2 if any(c.model == "strong" for c in planned.allocation.choices) else 1


def live(name: str, state: str = "idle", count: int = 2, **values: float) -> LiveWorker:
    return LiveWorker(WorkerProgress(name, "b", count, job_id=f"job-{name}"), state, **values)


def moment(
    *workers: LiveWorker, free: int = 8, earlier: dict[str, str] | None = None, more: bool = True
) -> Moment:
    def earlier_jobs(progress: TrialProgress) -> Collection[str]:
        job = (earlier or {}).get(progress.planned.trial)
        return () if job is None else (job,)

    return Moment(workers, free, earlier_jobs, (), more=more)


@pytest.fixture
def cost_lists(unstarted_run):
    directory = unstarted_run()
    record = directory.record()
    models = {
        name: replace(model, gpus=2 if name == "strong" else 1)
        for name, model in record.models.items()
    }
    sizes = {
        name: replace(size, gpus=models[name].gpus, loads=True)
        for name, size in record.sizes.items()
    }
    record = record.model_copy(update={"models": models, "sizes": sizes})
    profile = Profile(kind="slurm", gpus_per_node=4)
    run = Run(directory, directory.spec(), profile, record)
    workers = Workers(directory, Journal(directory.journal_file), profile.stays_for)
    return CostLists(
        RunCosts(run, create_scheduler(profile, directory.scheduler_logs)), gpus, workers
    )


@pytest.fixture(params=["even", "cost"])
def planner(request, cost_lists) -> ListPlanner:
    return EvenLists(3, gpus) if request.param == "even" else cost_lists


choices = st.tuples(st.sampled_from(MODELS), st.integers(1, 20))
trials_of = st.lists(st.tuples(choices, choices, st.booleans()), min_size=1, max_size=12).map(
    lambda found: [trial(n, a, b, alone=alone) for n, (a, b, alone) in enumerate(found)]
)
workers_of = st.lists(
    st.tuples(st.sampled_from(["idle", "busy", "pending"]), st.sampled_from([1, 2])), max_size=4
).map(lambda found: [live(f"w{n}", state, count) for n, (state, count) in enumerate(found)])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trials=trials_of, workers=workers_of, free=st.integers(0, 5), failed=st.booleans())
def test_every_trial_is_in_one_list_at_most_and_fits_there(planner, trials, workers, free, failed):
    earlier = {t.planned.trial: "job-w0" for t in trials} if failed else None
    plan = planner.plan(trials, moment(*workers, free=free, earlier=earlier))
    listed = [t.planned.trial for part in plan.lists for t in part.trials]
    assert len(listed) == len(set(listed))
    assert set(listed) <= {t.planned.trial for t in trials}
    new = [part for part in plan.lists if part.worker is None]
    assert len(new) <= free
    if free >= len(trials) and all(worker.state == "idle" for worker in workers):
        assert len(listed) == len(trials), "nothing waits while jobs may be started"
    for part in plan.lists:
        for t in part.trials:
            upto = part.upto.get(t.planned.trial)
            due = t.planned.allocation.choices[t.drawn : upto]
            assert part.gpus >= max(2 if choice.model == "strong" else 1 for choice in due)
            assert upto is None or (t.drawn < upto < 2 and not t.alone)
            assert upto is None or isinstance(planner, CostLists)
        if any(t.alone for t in part.trials):
            assert len(part.trials) == 1
            assert part.worker is None, "a job of its own"
        if part.worker is not None:
            assert part.worker.state == "idle"
            assert part.worker.progress.gpus >= part.gpus or part.gpus == part.worker.progress.gpus
            assert not (failed and part.worker.progress.name == "w0"), "not where it failed"
    given_to = {part.worker.progress.name for part in plan.lists if part.worker is not None}
    assert not given_to & set(plan.retire)


def test_idle_workers_do_not_hold_the_places_of_trials_that_they_cannot_take(planner):
    plan = planner.plan(
        [trial(0, ("strong", 1), ("strong", 1))], moment(live("w0", count=1), free=0)
    )
    assert plan.lists == ()
    assert plan.retire == ("w0",)


def test_trials_with_the_same_costly_model_go_together(cost_lists):
    due = [trial(n, ("strong", n + 1), ("strong", 1)) for n in range(6)]
    plan = cost_lists.plan(due, moment(free=8))
    assert len(plan.lists) < 6, "fewer engine starts than trials"
    assert sum(len(part.trials) for part in plan.lists) == 6


def test_a_worker_that_is_warm_gets_the_trials(cost_lists):
    [part] = cost_lists.plan(
        [trial(0, ("weak", 1), ("weak", 2))], moment(live("w0", count=1))
    ).lists
    assert part.worker is not None
    assert part.worker.progress.name == "w0"
    assert part.seconds > 0


def test_a_list_that_does_not_fit_the_time_limit_goes_elsewhere(cost_lists):
    worker = live("w0", count=1, runs_for=cost_lists.costs.basis.time_limit - 5)
    [part] = cost_lists.plan([trial(0, ("weak", 1), ("weak", 2))], moment(worker)).lists
    assert part.worker is None


def test_a_trial_that_fits_no_time_limit_gets_a_job_of_its_own(cost_lists):
    """It continues after the limit from its stored samples."""
    due = [trial(0, ("strong", 10**7), ("strong", 10**7)), trial(1, ("weak", 1), ("weak", 1))]
    plan = cost_lists.plan(due, moment())
    long = next(part for part in plan.lists if part.trials[0] is due[0])
    assert (long.worker, len(long.trials)) == (None, 1)
    assert sum(len(part.trials) for part in plan.lists) == 2


def test_idle_workers_end_when_nothing_follows(planner):
    assert planner.not_needed(moment(live("w0"), more=True)) == ()
    assert planner.not_needed(moment(live("w0"), more=False)) == ("w0",)
    assert planner.not_needed(moment(live("w0", "busy"), more=False)) == ()


def test_a_worker_that_has_idled_for_long_ends(cost_lists):
    """Its idling would cost more than starting its engines again."""
    assert cost_lists.not_needed(moment(live("w0", waits_for=10.0))) == ()
    assert cost_lists.not_needed(moment(live("w0", waits_for=3600.0))) == ("w0",)


def test_a_busy_worker_gets_no_list_and_an_idle_one_is_preferred(cost_lists):
    due = [trial(0, ("weak", 1), ("weak", 2))]
    busy = live("w0", "busy", count=1, busy_for=1.0)
    assert cost_lists.plan(due, moment(busy, free=0)).lists == (), "it waits for it"
    [part] = cost_lists.plan(due, moment(busy, live("w1", count=1), free=0)).lists
    assert part.worker is not None
    assert part.worker.progress.name == "w1"


def test_a_large_trial_gets_a_place_although_small_ones_keep_coming(cost_lists):
    """All places are taken by workers that it does not fit."""
    due = [trial(0, ("strong", 1), ("strong", 1)), trial(1, ("weak", 1), ("weak", 1))]
    plan = cost_lists.plan(due, moment(live("w0", count=1), free=0))
    assert (plan.lists, plan.retire) == ((), ("w0",))
    retiring = replace(moment(live("w1", count=1), free=0), retiring=True)
    plan = cost_lists.plan(due, retiring)
    assert plan.retire == (), "one place is enough"
    assert [t.planned.trial for part in plan.lists for t in part.trials] == ["t0001"]


def test_a_trial_goes_to_none_of_the_jobs_in_which_it_failed(cost_lists):
    due = [trial(0, ("weak", 1), ("weak", 2))]
    now = replace(
        moment(live("w0"), live("w1"), live("w2")), earlier_jobs=lambda _: {"job-w0", "job-w2"}
    )
    [part] = cost_lists.plan(due, now).lists
    assert part.worker is not None
    assert part.worker.progress.name == "w1"


@pytest.fixture
def no_queue(cost_lists):
    """The planner of a run whose jobs have started at once so far."""
    cost_lists.workers.waits.extend([0.0] * 3)
    return cost_lists


def parts(plan: ListPlan) -> dict[str, int]:
    return {trial: stages for part in plan.lists for trial, stages in part.upto.items()}


def test_leading_stages_of_a_small_model_go_to_a_small_job_and_the_rest_to_a_large_one(no_queue):
    due = trial(0, ("weak", 9), ("strong", 1))
    [part] = no_queue.plan([due], moment()).lists
    assert (part.gpus, part.upto) == (1, {"t0000": 1})
    due.drawn = 1
    [rest] = no_queue.plan([due], moment(live("w0", count=1))).lists
    assert (rest.gpus, rest.upto, rest.worker) == (2, {}, None)
    [rest] = no_queue.plan([due], moment(live("w0", count=2))).lists
    assert rest.worker is not None


def test_a_trial_that_runs_alone_or_has_one_size_of_models_is_evaluated_whole(no_queue):
    alone = trial(0, ("weak", 9), ("strong", 1), alone=True)
    plan = no_queue.plan([alone, trial(1, ("weak", 9), ("weak", 1))], moment())
    assert parts(plan) == {}
    assert sorted(part.gpus for part in plan.lists) == [1, 2]


def test_a_small_job_draws_parts_while_all_places_are_taken(no_queue):
    """The large job is started in its place when it has drawn them."""
    due = [trial(0, ("weak", 9), ("strong", 1)), trial(1, ("weak", 9), ("weak", 1))]
    worker = live("w0", count=1)
    plan = no_queue.plan(due, moment(worker, free=0))
    assert [part.worker for part in plan.lists] == [worker]
    assert parts(plan) == {"t0000": 1}
    assert plan.retire == ()
    due[0].drawn = 1
    plan = no_queue.plan(due[:1], moment(worker, free=0))
    assert (plan.lists, plan.retire) == ((), ("w0",))


def test_samples_of_a_part_are_stored_for_other_trials_too(no_queue):
    first = trial(0, ("weak", 9), ("strong", 1))
    first.drawn = 1
    second = trial(1, ("weak", 9), ("weak", 1))
    [work] = no_queue.costs.works([second], [first, second])
    assert work.stages[0].empty
    assert not work.stages[1].empty
    [work] = no_queue.costs.works([first], [first, second])
    assert [stage.least_gpus for stage in work.stages] == [0, 2]


def test_nothing_is_handed_over_where_jobs_wait_in_a_queue(no_queue):
    no_queue.workers.waits.extend([3600.0] * 9)
    assert parts(no_queue.plan([trial(0, ("weak", 9), ("strong", 1))], moment())) == {}


def test_a_rest_that_fits_small_jobs_does_not_end_one_that_has_a_list(no_queue):
    """It waits for another one, because it has failed in this."""
    due = [trial(0, ("strong", 1), ("weak", 9)), trial(1, ("weak", 9), ("weak", 1))]
    due[0].drawn = 1
    plan = no_queue.plan(due, moment(live("w0", count=1), free=0, earlier={"t0000": "job-w0"}))
    assert [t.planned.trial for part in plan.lists for t in part.trials] == ["t0001"]
    assert plan.retire == ()
