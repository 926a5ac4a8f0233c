"""Project a language model's proposals onto the feasible space.

The steps in order: take the nearest model name, take the nearest allowed sample count, scale the
samples down into the budget, and take smaller models if the fewest samples are still over it. Every
change is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agenttts.errors import nearest_name
from agenttts.search.llm.reading import RawAllocation, RawChoice
from agenttts.space import Allocation, Choice, SearchSpace, Stage, fits


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
    fitted = _within_budget(space, choices, notes)
    return Projected(Allocation(tuple(fitted)), tuple(notes))


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
        notes.append(f"{stage.name}: {choice.samples:g} samples are not allowed; {samples} is used")
    return samples


def _within_budget(
    space: SearchSpace, choices: Sequence[Choice], notes: list[str]
) -> Sequence[Choice]:
    """Return the choices, made smaller until they are within the budget.

    Samples are scaled down by one factor, then models are made smaller.
    """
    wanted = space.cost(Allocation(tuple(choices)))
    if fits(wanted, space.budget):
        return choices
    notes.append(f"its budget {wanted:.0f} is above {space.budget:g}")
    smaller = list(choices)
    while not fits(_cost(space, _scaled(space, smaller, 0.0)), space.budget):
        # The stage whose next smaller model saves most.
        _, position, model = max(
            (_least_cost(space, c.stage, c.model) - _least_cost(space, c.stage, m), -i, m)
            for i, c in enumerate(smaller)
            for m in _smaller(space.stage(c.stage), c.model)
        )
        changed = smaller[-position]
        notes.append(f"{changed.stage}: {model} instead of {changed.model}")
        smaller[-position] = Choice(changed.stage, model, changed.samples)
    scaled = _scaled(space, smaller, _largest_factor(space, smaller))
    for before, after in zip(smaller, scaled, strict=True):
        if before.samples != after.samples:
            notes.append(f"{after.stage}: {before.samples} samples scaled down to {after.samples}")
    return scaled


def _largest_factor(space: SearchSpace, choices: Sequence[Choice]) -> float:
    """Return the largest factor on all samples (to 1/4096) within the budget.

    0 stands for the fewest allowed samples.
    """
    low, high = 0.0, 1.0
    if fits(_cost(space, choices), space.budget):
        return 1.0
    for _ in range(12):
        middle = (low + high) / 2
        if fits(_cost(space, _scaled(space, choices, middle)), space.budget):
            low = middle
        else:
            high = middle
    return low


def _scaled(space: SearchSpace, choices: Sequence[Choice], factor: float) -> list[Choice]:
    scaled = []
    for choice in choices:
        allowed = space.stage(choice.stage).samples
        below = [count for count in allowed if count <= choice.samples * factor + 1e-9]
        scaled.append(Choice(choice.stage, choice.model, below[-1] if below else allowed[0]))
    return scaled


def _least_cost(space: SearchSpace, stage: str, model: str) -> float:
    return space.choice_budget(Choice(stage, model, space.stage(stage).samples[0]))


def _smaller(stage: Stage, model: str) -> list[str]:
    """Return the next smaller model of the stage, as a list of one or none."""
    size = stage.model(model).params
    less = [m for m in stage.models if m.params < size]
    return [max(less, key=lambda m: m.params).name] if less else []


def _cost(space: SearchSpace, choices: Sequence[Choice]) -> float:
    return space.cost(Allocation(tuple(choices)))
