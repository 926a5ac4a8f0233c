"""One allocation of the user's, evaluated as a run of its own.

Such a run is a search that has only this allocation to try. All checks, files and commands of a run
apply to it, and it shares samples as its spec says.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from agenttts.errors import KeyPath, UserError, dotted
from agenttts.launch.differences import changed_values
from agenttts.space import Allocation
from agenttts.spec import JobSpec
from agenttts.spec.allocations import ChoiceSection, read_allocation
from agenttts.spec.model import SearchSection

_FORM = "valid: 'STAGE=MODEL xSAMPLES, ...', e.g. 'retrieval=qwen-7b x8, answer=llama-3b x4'"
_MOST_OF_NAME = 48
_INSTEAD = {
    "search.examples": "--examples N gives the number of examples",
    "search.test_split": "--set task.split=test takes the examples of the split 'test'",
}
"""What to give in place of keys without effect."""


def evaluation_spec(
    spec: JobSpec, allocation: str, *, examples: int | None = None, named: bool = False
) -> JobSpec:
    """Return the spec of a run that evaluates one allocation.

    It has no iterations, no language model, no finalists and no final test. If the allocation costs
    more than the budget, the budget is its cost.

    Args:
        spec: The spec of a search.
        allocation: The allocation as the user wrote it: ``STAGE=MODEL xSAMPLES, ...``.
        examples: The number of examples; None: as in the spec.
        named: Whether the user has named the run. If not, its name tells the allocation from
            others of the same spec.

    Raises:
        UserError: The allocation has another form, or is not one of the spec's stages and models.
            Or a value was given with ``--set`` that such a run does not have.
    """
    chosen = _read(spec, allocation)
    budget = max(spec.search.budget, spec.space().cost(chosen))
    first = [
        {c.stage: ChoiceSection(model=c.model, samples=c.samples) for c in chosen.choices},
    ]
    changes: dict[str, Any] = {
        "search": SearchSection(
            method="random",
            budget=budget,
            iterations=0,
            batch_size=1,
            seed=spec.search.seed,
            first=first,
            stored=False,
        ),
        "agent": "none",
    }
    if examples is not None:
        changes["task"] = spec.task.model_copy(update={"examples": examples})
    if not named:
        text = f"{chosen} on {examples or spec.task.examples}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        changes["name"] = f"{spec.name[:_MOST_OF_NAME]}-eval-{digest}"
    evaluated = spec.model_copy(update=changes)
    with spec.located():
        _check_effects(spec, evaluated)
    return evaluated


def _check_effects(spec: JobSpec, evaluated: JobSpec) -> None:
    """Check that the run has every value that was given with ``--set``.

    Raises:
        UserError: It has another value for a key.
    """
    sections = {"search", "agent", "task"}
    old, new = (s.model_dump(mode="json", include=sections) for s in (spec, evaluated))
    changed = [path for path in changed_values(old, new) if path != ("search", "budget")]
    for given in spec.overridden():
        keys: list[KeyPath] = [given]
        if given == ("search",):
            keys = [("search", name) for name in sorted(spec.search.model_fields_set)]
        for key in keys:
            if any(path[: len(key)] == key or key[: len(path)] == path for path in changed):
                raise UserError(_without_effect(key), at=key)


def _without_effect(key: KeyPath) -> str:
    """Return what is said of a ``--set`` of a key that the run takes from elsewhere."""
    if key[0] == "task":
        return "--examples gives another number; give one of the two"
    instead = _INSTEAD.get(dotted(key[:2]), "leave it out")
    return (
        "evaluate has no search and asks no language model, so this would have no effect; "
        f"{instead} (of search, evaluate takes budget and seed)"
    )


def _read(spec: JobSpec, text: str) -> Allocation:
    """Return the allocation in a text, also one over the budget."""
    choices: dict[str, ChoiceSection] = {}
    for part in text.split(","):
        stage, separator, choice = part.partition("=")
        stage = stage.strip()
        if not separator or not stage:
            raise UserError(f"--allocation: '{part.strip()}' is not the choice of a stage; {_FORM}")
        if stage in choices:
            raise UserError(f"--allocation: stage '{stage}' is given twice; {_FORM}")
        try:
            choices[stage] = ChoiceSection.model_validate(choice)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise UserError(f"--allocation: stage '{stage}': {problem}") from None
    unlimited = replace(spec.space(), budget=sys.float_info.max / 2)
    try:
        return read_allocation(choices, unlimited)
    except UserError as error:
        raise UserError(f"--allocation: {error}") from None
