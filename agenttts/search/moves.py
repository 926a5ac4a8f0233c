"""Moves: the allocations that insights 2 and 3 suggest next to one already tried.

Each move gives one line of reason. Moves say what is worth a look; `agenttts.search.effects` says which look is worth
a trial.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from agenttts.budget import total
from agenttts.search.base import Proposal
from agenttts.space import Allocation, Choice, SearchSpace, Stage

# Sample counts considered for a (stage, model): about this many, evenly spaced in log(samples).
_COUNTS = 12


def sample_moves(space: SearchSpace, start: Allocation) -> Iterator[Proposal]:
    """Change one stage only: its sample count, or its model with what that model's count may be (insight 2)."""
    for stage in space.stages:
        spare = space.budget - _others_cost(space, start, (stage.name,))
        for model in stage.models:
            for samples in spread_counts(stage, stage.affordable_samples(model.name, spare)):
                choice = Choice(stage.name, model.name, samples)
                yield _move(space, start, (choice,))


def shift_moves(space: SearchSpace, start: Allocation) -> Iterator[Proposal]:
    """Change one stage and give what it frees, all or half, to another, with any of its models (insight 3)."""
    for giver in space.stages:
        for taker in space.stages:
            if giver.name == taker.name:
                continue
            spare = space.budget - _others_cost(space, start, (giver.name, taker.name))
            for given in giver.models:
                most = giver.affordable_samples(given.name, spare)
                for samples in spread_counts(giver, most):
                    kept = Choice(giver.name, given.name, samples)
                    rest = spare - space.choice_budget(kept)
                    for model in taker.models:
                        for amount in (rest, rest / 2):
                            taken = taker.affordable_samples(model.name, amount)
                            if taken:
                                yield _move(
                                    space, start, (kept, Choice(taker.name, model.name, taken))
                                )


def cross(a: Allocation, b: Allocation, rng: random.Random) -> Allocation:
    """Every stage's choice from one of two parents, at random."""
    return Allocation(tuple(rng.choice(pair) for pair in zip(a.choices, b.choices, strict=True)))


def mutate(space: SearchSpace, start: Allocation, rng: random.Random) -> Allocation:
    """One stage redrawn: any model, any of the spread sample counts."""
    stage = rng.choice(space.stages)
    model = rng.choice(stage.models)
    samples = rng.choice(spread_counts(stage, stage.samples[-1]))
    return start.replace(Choice(stage.name, model.name, samples))


def spread_draw(space: SearchSpace, rng: random.Random) -> Allocation:
    """A feasible allocation at random: models evenly, sample counts evenly in log(samples).

    A uniform draw from the feasible set nearly always has small models with many samples, as most allocations do.
    """
    drawn = space.cheapest
    for stage in rng.sample(space.stages, len(space.stages)):
        spare = space.budget - _others_cost(space, drawn, (stage.name,))
        most = {model.name: stage.affordable_samples(model.name, spare) for model in stage.models}
        name = rng.choice([name for name, count in most.items() if count])
        drawn = drawn.replace(
            Choice(stage.name, name, rng.choice(spread_counts(stage, most[name])))
        )
    return drawn


def spread_counts(stage: Stage, most: int) -> list[int]:
    """Allowed sample counts up to ``most``, ends included, about evenly spaced in log(samples)."""
    allowed = [count for count in stage.samples if count <= most]
    if len(allowed) <= _COUNTS:
        return allowed
    ratio = (allowed[-1] / allowed[0]) ** (1.0 / (_COUNTS - 1))
    wanted = (allowed[0] * ratio**step for step in range(_COUNTS))
    return sorted({min(most, stage.nearest_samples(count)) for count in wanted} & set(allowed))


def _move(space: SearchSpace, start: Allocation, choices: tuple[Choice, ...]) -> Proposal:
    target = start
    for choice in choices:
        target = target.replace(choice)
    return Proposal(target, "insight", describe(space, start, target))


def describe(space: SearchSpace, start: Allocation, target: Allocation) -> str:
    """What changes from ``start`` to ``target``, in one line."""
    changes = [
        _change(before, after)
        for before, after in zip(start.choices, target.choices, strict=True)
        if before != after
    ]
    freed = [
        (space.choice_budget(after) - space.choice_budget(before), after.stage)
        for before, after in zip(start.choices, target.choices, strict=True)
    ]
    (least, giver), (most, taker) = min(freed), max(freed)
    shift = f"; budget from {giver} to {taker}" if least < 0 < most else ""
    return "; ".join(changes) + shift


def _change(before: Choice, after: Choice) -> str:
    if before.model != after.model:
        return f"{after.stage}: {after.model}×{after.samples} instead of {before.model}×{before.samples}"
    word = "more" if after.samples > before.samples else "fewer"
    return f"{after.stage}: {word} samples of {after.model} ({before.samples} to {after.samples})"


def _others_cost(space: SearchSpace, start: Allocation, stages: tuple[str, ...]) -> float:
    return total(space.choice_budget(c) for c in start.choices if c.stage not in stages)
