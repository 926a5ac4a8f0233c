"""Which trials the run's workers get, and which jobs are started.

There are two planners behind one interface. `EvenLists` divides the trials into lists of at most N
(``trials_per_job: N``). `CostLists` weighs engine starts, samples and time by estimates
(``trials_per_job: auto``).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from agenttts.dispatch.base import Scheduler
from agenttts.loop.assignment import Assignment, Policy, ResourceClass, Worker, assign
from agenttts.loop.idling import worth_keeping
from agenttts.loop.job_lists import job_lists
from agenttts.loop.run_costs import RunCosts
from agenttts.loop.workers import LiveWorker, Workers
from agenttts.run.directory import Run
from agenttts.run.progress import PlannedTrial, TrialProgress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedList:
    """Trials that one job evaluates together.

    Attributes:
        trials: The trials, in order.
        gpus: GPUs of the job.
        worker: The worker that gets them; None: a job is started for them.
        seconds: How long they are expected to take; 0 if that is not known.
        upto: How many leading stages to draw, by trial, of trials that another job goes on with.
    """

    trials: tuple[TrialProgress, ...]
    gpus: int
    worker: LiveWorker | None = None
    seconds: float = 0.0
    upto: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ListPlan:
    """What is to be done now; trials in no list wait.

    Attributes:
        lists: The lists.
        together: The lists that are evaluated at the same time, those that wait included.
        retire: Names of workers that are to end.
    """

    lists: tuple[PlannedList, ...] = ()
    together: tuple[tuple[TrialProgress, ...], ...] = ()
    retire: tuple[str, ...] = ()


@dataclass(frozen=True)
class Moment:
    """What a planner has to know besides the trials.

    Attributes:
        workers: The workers that have not ended.
        free: How many jobs may be started.
        earlier_jobs: Returns the jobs of a trial's earlier attempts, which did not complete.
        retiring: Whether a worker without trials has been told to end: a place will soon be free.
        trials: All trials of the run.
        more: Whether further trials are expected after those that are planned.
        pause_seconds: Expected seconds from the end of an iteration to the next trials.
    """

    workers: Sequence[LiveWorker]
    free: int
    earlier_jobs: Callable[[TrialProgress], Collection[str]]
    trials: Collection[TrialProgress]
    retiring: bool = False
    more: bool = True
    pause_seconds: float = 0.0


class ListPlanner(ABC):
    """Plans lists of trials.

    A trial that has to run alone gets a job of its own, and a trial that failed in a job does not
    get the same job again. Only idle workers get lists: what is given cannot be taken back.

    Attributes:
        one_at_a_time: Whether only as many jobs are started as may run at a time.
    """

    one_at_a_time: ClassVar[bool]

    @abstractmethod
    def plan(self, due: Sequence[TrialProgress], now: Moment) -> ListPlan:
        """Return the lists of trials that have none, at least one trial."""

    def not_needed(self, now: Moment) -> tuple[str, ...]:
        """Return the workers that are to end although no trial waits."""
        return ()


def list_planner(
    run: Run, scheduler: Scheduler, gpus: Callable[[PlannedTrial], int], workers: Workers
) -> ListPlanner:
    """Return the planner of a run, by ``trials_per_job`` of its profile.

    Args:
        run: The run.
        scheduler: The scheduler of its trials.
        gpus: Returns the GPUs that a trial needs.
        workers: The run's workers.
    """
    per_job = run.profile.trials_per_job
    if per_job == "auto":
        return CostLists(RunCosts(run, scheduler), gpus, workers)
    return EvenLists(per_job, gpus)


class EvenLists(ListPlanner):
    """Lists of at most so many trials, of even lengths.

    Args:
        per_job: The most trials of a list.
        gpus: Returns the GPUs that a trial needs.
    """

    one_at_a_time = False

    def __init__(self, per_job: int, gpus: Callable[[PlannedTrial], int]) -> None:
        self._per_job = per_job
        self._gpus = gpus

    def plan(self, due: Sequence[TrialProgress], now: Moment) -> ListPlan:
        idle = [worker for worker in now.workers if worker.state == "idle"]
        shared = [trial for trial in due if not trial.alone]
        given: list[PlannedList] = []
        left = [trial for trial in due if trial.alone]
        for members in job_lists(shared, self._per_job, self._gpus) if idle else []:
            gpus, avoided = self._most_gpus(members), _jobs_to_avoid(members, now)
            fits = (w for w in idle if w.progress.gpus == gpus and w.progress.job_id not in avoided)
            worker = next(fits, None)
            if worker is None:
                left += members
            else:
                idle.remove(worker)
                given.append(PlannedList(tuple(members), gpus, worker))
        order = {trial.planned.trial: number for number, trial in enumerate(due)}
        left = left if idle or given else list(due)
        left.sort(key=lambda trial: order[trial.planned.trial])
        lists = job_lists(left, self._per_job, self._gpus)
        new = [PlannedList(tuple(m), self._most_gpus(m)) for m in lists[: max(0, now.free)]]
        return ListPlan(
            (*given, *new),
            tuple(tuple(m) for m in [*(entry.trials for entry in given), *lists]),
            # They can take none of these trials, and hold the places of those that could.
            tuple(w.progress.name for w in idle) if left and now.free <= 0 else (),
        )

    def not_needed(self, now: Moment) -> tuple[str, ...]:
        if now.more:
            return ()
        return tuple(w.progress.name for w in now.workers if w.state == "idle")

    def _most_gpus(self, members: Iterable[TrialProgress]) -> int:
        return max(self._gpus(trial.planned) for trial in members)


@dataclass
class CostLists(ListPlanner):
    """Lists by the estimated costs of engine starts, samples and time.

    Where the models of a run need different numbers of GPUs, a list may have only the leading
    stages of a trial (`agenttts.loop.hand_over`).

    Args:
        costs: The costs of the run.
        gpus: Returns the GPUs that a trial needs.
        workers: The run's workers.
    """

    costs: RunCosts
    gpus: Callable[[PlannedTrial], int]
    workers: Workers
    one_at_a_time: ClassVar[bool] = True
    _policy: Policy = field(default_factory=lambda: Policy(hand_over=True))

    def plan(self, due: Sequence[TrialProgress], now: Moment) -> ListPlan:
        by_name = {trial.planned.trial: trial for trial in due}
        alone = [trial for trial in due if trial.alone]
        new = [self._own_job(trial) for trial in alone[: max(0, now.free)]]
        waiting = list(alone[max(0, now.free) :])
        given: list[PlannedList] = []
        retire: set[str] = set()
        for avoided, members in _by_jobs_to_avoid([t for t in due if not t.alone], now).items():
            workers = {
                w.progress.name: w
                for w in now.workers
                if w.progress.job_id not in avoided
                and not any(w is entry.worker for entry in given)
            }
            found = self._assign(members, list(workers.values()), now.free - len(new), now)
            for entry in found.lists:
                trials = tuple(by_name[name] for name in entry.trials)
                worker = workers[entry.worker]
                # The others wait until that worker is idle, or until something better is found.
                if worker.state == "idle":
                    given.append(PlannedList(trials, entry.gpus, worker, entry.seconds, entry.upto))
            for entry in found.new:
                trials = tuple(by_name[name] for name in entry.trials)
                new.append(PlannedList(trials, entry.gpus, None, entry.seconds, entry.upto))
            for name, reason in found.unfit.items():
                log.info("%s gets a job of its own: %s", name, reason)
                if now.free > len(new):
                    new.append(self._own_job(by_name[name]))
                else:
                    waiting.append(by_name[name])
            retire |= set(found.retire)
            waiting += [by_name[name] for name in found.waiting]
        if waiting and now.free <= len(new) and not now.retiring:
            given, freed = self._free_a_place(waiting, given, now)
            retire |= freed
        busy = {entry.worker.progress.name for entry in given if entry.worker is not None}
        lists = (*given, *new)
        return ListPlan(lists, tuple(entry.trials for entry in lists), tuple(sorted(retire - busy)))

    def _free_a_place(
        self, waiting: Sequence[TrialProgress], given: list[PlannedList], now: Moment
    ) -> tuple[list[PlannedList], set[str]]:
        """Return the lists and a worker to end, so that a trial that waits gets a job.

        An idle worker without a list is ended, else one with too few GPUs for the trial, whose list
        waits in its place.
        """
        listed = {entry.worker.progress.name for entry in given if entry.worker is not None}
        idle = [w.progress.name for w in now.workers if w.state == "idle"]
        unused = [name for name in idle if name not in listed]
        if unused:
            return given, {unused[0]}
        most = max(self._gpus_left(trial) for trial in waiting)
        for entry in given:
            if entry.worker is not None and entry.worker.progress.gpus < most:
                return [p for p in given if p is not entry], {entry.worker.progress.name}
        return given, set()

    def not_needed(self, now: Moment) -> tuple[str, ...]:
        idle = [worker for worker in now.workers if worker.state == "idle"]
        if not idle:
            return ()
        described = {worker.progress.name: self._described(worker) for worker in idle}
        costs, policy = self.costs.models(), self._current_policy(now)
        classes = self.costs.classes(1, self.workers.waits)
        others = max((worker.busy_for for worker in now.workers), default=0.0)
        return tuple(
            name
            for name, worker in described.items()
            if not worth_keeping(
                worker,
                others + now.pause_seconds,
                costs,
                policy,
                min((c for c in classes if c.gpus >= worker.gpus), key=_gpus_of, default=None),
            )
        )

    def _gpus_left(self, trial: TrialProgress) -> int:
        """Return the GPUs that a trial needs, without those of stages that are drawn."""
        if trial.alone:
            return self.gpus(trial.planned)
        left = trial.planned.allocation.choices[trial.drawn :]
        return max((self.costs.basis.gpus[choice.model] for choice in left), default=0)

    def _own_job(self, trial: TrialProgress) -> PlannedList:
        return PlannedList((trial,), self.gpus(trial.planned))

    def _assign(
        self, trials: Sequence[TrialProgress], workers: Sequence[LiveWorker], free: int, now: Moment
    ) -> Assignment:
        described = [self._described(worker) for worker in workers]
        return assign(
            self.costs.works(trials, now.trials),
            described,
            self.costs.classes(max(0, free), self.workers.waits),
            self.costs.models(),
            replace(self._current_policy(now), most_new=max(0, free)),
        )

    def _described(self, live: LiveWorker) -> Worker:
        """Return a worker as the rule takes it."""
        worker = live.progress
        usage = self.costs.usage(worker.name)
        if live.state == "pending":  # an earlier start's engines have ended with it
            usage = None
        free_in = live.busy_for
        if live.state == "pending":
            # A job that has waited for long is expected to wait for half as long again.
            waits = self.costs.queue_seconds(self.workers.waits) - live.waits_for
            free_in += max(waits, live.waits_for / 2, 1.0) + self.costs.basis.boot_seconds
        return Worker(
            worker.name,
            worker.gpus,
            awake=usage.awake if usage else None,
            asleep=frozenset(usage.asleep if usage else ()),
            free_in=free_in,
            busy=live.state != "idle",
            time_left=self.costs.basis.time_limit - live.runs_for,
            sleep_gb=self.costs.basis.sleep_gb(worker.gpus),
            idle_for=live.waits_for if live.state == "idle" else 0.0,
        )

    def _current_policy(self, now: Moment) -> Policy:
        return replace(self._policy, more=now.more, pause_seconds=now.pause_seconds)


def _jobs_to_avoid(members: Iterable[TrialProgress], now: Moment) -> frozenset[str]:
    return frozenset(job for trial in members for job in now.earlier_jobs(trial))


def _by_jobs_to_avoid(
    trials: Iterable[TrialProgress], now: Moment
) -> dict[frozenset[str], list[TrialProgress]]:
    found: dict[frozenset[str], list[TrialProgress]] = {}
    for trial in trials:
        found.setdefault(_jobs_to_avoid([trial], now), []).append(trial)
    return found


def _gpus_of(found: ResourceClass) -> int:
    return found.gpus
