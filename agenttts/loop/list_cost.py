"""What a list of trials costs a worker: engine starts and distinct samples.

Pure functions of descriptions. All times are seconds from now unless they say otherwise.

Inside a worker one model is awake at a time. An engine that another one replaces is put to sleep
(vLLM's sleep mode, level 1: its weights move to the node's memory) while the node's memory has room
for it, and is closed otherwise. The trials of a list advance stage by stage together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

Signature = tuple[str | None, ...]
"""The model of each stage of a trial; None for a stage whose samples are all stored."""


@dataclass(frozen=True)
class ModelCost:
    """What a model costs on the GPUs of the run's profile.

    Args:
        start_seconds: Seconds of an engine start.
        tokens_per_second: Tokens that it generates in a second, over all requests of a call.
        prompt_tokens_per_second: Prompt tokens that it reads in a second.
        gpus: GPUs of its engine.
        asleep_gb: Memory of the node, in GB, that the engine takes while it is asleep.
        wake_seconds: Seconds until an engine that is asleep can generate.
        first_sleep_seconds: Seconds of the first time that an engine is put to sleep.
        sleep_seconds: Seconds of each later time.
    """

    start_seconds: float
    tokens_per_second: float
    prompt_tokens_per_second: float
    gpus: int = 1
    asleep_gb: float = 0.0
    wake_seconds: float = 0.5
    first_sleep_seconds: float = 0.0
    sleep_seconds: float = 0.0

    def draw_seconds(self, prompt_tokens: float, decode_tokens: float) -> float:
        """Return the seconds of a call with so many tokens in all."""
        return (
            prompt_tokens / self.prompt_tokens_per_second + decode_tokens / self.tokens_per_second
        )


@dataclass(frozen=True)
class StageWork:
    """What one stage of a trial has to draw.

    Args:
        model: The model that draws it.
        group: Name of the trial's prompts at this stage. Stages with one group have equal prompts
            and one model: of two such stages, the samples of one contain those of the other.
        prompt_tokens: Tokens of the prompts, all examples together; 0 if no sample is missing.
        decode_tokens: Tokens to generate that the sample store lacks, all examples together.
        own_prompt_tokens: Prompt tokens of calls that no other trial shares, such as the calls that
            fuse samples.
        own_decode_tokens: Tokens that these calls generate.
        least_gpus: The fewest GPUs of a worker that may evaluate it, even if nothing is missing.
    """

    model: str
    group: str
    prompt_tokens: float
    decode_tokens: float
    own_prompt_tokens: float = 0.0
    own_decode_tokens: float = 0.0
    least_gpus: int = 0

    @property
    def empty(self) -> bool:
        """Whether nothing is missing, so that the stage needs no engine."""
        return not (self.decode_tokens or self.own_decode_tokens or self.own_prompt_tokens)

    def gpus(self, costs: Mapping[str, ModelCost]) -> int:
        """Return the GPUs of a worker that it needs."""
        return max(self.least_gpus, 0 if self.empty else costs[self.model].gpus)


@dataclass(frozen=True)
class TrialWork:
    """What one trial has to draw, stage by stage.

    Args:
        trial: The trial's name.
        stages: Its stages, in order.
        alone: Whether it must have a worker's list for itself, as after the unexplained death of a
            worker that had several trials.
    """

    trial: str
    stages: tuple[StageWork, ...]
    alone: bool = False

    @property
    def signature(self) -> Signature:
        """The models that it needs."""
        return tuple(None if stage.empty else stage.model for stage in self.stages)

    def gpus(self, costs: Mapping[str, ModelCost]) -> int:
        """Return the GPUs of a worker that it needs: the most that a stage needs."""
        return max((stage.gpus(costs) for stage in self.stages), default=0)

    def upto(self, stages: int | None) -> TrialWork:
        """Return that number of its leading stages; None: all stages."""
        return replace(self, stages=self.stages[:stages])

    def after(self, stages: int) -> TrialWork:
        """Return what is left when that number of its leading stages is drawn."""
        drawn = [StageWork(s.model, s.group, 0.0, 0.0) for s in self.stages[:stages]]
        return replace(self, stages=(*drawn, *self.stages[stages:]))


@dataclass(frozen=True)
class EnginePlan:
    """The order in which a worker uses its models for a list, and what that costs.

    Args:
        visits: The models in order. Each trial's stages are done in an order that follows it.
        starts: The engines that start, in order.
        start_seconds: Seconds of these starts.
        change_seconds: Seconds of putting engines to sleep and of waking them.
        awake: The model that is awake afterwards; None if there is none.
        asleep: The models that are asleep afterwards.
    """

    visits: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    start_seconds: float = 0.0
    change_seconds: float = 0.0
    awake: str | None = None
    asleep: frozenset[str] = frozenset()

    @property
    def seconds(self) -> float:
        """Seconds that go to engines and not to samples."""
        return self.start_seconds + self.change_seconds


NO_ENGINES = EnginePlan()


def work_seconds(trials: Iterable[TrialWork], costs: Mapping[str, ModelCost]) -> float:
    """Return the seconds of drawing the distinct samples of a list."""
    shared: dict[str, float] = {}
    own = 0.0
    for trial in trials:
        groups, alone = shared_and_own(trial, costs)
        own += alone
        for group, seconds in groups:
            shared[group] = max(shared.get(group, 0.0), seconds)
    return math.fsum(shared.values()) + own


def shared_and_own(
    trial: TrialWork, costs: Mapping[str, ModelCost]
) -> tuple[list[tuple[str, float]], float]:
    """Return a trial's seconds of shared samples by group, and of its own samples."""
    groups, own = [], 0.0
    for stage in trial.stages:
        if stage.empty:
            continue
        cost = costs[stage.model]
        own += cost.draw_seconds(stage.own_prompt_tokens, stage.own_decode_tokens)
        if stage.decode_tokens:
            seconds = cost.draw_seconds(stage.prompt_tokens, stage.decode_tokens)
            groups.append((stage.group, seconds))
    return groups, own


