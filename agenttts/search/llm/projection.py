"""Project a language model's proposals onto the feasible space.

The steps in order: take the nearest model name, take the nearest allowed sample count, scale the
samples down into the budget, and take smaller models if the fewest samples are still over it. Every
change is recorded.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace

from agenttts.errors import counted, nearest_name
from agenttts.search.llm.reading import RawAllocation, RawChoice
from agenttts.search.moves import smaller_model
from agenttts.space import Allocation, Choice, SearchSpace, Stage, cost_above, fits, units_text


@dataclass(frozen=True)
class Projected:
    """An allocation of the space, and the changes to the proposal, if any."""

    allocation: Allocation
    notes: tuple[str, ...] = ()


def project_to_space(
    raw: RawAllocation, space: SearchSpace, otherwise: Allocation
) -> Projected | str:
    """Return the proposal as an allocation of the space, or why that is impossible.

    Args:
        raw: The proposal.
        space: The search space.
        otherwise: An allocation of the space, with the choices of stages that the proposal leaves
            out.
    """
    notes: list[str] = []
    choices: list[Choice] = []
    if not any(choice.model for choice in raw.choices.values()):
        return "the proposal does not name a model"
    for stage in space.stages:
        choice = raw.choices.get(stage.name, RawChoice(None, None))
        model = _model(stage, choice, otherwise, notes)
        if model is None:
            return f"'{choice.model}' is not a model of stage '{stage.name}'"
        choices.append(Choice(stage.name, model, _samples(stage, choice, otherwise, notes)))
    fitted = _within_budget(space, Allocation(tuple(choices)), notes)
    return Projected(fitted, tuple(notes))


def _model(stage: Stage, choice: RawChoice, otherwise: Allocation, notes: list[str]) -> str | None:
    names = [model.name for model in stage.models]
    if choice.model is None:
        model = otherwise[stage.name].model
        notes.append(f"{stage.name}: no model given; {model} is used")
        return model
    if choice.model in names:
        return choice.model
    near = nearest_name(choice.model, names)
    if near is not None:
        notes.append(f"{stage.name}: '{choice.model}' is not a model; {near} is used")
    return near


def _samples(stage: Stage, choice: RawChoice, otherwise: Allocation, notes: list[str]) -> int:
    if choice.samples is None:
        samples = otherwise[stage.name].samples
        notes.append(f"{stage.name}: no sample count given; {samples} is used")
        return samples
    samples = stage.nearest_samples(choice.samples)
    if samples != choice.samples:
        wanted = counted(f"{choice.samples:g}", "sample")
        are = "is" if choice.samples == 1 else "are"
        notes.append(f"{stage.name}: {wanted} {are} not allowed; {samples} is used")
    return samples


def _within_budget(space: SearchSpace, wanted: Allocation, notes: list[str]) -> Allocation:
    """Return the allocation, made smaller until it is within the budget.

    Samples are scaled down by one factor, then models are made smaller.
    """
    cost = space.cost(wanted)
    if fits(cost, space.budget):
        return wanted
    notes.append(f"its budget {cost_above(cost, space.budget)} is over {units_text(space.budget)}")
    while (least := _scaled(space, wanted, 0.0)) not in space:
        # The stage whose next smaller model saves most.
        smaller = [smaller_model(space.stage(c.stage), c) for c in least.choices]
        savings = [
            (space.choice_budget(c) - space.choice_budget(less), -i, less.model)
            for i, (c, less) in enumerate(zip(least.choices, smaller, strict=True))
            if less != c
        ]
        _, position, model = max(savings)
        changed = wanted.choices[-position]
        notes.append(f"{changed.stage}: {model} instead of {changed.model}")
        wanted = wanted.replace(replace(changed, model=model))
    scaled = _scaled(space, wanted, _largest_factor(space, wanted))
    for before, after in zip(wanted.choices, scaled.choices, strict=True):
        if before.samples != after.samples:
            notes.append(
                f"{after.stage}: {counted(before.samples, 'sample')} scaled down to {after.samples}"
            )
    return scaled


def _largest_factor(space: SearchSpace, wanted: Allocation) -> float:
    """Return the largest factor on all samples (to 1/4096) within the budget.

    0 stands for the fewest allowed samples.
    """
    if wanted in space:
        return 1.0
    above = bisect_left(
        range(4096), True, 1, key=lambda step: _scaled(space, wanted, step / 4096) not in space
    )
    return (above - 1) / 4096


def _scaled(space: SearchSpace, allocation: Allocation, factor: float) -> Allocation:
    scaled = []
    for choice in allocation.choices:
        allowed = space.stage(choice.stage).samples
        below = bisect_right(allowed, choice.samples * factor + 1e-9)
        scaled.append(replace(choice, samples=allowed[max(0, below - 1)]))
    return Allocation(tuple(scaled))
