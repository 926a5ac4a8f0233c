"""A cluster in discrete events, and three ways of evaluating a search's trials on it."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from agenttts.loop.assignment import Policy, ResourceClass, Worker, assign, worth_keeping
from agenttts.loop.estimates import (
    DrawRecord,
    Estimates,
    ExamplesPart,
    Gpu,
    StartRecord,
    Throughput,
    expected_wait,
    start_seconds,
    trial_work,
)
from agenttts.loop.list_cost import ModelCost, StageWork, TrialWork, plan_engines
from agenttts.space import Allocation
from benchmarks.cost.scales import Scale


@dataclass(frozen=True)
class Cluster:
    """What the simulated cluster is like.

    Args:
        gpu: Its GPUs.
        queue_seconds: Wait of each job in the queue.
        failures_per_hour: Node failures in an hour of a node's time.
        time_limit: Time limit of a job.
        slower_starts: How many times the estimated seconds an engine start takes.
        slower_draws: The same for drawing samples.
        start_noise: Standard deviation of the logarithm of an engine start's seconds.
        draw_noise: The same for a draw.
        boot_seconds: From a job's start to its first engine start.
        pause_seconds: From the end of an iteration to the next iteration's trials.
        sleep_gb_per_gpu: Memory of the node for engines that are asleep, for each GPU.
        most_jobs: The most jobs at a time.
    """

    gpu: Gpu
    queue_seconds: float = 0.0
    failures_per_hour: float = 0.0
    time_limit: float = 4 * 3600.0
    slower_starts: float = 1.2
    slower_draws: float = 1.15
    start_noise: float = 0.15
    draw_noise: float = 0.1
    boot_seconds: float = 15.0
    pause_seconds: float = 30.0
    sleep_gb_per_gpu: float = 110.0
    most_jobs: int = 16


@dataclass
class Bill:
    """What a way of evaluating a search costs."""

    gpu_seconds: float = 0.0
    start_gpu_seconds: float = 0.0
    draw_gpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    starts: int = 0
    jobs: int = 0
    lost_jobs: int = 0
    evaluated: int = 0
    unfit: int = 0

    @property
    def gpu_hours(self) -> float:
        """GPU-hours in all."""
        return self.gpu_seconds / 3600


class Truth:
    """The times that things take, which the controller only estimates."""

    def __init__(self, scale: Scale, cluster: Cluster, seed: int) -> None:
        self._sizes = scale.models
        self._scale = scale
        self._cluster = cluster
        self._rng = random.Random(f"truth/{scale.name}/{seed}")
        self._compiled: set[str] = set()
        self.estimated = Estimates(scale.models, cluster.gpu, compiled=True)

    def start(self, model: str) -> float:
        """Seconds of an engine start; the first one of a model fills the cache of compiled code."""
        known = model in self._compiled
        self._compiled.add(model)
        noise = math.exp(self._rng.gauss(0.0, self._cluster.start_noise))
        return (
            start_seconds(self._sizes[model], compiled=known) * self._cluster.slower_starts * noise
        )

    def draw(self, model: str, prompt: float, decode: float, stage: str) -> float:
        """Seconds of drawing so many tokens at a stage, in calls of all samples at once."""
        prompt_tokens, decode_tokens = self._scale.tokens[stage]
        sequences = decode / decode_tokens
        noise = math.exp(self._rng.gauss(0.0, self._cluster.draw_noise))
        rates = Throughput(self._sizes[model], self._cluster.gpu)
        seconds = rates.call_seconds(prompt, decode, sequences, prompt_tokens + decode_tokens / 2)
        return seconds * self._cluster.slower_draws * noise

    def lifetime(self) -> float:
        """Seconds until a node fails."""
        rate = self._cluster.failures_per_hour
        return self._rng.expovariate(rate) * 3600 if rate else math.inf


def stage_draws(trials: Sequence[TrialWork], scale: Scale) -> list[tuple[str, str, float, float]]:
    """The distinct samples of a list: (stage, model, prompt tokens, tokens to generate)."""
    shared: dict[tuple[str, str], tuple[str, float, float]] = {}
    own: dict[tuple[str, str], tuple[float, float]] = {}
    for trial in trials:
        for stage, work in zip(scale.space.stages, trial.stages, strict=False):
            if work.decode_tokens:
                key = (stage.name, work.group)
                _, prompt, decode = shared.get(key, (work.model, 0.0, 0.0))
                most = (max(prompt, work.prompt_tokens), max(decode, work.decode_tokens))
                shared[key] = (work.model, *most)
            before = own.get((stage.name, work.model), (0.0, 0.0))
            own[stage.name, work.model] = (
                before[0] + work.own_prompt_tokens,
                before[1] + work.own_decode_tokens,
            )
    # All that one model draws at one stage is one call.
    for (stage_name, _), (model, prompt, decode) in shared.items():
        before = own.get((stage_name, model), (0.0, 0.0))
        own[stage_name, model] = (before[0] + prompt, before[1] + decode)
    return [(s, m, p, d) for (s, m), (p, d) in own.items() if d]


class Search:
    """The trials of a search as works, given what the store holds."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.stored: dict[str, int] = {}

    def work(self, name: str, allocation: Allocation) -> TrialWork:
        """What the trial has to draw now."""
        return trial_work(
            name,
            allocation,
            self.scale.tokens,
            [ExamplesPart(self.scale.examples, self.stored)],
            fused=self.scale.fused,
        )

    def store(self, allocation: Allocation, work: TrialWork, upto: int | None = None) -> None:
        """Keep the samples of a trial's stages, or of its first ``upto``."""
        drawn = list(zip(allocation.choices, work.stages, strict=True))
        for choice, stage in drawn[:upto]:
            self.stored[stage.group] = max(self.stored.get(stage.group, 0), choice.samples)


