"""What a search is expected to cost: the assignment rule without a run.

Pure functions. The allocations are drawn at random from the space; the searcher's own are not
known. Each figure is a range between favourable and unfavourable assumptions.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agenttts.loop.assignment import Policy, TrialList, Worker, assign
from agenttts.loop.cost_basis import QUEUE_SECONDS, CostBasis
from agenttts.loop.estimates import (
    LOCAL_READ_RATE,
    SHARED_READ_RATE,
    ExamplesPart,
    stored_samples,
    trial_work,
)
from agenttts.loop.idling import worth_keeping
from agenttts.loop.list_cost import ModelCost, TrialWork, plan_engines, work_seconds
from agenttts.space import Allocation
from agenttts.tables.forecast import Forecast, Span

_SLOWER_STARTS = 1.5
_SLOWER_DRAWS = 2.0
"""How many times longer than estimated engine starts and draws may take; estimates from sizes alone
are wrong by up to a factor of two (`agenttts.loop.estimates`)."""
_PAUSE_S = 30.0
"""Seconds between two iterations, in the unfavourable case."""


@dataclass(frozen=True)
class Phase:
    """Trials evaluated at the same time: an iteration, or trials after the search.

    Args:
        allocations: Their allocations.
        examples: Number of their examples.
        file: Names the examples. Phases with the same ones share samples.
        own: Whether each trial has examples of its own.
    """

    allocations: Sequence[Allocation]
    examples: int
    file: str = ""
    own: bool = False


@dataclass(frozen=True)
class Bill:
    """What evaluating phases takes."""

    gpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    engine_starts: int = 0
    jobs: int = 0

    def __add__(self, following: Bill) -> Bill:
        """Return the bill of both, one after the other."""
        return Bill(
            self.gpu_seconds + following.gpu_seconds,
            self.wall_seconds + following.wall_seconds,
            self.engine_starts + following.engine_starts,
            self.jobs + following.jobs,
        )


def forecast(basis: CostBasis, phases: Sequence[Phase]) -> Forecast:
    """Return what the trials of a search are expected to cost.

    Args:
        basis: Its models, stages and profile.
        phases: Its trials, in order.
    """
    per_job = basis.profile.trials_per_job
    quick = _Case(basis, basis.estimates(read_rate=LOCAL_READ_RATE).model_costs(), 0.0, 0.0)
    read_rate = SHARED_READ_RATE if basis.queued else LOCAL_READ_RATE
    slow_costs = {
        name: replace(
            cost,
            start_seconds=cost.start_seconds * _SLOWER_STARTS,
            tokens_per_second=cost.tokens_per_second / _SLOWER_DRAWS,
            prompt_tokens_per_second=cost.prompt_tokens_per_second / _SLOWER_DRAWS,
        )
        for name, cost in basis.estimates(read_rate=read_rate).model_costs().items()
    }
    queued = QUEUE_SECONDS if basis.queued else 0.0
    slow = _Case(basis, slow_costs, queued, _PAUSE_S)
    cases = (quick, slow)
    single = [case.by_lists(phases, 1) for case in cases]
    bills = [
        case.by_costs(phases) if per_job == "auto" else case.by_lists(phases, per_job)
        for case in cases
    ]
    return Forecast(
        gpu_seconds=_span([bill.gpu_seconds for bill in bills]),
        wall_seconds=_span([bill.wall_seconds for bill in bills]),
        engine_starts=_span([bill.engine_starts for bill in bills]),
        jobs=_span([bill.jobs for bill in bills]),
        one_trial_a_job=_span([bill.gpu_seconds for bill in single]),
        assumptions=_assumptions(basis),
    )


def _span(values: Sequence[float]) -> Span:
    return Span(min(values), max(values))


def _assumptions(basis: CostBasis) -> tuple[str, ...]:
    gpus = any(size.gpus for size in basis.sizes.values())
    elsewhere = any(not size.loads for size in basis.sizes.values())
    queue = f"0 to {QUEUE_SECONDS:.0f} s in the queue a job" if basis.queued else "no queue"
    rates = (
        f"weights read at {SHARED_READ_RATE / 1e9:g} to {LOCAL_READ_RATE / 1e9:g} GB/s"
        if basis.queued
        else f"weights read at {LOCAL_READ_RATE / 1e9:g} GB/s"
    )
    return (
        "allocations drawn at random from those within the budget",
        "every prompt and sample as long as the stage's prompt_tokens and decode_tokens",
        *([f"GPU: {basis.gpu_text}"] if gpus else []),
        *(["models without GPU jobs as fast as on one A100"] if elsewhere else []),
        rates,
        queue,
        f"at worst engine starts {_SLOWER_STARTS:g} and samples {_SLOWER_DRAWS:g} times as long "
        "as estimated",
        "no failures, and without the jobs of the search's own model",
    )


@dataclass
class _Live:
    """A worker of the forecast; moments are seconds from the beginning of the search."""

    name: str
    gpus: int
    begun: float
    ends: float
    awake: str | None = None
    asleep: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Case:
    """A way in which things may go."""

    basis: CostBasis
    costs: Mapping[str, ModelCost]
    queue_seconds: float
    pause_seconds: float

    def works(self, phases: Sequence[Phase], number: int) -> list[TrialWork]:
        """Return what the trials of a phase have to draw after the earlier phases."""
        phase = phases[number]
        earlier = [p for p in phases[:number] if p.file == phase.file and not p.own]
        stored = stored_samples(a for p in earlier for a in p.allocations)
        return [
            trial_work(
                f"{number:03}-{position:04}",
                allocation,
                self.basis.tokens,
                [ExamplesPart(phase.examples, {} if phase.own else stored)],
                named=f" of {number}-{position}" if phase.own else "",
                gpus=self.basis.gpus,
            )
            for position, allocation in enumerate(phase.allocations)
        ]

    def by_costs(self, phases: Sequence[Phase]) -> Bill:
        """Return the bill of workers that get their trials by the assignment rule."""
        return _WorkerSearch(self).run(phases)

    def by_lists(self, phases: Sequence[Phase], per_job: int) -> Bill:
        """Return the bill of jobs of at most ``per_job`` trials.

        The jobs end with their trials.
        """
        bills = []
        for number in range(len(phases)):
            works = self.works(phases, number)
            works.sort(key=lambda work: (work.gpus(self.costs), str(work.signature)))
            lists = [works[at : at + per_job] for at in range(0, len(works), per_job)]
            bills.append(self.of_lists(lists))
        pauses = Bill(wall_seconds=self.pause_seconds * max(0, len(bills) - 1))
        return sum(bills, pauses)

    def of_lists(self, lists: Sequence[Sequence[TrialWork]]) -> Bill:
        """Return the bill of one job for each list, side by side."""
        used, starts, ends = 0.0, 0, [0.0] * self.basis.profile.max_running
        for works in lists:
            gpus = max(work.gpus(self.costs) for work in works)
            sleep_gb = self.basis.sleep_gb(gpus) if len(works) > 1 else 0.0
            engines = plan_engines(
                {work.signature for work in works}, self.costs, sleep_gb=sleep_gb
            )
            seconds = self.basis.boot_seconds + engines.seconds + work_seconds(works, self.costs)
            starts += len(engines.starts)
            used += seconds * gpus
            heapq.heapreplace(ends, ends[0] + self.queue_seconds + seconds)
        return Bill(used, max(ends), starts, len(lists))

    def described(self, worker: _Live, now: float) -> Worker:
        return Worker(
            worker.name,
            worker.gpus,
            awake=worker.awake,
            asleep=worker.asleep,
            free_in=max(0.0, worker.ends - now),
            time_left=self.basis.time_limit - (now - worker.begun),
            sleep_gb=self.basis.sleep_gb(worker.gpus),
        )


class _WorkerSearch:
    """A search whose workers get their trials by the assignment rule.

    ``bill.wall_seconds`` is the current moment.
    """

    def __init__(self, case: _Case) -> None:
        self._case = case
        self._bill = Bill()
        self._workers: dict[str, _Live] = {}

    def run(self, phases: Sequence[Phase]) -> Bill:
        """Evaluate the phases; return the bill."""
        stays = self._case.basis.profile.stays_for > 0
        for number in range(len(phases)):
            more = number + 1 < len(phases)
            policy = Policy(
                more=more and stays, pause_seconds=self._case.pause_seconds, hand_over=True
            )
            due = self._case.works(phases, number)
            for _ in range(2 * len(due) + 1):
                due = self._evaluate(due, policy) if due else []
            # What the rule never places gets jobs of its own.
            self._bill += self._case.of_lists([[work] for work in due])
            if more:
                self._bill += Bill(wall_seconds=self._case.pause_seconds)
        for worker in list(self._workers.values()):
            self._end(worker, self._now)
        return self._bill

    @property
    def _now(self) -> float:
        return self._bill.wall_seconds

    def _evaluate(self, due: Sequence[TrialWork], policy: Policy) -> list[TrialWork]:
        """Evaluate trials by the rule; return those that wait or are handed over."""
        case, now = self._case, self._now
        free = max(0, case.basis.profile.max_running - len(self._workers))
        found = assign(
            due,
            [case.described(worker, now) for worker in self._workers.values()],
            case.basis.classes(free, case.queue_seconds),
            case.costs,
            replace(policy, most_new=free),
        )
        for name in found.retire:
            worker = self._workers[name]
            self._end(worker, max(worker.ends, now))
        for entry in found.lists:
            _take(self._workers[entry.worker], entry, now)
        for entry in found.new:
            self._bill += Bill(jobs=1)
            name = f"w{self._bill.jobs:04}"
            self._workers[name] = _Live(name, entry.gpus, now + case.queue_seconds, now)
            _take(self._workers[name], entry, now)
        starts = sum(len(entry.engines.starts) for entry in (*found.lists, *found.new))
        own = case.of_lists([[work] for work in due if work.trial in found.unfit])
        took = max(found.makespan, own.wall_seconds)
        self._bill += Bill(0.0, took, starts) + replace(own, wall_seconds=0.0)
        waiting = [work for work in due if work.trial in found.waiting]
        upto = {t: n for entry in (*found.lists, *found.new) for t, n in entry.upto.items()}
        handed_over = [work.after(upto[work.trial]) for work in due if work.trial in upto]
        if waiting or not handed_over:
            self._end_idle(policy, every=bool(waiting))
        return waiting + handed_over

    def _end_idle(self, policy: Policy, *, every: bool) -> None:
        """End the workers that cost more than they save.

        Args:
            policy: What the rule weighs.
            every: End all of them, because they hold the places of trials that wait.
        """
        case = self._case
        for worker in list(self._workers.values()):
            idle = self._now - worker.ends + case.pause_seconds
            described = case.described(worker, worker.ends)
            if every or not worth_keeping(described, idle, case.costs, policy):
                self._end(worker, worker.ends)

    def _end(self, worker: _Live, moment: float) -> None:
        """End a worker at a moment."""
        self._bill += Bill(gpu_seconds=(moment - worker.begun) * worker.gpus)
        del self._workers[worker.name]


def _take(worker: _Live, entry: TrialList, now: float) -> None:
    """Let a worker evaluate a list."""
    worker.ends = now + entry.ends
    worker.awake, worker.asleep = entry.engines.awake, entry.engines.asleep
