"""Allocations that a user writes: one model and one sample count for each stage."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from agenttts.errors import UserError, counted, located, valid_names
from agenttts.space import Allocation, Choice, SearchSpace, Stage, fits
from agenttts.spec.section import Section

_CHOICE = re.compile(r"(?P<model>\S.*?)(?:\s+[xX]\s*|\s*×\s*)(?P<samples>[0-9]{1,9})")
_MOST_LISTED = 12


class ChoiceSection(Section):
    """The choice of one stage; the text ``MODEL xSAMPLES`` is read as one."""

    model: str
    """One of the stage's models."""
    samples: Annotated[int, Field(ge=1)]
    """One of its sample counts."""

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, value: Any) -> Any:
        return value if isinstance(value, (Mapping, cls)) else parse_choice(value)


def parse_choice(text: Any) -> dict[str, str | int]:
    """Return the model and the samples of ``qwen-7b x8`` or ``qwen-7b×8``.

    Raises:
        ValueError: It is not a text, or has another form.
    """
    found = _CHOICE.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise ValueError(
            f"{text!r} is not a model and a number of samples; valid: 'MODEL xSAMPLES', e.g. "
            "'qwen-7b x8', or {model: qwen-7b, samples: 8}"
        )
    return {"model": found["model"], "samples": int(found["samples"])}


def read_allocations(
    given: Sequence[Mapping[str, ChoiceSection]], space: SearchSpace
) -> tuple[Allocation, ...]:
    """Return allocations that a user wrote, in the order of the list.

    Raises:
        UserError: One is not in the space, or is listed twice; the error is at its position.
    """
    read: list[Allocation] = []
    for position, choices in enumerate(given):
        with located(position):
            allocation = read_allocation(choices, space)
            if allocation in read:
                raise UserError(
                    f"{allocation} is already entry {read.index(allocation)}; remove one of the "
                    "two",
                    at=(),
                )
        read.append(allocation)
    return tuple(read)


def read_allocation(choices: Mapping[str, ChoiceSection], space: SearchSpace) -> Allocation:
    """Return the allocation of one choice for each stage, in any order.

    Raises:
        UserError: It is not in the space; the error is at the stage's name, or at the whole.
    """
    names = [stage.name for stage in space.stages]
    for name in choices:
        if name not in names:
            raise UserError(f"unknown stage '{name}'; {valid_names(name, names)}", at=(name,))
    missing = [name for name in names if name not in choices]
    if missing:
        raise UserError(
            f"no choice for {', '.join(missing)}; give every stage one, e.g. "
            f"'{missing[0]}: {space.stage(missing[0]).smallest.name} "
            f"x{space.stage(missing[0]).samples[0]}'",
            at=(),
        )
    allocation = Allocation(tuple(_choice(stage, choices[stage.name]) for stage in space.stages))
    cost = space.cost(allocation)
    if not fits(cost, space.budget):
        raise UserError(
            f"{allocation} costs {cost:.10g} units, more than the budget of {space.budget:.10g}; "
            "lower its samples, or raise search.budget",
            at=(),
        )
    return allocation


def _choice(stage: Stage, given: ChoiceSection) -> Choice:
    models = [model.name for model in stage.models]
    if given.model not in models:
        raise UserError(
            f"stage '{stage.name}' has no model '{given.model}'; "
            + valid_names(given.model, models),
            at=(stage.name,),
        )
    if given.samples not in stage.samples:
        raise UserError(
            f"stage '{stage.name}' does not allow {counted(given.samples, 'sample')}; valid: "
            + _counts(stage.samples),
            at=(stage.name,),
        )
    return Choice(stage.name, given.model, given.samples)


def _counts(counts: Sequence[int]) -> str:
    low, high = counts[0], counts[-1]
    if len(counts) > 1 and high - low + 1 == len(counts):
        return f"{low} to {high}"
    shown = ", ".join(str(count) for count in counts[:_MOST_LISTED])
    return shown if len(counts) <= _MOST_LISTED else f"{shown}, ... up to {high}"