def ideal(scale: Scale, cluster: Cluster, seed: int) -> Bill:
    """Each model started once, on its own GPUs, and each distinct sample drawn once.

    Nothing idles. The wall time lets all models work at the same time.
    """
    truth, search, bill = Truth(scale, cluster, seed), Search(scale), Bill()
    needed: set[str] = set()
    for number, allocations in enumerate(scale.iterations):
        works = [search.work(f"t{number}-{i}", a) for i, a in enumerate(allocations)]
        busy: dict[str, float] = {}
        for stage, model, prompt, decode in stage_draws(works, scale):
            needed.add(model)
            seconds = truth.draw(model, prompt, decode, stage)
            bill.draw_gpu_seconds += seconds * scale.models[model].gpus
            busy[model] = busy.get(model, 0.0) + seconds
        bill.wall_seconds += max(busy.values(), default=0.0)
        bill.wall_seconds += cluster.pause_seconds if number else 0.0
        bill.evaluated += len(allocations)
        for allocation, work in zip(allocations, works, strict=True):
            search.store(allocation, work)
    starts = {model: truth.start(model) for model in sorted(needed)}
    bill.starts = len(starts)
    bill.start_gpu_seconds = sum(s * scale.models[m].gpus for m, s in starts.items())
    bill.wall_seconds += max(starts.values())
    bill.gpu_seconds = bill.start_gpu_seconds + bill.draw_gpu_seconds
    return bill


