"""Moves between allocations: reasons, and reduction to the budget."""

from __future__ import annotations

from dataclasses import replace

from agenttts.space import Allocation, Choice, SearchSpace, Stage


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
        now, then = f"{after.model}×{after.samples}", f"{before.model}×{before.samples}"
        return f"{after.stage}: {now} instead of {then}"
    word = "more" if after.samples > before.samples else "fewer"
    return f"{after.stage}: {word} samples of {after.model} ({before.samples} to {after.samples})"


def within_budget(space: SearchSpace, allocation: Allocation) -> Allocation:
    """The allocation itself when it fits, else a smaller one that does.

    It has fewer samples and, where that is not enough, smaller models.

    Samples go first from the stage that spends most on them beyond its least count; every stage
    keeps its model as long as any count of it fits.
    """
    for models in (0, 1):
        while allocation not in space:
            savings = [
                (space.choice_budget(choice) - space.choice_budget(least), least)
                for choice in allocation.choices
                if (least := _less(space.stage(choice.stage), choice, models)) != choice
            ]
            if not savings:
                break
            _, less = max(savings, key=lambda saving: (saving[0], saving[1]))
            allocation = allocation.replace(less)
    return allocation


def _less(stage: Stage, choice: Choice, models: int) -> Choice:
    """About two thirds of the samples of a choice.

    With ``models``, and at the least count, it is the next smaller model.
    """
    position = stage.samples.index(choice.samples)
    if position:
        fewer = stage.nearest_samples(choice.samples * 2 / 3)
        return Choice(stage.name, choice.model, min(fewer, stage.samples[position - 1]))
    return smaller_model(stage, choice) if models else choice


def smaller_model(stage: Stage, choice: Choice) -> Choice:
    """The choice with the next smaller model; itself if there is none."""
    size = stage.model(choice.model).params
    smaller = [model for model in stage.models if model.params < size]
    return replace(choice, model=max(smaller, key=lambda m: m.params).name) if smaller else choice