def plan_engines(
    signatures: Collection[Signature],
    costs: Mapping[str, ModelCost],
    *,
    awake: str | None = None,
    asleep: Collection[str] = (),
    sleep_gb: float = 0.0,
) -> EnginePlan:
    """Return the order of models with the least start seconds of those tried.

    Two orders are tried: stage by stage, with the models of a stage arranged so that the last one
    may go on in the next stage, and one signature after the other. The result never starts engines
    for longer than separate workers would, one for each signature.

    Args:
        signatures: The distinct signatures of the list.
        costs: The models' costs.
        awake: The model that is awake now.
        asleep: The models that are asleep now.
        sleep_gb: Memory of the node, in GB, for engines that are asleep; 0: none may sleep.
    """
    needed = sorted(set(signatures), key=_as_text)
    by_stage = _by_stage(needed, costs, awake)
    one_by_one = [model for signature in needed for model in signature if model]
    plans = [
        _follow(visits, costs, awake, frozenset(asleep), sleep_gb)
        for visits in dict.fromkeys((_collapsed(by_stage), _collapsed(one_by_one)))
    ]
    best = min(plans, key=lambda plan: (plan.start_seconds, plan.change_seconds))
    # In rare cases of little memory each order wakes up less than separate workers would.
    alone = [
        _follow(_collapsed([m for m in signature if m]), costs, None, frozenset(), sleep_gb)
        for signature in needed
    ]
    if best.start_seconds > math.fsum(plan.start_seconds for plan in alone):
        return EnginePlan(
            visits=tuple(model for plan in alone for model in plan.visits),
            starts=tuple(model for plan in alone for model in plan.starts),
            start_seconds=math.fsum(plan.start_seconds for plan in alone),
            change_seconds=math.fsum(plan.change_seconds for plan in alone),
            awake=alone[-1].awake,
            asleep=alone[-1].asleep,
        )
    return best


def _by_stage(
    signatures: Sequence[Signature], costs: Mapping[str, ModelCost], awake: str | None
) -> list[str]:
    """Return the visits stage by stage.

    A stage begins with the model that is awake and ends with the costliest one that the next stage
    needs too.
    """
    stages = [
        sorted({s[number] for s in signatures if number < len(s)} - {None}, key=str)
        for number in range(max(map(len, signatures), default=0))
    ]
    visits: list[str] = []
    for number, models in enumerate(stages):
        following = stages[number + 1] if number + 1 < len(stages) else ()
        kept = [m for m in models if m and m in following and (m != awake or len(models) == 1)]
        last = max(kept, key=lambda m: (costs[m].start_seconds, m), default=None)
        ordered = sorted((m for m in models if m), key=lambda m: (m == last, m != awake, m))
        visits += ordered
        awake = visits[-1] if visits else awake
    return visits


def _follow(
    visits: tuple[str, ...],
    costs: Mapping[str, ModelCost],
    awake: str | None,
    asleep: frozenset[str],
    sleep_gb: float,
) -> EnginePlan:
    """Return the plan that uses the models in this order.

    An engine that is replaced is put to sleep. While the engines that are asleep do not fit, one is
    closed: first one that the order does not need again (the one that starts fastest), then the one
    that it needs last.
    """
    starts: list[str] = []
    slept = set(asleep)
    resting = set(asleep)
    change = 0.0
    for position, model in enumerate(visits):
        if model == awake:
            continue
        woken = model in resting
        resting.discard(model)
        rest = visits[position + 1 :]
        if awake is not None and sleep_gb > 0:
            resting.add(awake)
            while resting and math.fsum(costs[m].asleep_gb for m in resting) > sleep_gb:
                resting.remove(_least_useful(resting, rest, costs))
            if awake in resting:
                cost = costs[awake]
                change += cost.sleep_seconds if awake in slept else cost.first_sleep_seconds
                slept.add(awake)
        if woken:
            change += costs[model].wake_seconds
        else:
            starts.append(model)
            slept.discard(model)
        awake = model
    return EnginePlan(
        visits=visits,
        starts=tuple(starts),
        start_seconds=math.fsum(costs[model].start_seconds for model in starts),
        change_seconds=change,
        awake=awake,
        asleep=frozenset(resting),
    )


def _least_useful(
    models: Collection[str], rest: Sequence[str], costs: Mapping[str, ModelCost]
) -> str:
    def use(model: str) -> tuple[bool, float, float, str]:
        needed = model in rest
        next_use = rest.index(model) if needed else 0
        return (needed, -next_use, costs[model].start_seconds, model)

    return min(models, key=use)


def _collapsed(visits: Iterable[str]) -> tuple[str, ...]:
    """Return the visits without immediate repetitions."""
    found: list[str] = []
    for model in visits:
        if not found or found[-1] != model:
            found.append(model)
    return tuple(found)


def _as_text(signature: Signature) -> tuple[str, ...]:
    return tuple(model or "" for model in signature)