def one_trial_an_element(scale: Scale, cluster: Cluster, seed: int) -> Bill:
    """Each trial a job: it starts the engines that it needs one after the other.

    Trials of an iteration share the drawing of common samples without any loss, which is more
    favourable than they do in fact.
    """
    truth, search, bill = Truth(scale, cluster, seed), Search(scale), Bill()
    for number, allocations in enumerate(scale.iterations):
        works = [search.work(f"t{number}-{i}", a) for i, a in enumerate(allocations)]
        peers: dict[str, int] = {}
        for work in works:
            for part in work.stages:
                peers[part.group] = peers.get(part.group, 0) + (part.decode_tokens > 0)
        ends: list[float] = []  # of each of the slots for jobs
        for work in works:
            gpus = max(work.gpus(truth.estimated.model_costs()), 1)
            begin = ends.pop(ends.index(min(ends))) if len(ends) >= cluster.most_jobs else 0.0
            if all(part.empty for part in work.stages):
                ends.append(begin)  # scored at once from stored samples
                continue
            while True:
                begin += cluster.queue_seconds
                bill.jobs += 1
                loads = draws = 0.0
                loaded = None
                for stage, part in zip(scale.space.stages, work.stages, strict=True):
                    if part.empty:
                        continue
                    if part.model != loaded:
                        loads += truth.start(part.model)
                        bill.starts += 1
                        loaded = part.model
                    share = max(peers[part.group], 1)
                    draws += truth.draw(
                        part.model,
                        part.prompt_tokens / share + part.own_prompt_tokens,
                        part.decode_tokens / share + part.own_decode_tokens,
                        stage.name,
                    )
                taken = cluster.boot_seconds + loads + draws
                lifetime = min(truth.lifetime(), cluster.time_limit)
                used = min(taken, lifetime)
                bill.gpu_seconds += used * gpus
                bill.start_gpu_seconds += loads * gpus * (used / taken)
                bill.draw_gpu_seconds += draws * gpus * (used / taken)
                begin += used
                if taken <= lifetime:
                    break
                bill.lost_jobs += 1
            ends.append(begin)
        bill.wall_seconds += max(ends) + (cluster.pause_seconds if number else 0.0)
        bill.evaluated += len(allocations)
        for allocation, work in zip(allocations, works, strict=True):
            search.store(allocation, work)
    return bill


@dataclass
class _Live:
    """A worker of the simulation."""

    name: str
    gpus: int
    begun: float  # when its job starts (or is expected to)
    ready: float  # when it can take its first list
    dies: float
    limit: float
    awake: str | None = None
    asleep: frozenset[str] = frozenset()
    busy_until: float = 0.0
    expected_until: float = 0.0
    trials: tuple[str, ...] = ()
    idle_since: float = math.inf
    upto: dict[str, int] = field(default_factory=dict)


class WorkerRun:
    """A search by workers, with the project's own assignment rule and estimates."""

    def __init__(
        self, scale: Scale, cluster: Cluster, seed: int, policy: Policy, *, knows_queue: bool = True
    ) -> None:
        self._scale = scale
        self._cluster = cluster
        self._policy = policy
        self._truth = Truth(scale, cluster, seed)
        self._search = Search(scale)
        self.bill = Bill()
        self._now = 0.0
        self._events: list[tuple[float, int, str, str]] = []
        self._order = itertools.count()
        self._workers: dict[str, _Live] = {}
        self._names = itertools.count()
        self._starts: list[StartRecord] = []
        self._draws: list[DrawRecord] = []
        self._waits: list[float] = []
        self._expected_wait = cluster.queue_seconds if knows_queue else 600.0
        self._iteration = -1
        self._unfinished: dict[str, Allocation] = {}
        self._unassigned: set[str] = set()
        self._left: dict[str, float] = {}  # share of a trial's work that a dead worker left

    def run(self) -> Bill:
        """Evaluate all iterations."""
        self._next_iteration()
        while self._events:
            self._now, _, kind, name = heapq.heappop(self._events)
            if kind == "iteration":
                self._next_iteration()
            elif name in self._workers:
                live = self._workers[name]
                if kind == "done" and live.busy_until == self._now and live.trials:
                    self._done(live)
                elif self._now == {"dies": live.dies, "limit": live.limit}.get(kind):
                    self._lost(live)
        if self._unfinished or self._more:
            raise RuntimeError(f"the search stopped at iteration {self._iteration}")
        return self.bill

    @property
    def _more(self) -> bool:
        return self._iteration + 1 < len(self._scale.iterations)

    def _push(self, when: float, kind: str, name: str = "") -> None:
        heapq.heappush(self._events, (when, next(self._order), kind, name))

    def _next_iteration(self) -> None:
        self._iteration += 1
        self._unfinished = {
            f"t{self._iteration:02}-{i:02}": a
            for i, a in enumerate(self._scale.iterations[self._iteration])
        }
        self._left.clear()
        self._unassigned = set(self._unfinished)
        for name, allocation in list(self._unfinished.items()):
            if all(stage.empty for stage in self._search.work(name, allocation).stages):
                self._finish(name)
        self._dispatch()
        self._close_iteration()

    def _work(self, name: str) -> TrialWork:
        work = self._search.work(name, self._unfinished[name])
        share = self._left.get(name, 1.0)
        return TrialWork(name, tuple(_scaled(stage, share) for stage in work.stages))

    def _dispatch(self) -> None:
        if not self._unassigned:
            return
        costs = self._costs()
        policy = self._current_policy()
        found = assign(
            [self._work(name) for name in sorted(self._unassigned)],
            [self._described(live) for live in self._workers.values()],
            self._classes(),
            costs,
            policy,
        )
        for part in found.lists:
            self._give(self._workers[part.worker], part.trials, part.seconds, part.upto)
        for part in found.new:
            self._give(self._start(part.gpus), part.trials, part.seconds, part.upto)
        for name in found.retire:
            self._retire(self._workers[name])
        for name in found.unfit:
            self.bill.unfit += 1
            self._unassigned.discard(name)
            del self._unfinished[name]
        if found.waiting and not any(live.trials for live in self._workers.values()):
            raise RuntimeError(f"trials wait for ever: {found.waiting}")

    def _costs(self) -> dict[str, ModelCost]:
        return Estimates(
            self._scale.models,
            self._cluster.gpu,
            compiled=True,
            starts=self._starts,
            draws=self._draws,
        ).model_costs()

    def _current_policy(self) -> Policy:
        return replace(
            self._policy,
            more=self._more,
            pause_seconds=self._cluster.pause_seconds,
            most_new=max(0, self._cluster.most_jobs - len(self._workers)),
        )

    def _classes(self) -> list[ResourceClass]:
        wait = expected_wait(self._waits, self._expected_wait)
        return [
            ResourceClass(
                f"{gpus} GPUs",
                gpus,
                self._cluster.most_jobs,
                queue_seconds=wait,
                start_seconds=self._cluster.boot_seconds,
                time_limit=self._cluster.time_limit,
                sleep_gb=gpus * self._cluster.sleep_gb_per_gpu,
            )
            for gpus in sorted({size.gpus for size in self._scale.models.values()})
        ]

    def _described(self, live: _Live) -> Worker:
        return Worker(
            live.name,
            live.gpus,
            awake=live.awake,
            asleep=live.asleep,
            free_in=max(0.0, live.expected_until - self._now) if live.trials else 0.0,
            busy=bool(live.trials),
            time_left=live.limit - self._now,
            sleep_gb=live.gpus * self._cluster.sleep_gb_per_gpu,
            idle_for=max(0.0, self._now - live.idle_since),
        )

    def _start(self, gpus: int) -> _Live:
        begun = self._now + self._cluster.queue_seconds
        live = _Live(
            f"w{next(self._names):03}",
            gpus,
            begun=begun,
            ready=begun + self._cluster.boot_seconds,
            dies=begun + self._truth.lifetime(),
            limit=begun + self._cluster.time_limit,
        )
        self._workers[live.name] = live
        self.bill.jobs += 1
        self._waits.append(self._cluster.queue_seconds)
        if live.dies < math.inf:
            self._push(live.dies, "dies", live.name)
        self._push(live.limit, "limit", live.name)
        return live

    def _give(
        self, live: _Live, trials: Sequence[str], expected: float, upto: Mapping[str, int]
    ) -> None:
        """Let the worker evaluate a list; what it takes is decided here.

        A worker that still has a list gets this one behind it.
        """
        works = [self._work(name) for name in trials]
        works = [replace(w, stages=w.stages[: upto.get(w.trial)]) for w in works]
        costs = self._costs()
        plan = plan_engines(
            {work.signature for work in works},
            costs,
            awake=live.awake,
            asleep=live.asleep,
            sleep_gb=live.gpus * self._cluster.sleep_gb_per_gpu,
        )
        starting = 0.0
        for model in plan.starts:
            seconds = self._truth.start(model)
            self._starts.append(StartRecord(model, seconds))
            starting += seconds
            self.bill.starts += 1
        drawing = 0.0
        for stage, model, prompt, decode in stage_draws(works, self._scale):
            seconds = self._truth.draw(model, prompt, decode, stage)
            prompt_tokens, decode_tokens = self._scale.tokens[stage]
            record = DrawRecord(
                model,
                prompt,
                decode,
                seconds,
                sequences=decode / decode_tokens,
                context=prompt_tokens + decode_tokens / 2,
            )
            self._draws.append(record)
            drawing += seconds
        begins = max(self._now, live.ready, live.busy_until if live.trials else 0.0)
        self.bill.start_gpu_seconds += starting * live.gpus
        self.bill.draw_gpu_seconds += drawing * live.gpus
        live.busy_until = begins + starting + plan.change_seconds + drawing
        live.expected_until = begins + expected
        live.awake, live.asleep = plan.awake, plan.asleep
        live.trials = (*live.trials, *trials)
        live.upto = {**live.upto, **upto}
        live.idle_since = math.inf
        self._unassigned -= set(trials)
        self._push(live.busy_until, "done", live.name)

    def _done(self, live: _Live) -> None:
        for name in live.trials:
            if name in live.upto:
                allocation = self._unfinished[name]
                work = self._search.work(name, allocation)
                self._search.store(allocation, work, live.upto[name])
                self._unassigned.add(name)
            else:
                self._finish(name)
        live.trials, live.upto = (), {}
        live.idle_since = self._now
        if self._unassigned:
            self._dispatch()
        if not live.trials and live.name in self._workers:
            others = [w.expected_until for w in self._workers.values() if w.trials]
            idle = max([self._now, *others]) - self._now + self._cluster.pause_seconds
            alike = next((c for c in self._classes() if c.gpus >= live.gpus), None)
            policy = self._current_policy()
            if not worth_keeping(self._described(live), idle, self._costs(), policy, alike):
                self._retire(live)
        self._close_iteration()

    def _finish(self, name: str) -> None:
        self.bill.evaluated += 1
        allocation = self._unfinished.pop(name)
        self._search.store(allocation, self._search.work(name, allocation))
        self._unassigned.discard(name)

    def _close_iteration(self) -> None:
        if self._unfinished:
            return
        if self._more:
            self._push(self._now + self._cluster.pause_seconds, "iteration")
        else:
            self.bill.wall_seconds = self._now
            for live in list(self._workers.values()):
                self._retire(live)

    def _lost(self, live: _Live) -> None:
        """The worker's node failed, or its time limit was reached.

        Half of what its list had left is taken to be stored already.
        """
        self.bill.lost_jobs += bool(live.trials)
        for name in live.trials:
            self._left[name] = self._left.get(name, 1.0) / 2
        self._unassigned |= set(live.trials)
        live.trials = ()
        self._retire(live)
        self._dispatch()

    def _retire(self, live: _Live) -> None:
        self.bill.gpu_seconds += max(0.0, self._now - live.begun) * live.gpus
        del self._workers[live.name]


def _scaled(stage: StageWork, share: float) -> StageWork:
    if share == 1.0:
        return stage
    return StageWork(
        stage.model,
        stage.group,
        stage.prompt_tokens,
        stage.decode_tokens * share,
        stage.own_prompt_tokens * share,
        stage.own_decode_tokens * share,
    )
