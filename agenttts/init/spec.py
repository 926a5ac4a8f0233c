"""The text of a drafted spec, with a budget that is explained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agenttts.dispatch.sizing.model_facts import is_quantised
from agenttts.errors import counted
from agenttts.init.models import ModelDraft
from agenttts.init.task import StageDraft
from agenttts.init.yaml_text import comment, flow, scalar
from agenttts.space import Model, SearchSpace, Stage, stage_budget

_SAMPLES = (1, 32)
_MANY = 16
"""The samples of the largest model that the budget allows in one stage."""
_EXAMPLES = 50
_FEWEST_TESTED = 10
"""The fewest examples of a final test that is suggested."""
_ITERATIONS = 4
_BATCH = 6


def spec_text(
    name: str,
    task_file: str,
    data: str,
    records: int,
    bad: int,
    stages: Sequence[StageDraft],
    models: Sequence[ModelDraft],
    cluster: str,
    check: str,
    *,
    has_file: bool,
) -> str:
    """Return the file of a job spec, with comments.

    Args:
        name: The name of the run.
        task_file: The task's file, relative to the spec.
        data: The data file, as in the spec.
        records: The number of records that can be used.
        bad: The number of others.
        stages: The stages.
        models: The models, the smallest first; every stage may use each of them.
        cluster: The name of the profile.
        check: The command that plans the run.
        has_file: Whether the profile is a file.
    """
    examples = min(_EXAMPLES, records if records < 20 else (records + 1) // 2)
    wanted = _scale(stages, models)
    # params is also the size of a model without files here, or with quantised ones.
    scale = wanted if all(_has_own_size(model) for model in models) else 1
    models = [replace(model, params=scale * model.params) for model in models]
    budget = _budget(stages, models)
    task = {"name": task_file, "data": data}
    skip = f", skip_bad: {bad}" if bad else ""
    profile = f"slurm/{cluster}.yaml" if has_file else "built in: trials run in this process"
    named = ", ".join(flow([model.name]).strip("[]") for model in models)
    lines = [
        *comment(f"{name}, as 'agenttts-hpc init' drafted it. Check what it would do:"),
        f"#   {check}",
        f"name: {scalar(name)}",
    ]
    if bad:
        lines += comment(
            f"{bad} of {counted(records + bad, 'record')} cannot be used, e.g. because a field is "
            "missing: skip_bad leaves out at most so many."
        )
    lines += [
        *comment(
            f"A trial is scored on {examples} of {counted(records, 'example')}. More examples give "
            "more precise scores, and trials cost more."
        ),
        f"task: {flow(task).removesuffix('}')}, examples: {examples}{skip}}}",
        *comment(
            "The allocations: for each stage one of the models and a number of samples. The tokens "
            "are those of a usual prompt and of the longest reply; the budget counts them."
        ),
        "stages:",
    ]
    for stage in stages:
        lines.append(
            f"  {stage.name}: {{models: [{named}], prompt_tokens: {stage.prompt_tokens}, "
            f"decode_tokens: {stage.decode_tokens}, samples: [{_SAMPLES[0]}, {_SAMPLES[1]}]}}"
        )
    lines.append("models:")
    if models[0].script is not None:
        lines += [
            f"  {line}"
            for line in comment(
                "Stand-ins, which know the answers: they let the whole search run here in seconds, "
                "without weights. Replace them by your models: path is then a directory or a hub "
                "id, params the number of parameters, and engine is left out."
            )
        ]
    if scale > 1:
        lines += [
            f"  {line}"
            for line in comment(
                f"So small models cost next to nothing in the budget's unit. params is {scale} "
                "times their size, so that the budget tells allocations apart."
            )
        ]
    elif wanted > 1:
        lines += [
            f"  {line}"
            for line in comment(
                "So small models cost next to nothing in the budget's unit, so the budget hardly "
                "tells allocations apart. init scales params of directories alone: that of a hub "
                "id or a quantised model is also the size by which its GPU-hours are worked out."
            )
        ]
    for model in models:
        engine = ", engine: scripted" if model.script is not None else ""
        style, why = "", model.why
        if model.is_base:
            style = ", prompt_style: few_shot_completion"
            why += "; it has no chat template"
        lines.append(
            f"  {flow([model.name]).strip('[]')}: {{path: {scalar(model.path)}, "
            f"params: {_number(model.params)}{engine}{style}}}   # {why}"
        )
    lines += [
        "search:",
        "  method: agenttts",
        *_explained(stages, models, budget),
        f"  budget: {budget:g}",
        f"  iterations: {_ITERATIONS}    # after the first trials, which compare the models",
        f"  batch_size: {_BATCH}    # trials of an iteration, which run side by side",
        "  seed: 0",
    ]
    if records - (records + 1) // 2 >= _FEWEST_TESTED:
        lines += [
            "  # test_split: test    # score the recommended allocation once more, on examples "
            "that are new to the search",
        ]
    if len(models) > 1:
        large = ", ".join(f"{stage.name}: {models[-1].name} x1" for stage in stages)
        lines += [
            "  # first:              # what you would use without a search; the report compares "
            "with it",
            f"  #   - {{{large}, baseline: true}}",
        ]
    lines += [
        f"cluster: {scalar(cluster)}   # the profile {profile}",
    ]
    return "\n".join(lines) + "\n"


def _has_own_size(model: ModelDraft) -> bool:
    """Return whether a model's size does not depend on its params.

    Its files tell it, or it has none (a stand-in).
    """
    directory = Path(model.path).is_dir() and not is_quantised(model.path, {})
    return model.script is not None or directory


def _scale(stages: Sequence[StageDraft], models: Sequence[ModelDraft]) -> int:
    """Return how many times its parameters each model counts in the budget.

    It is 1, or a power of 10 if many samples of the largest model cost less than one unit.
    """
    scale, large = 1, models[-1]
    while any(
        _cost([stage], replace(large, params=scale * large.params), _MANY) < 1 for stage in stages
    ):
        scale *= 10
    return scale


def _budget(stages: Sequence[StageDraft], models: Sequence[ModelDraft]) -> float:
    """Return a budget for the largest model with many samples in any one stage.

    It also allows the largest model with two samples in every stage.
    """
    small, large = models[0], models[-1]
    one = [
        _cost([stage], large, _MANY) + _cost([s for s in stages if s is not stage], small, 1)
        for stage in stages
    ]
    return _rounded_up(max(*one, _cost(stages, large, 2), 1.0))


def _explained(
    stages: Sequence[StageDraft], models: Sequence[ModelDraft], budget: float
) -> list[str]:
    small, large = models[0], models[-1]
    rows = [(f"{small.name} x1 in every stage", _cost(stages, small, 1))]
    if large is not small:
        rows.append((f"{large.name} x1 in every stage", _cost(stages, large, 1)))
    for stage in stages:
        others = [s for s in stages if s is not stage]
        rest = f", {small.name} x1 in the others" if others else ""
        cost = _cost([stage], large, _MANY) + _cost(others, small, 1)
        rows.append((f"{large.name} x{_MANY} in {stage.name}{rest}", cost))
    rows.append((f"{large.name} x{_SAMPLES[1]} in every stage", _cost(stages, large, _SAMPLES[1])))
    width = max(len(text) for text, _ in rows)
    text = (
        "The budget is what answering ONE example may cost at most. The unit is one sample of 64 "
        "tokens of a model with 3e9 parameters. The whole search costs trials x examples x that. "
        "Here:"
    )
    count = _count(stages, models, budget)
    costs = "costs" if count == "1" else "cost"
    return [
        *(f"  {line}" for line in comment(text)),
        *(f"  #   {label:{width}}  {cost:8.1f}" for label, cost in rows),
        f"  # {counted(count, 'allocation')} {costs} at most {budget:g}.",
    ]


def _count(stages: Sequence[StageDraft], models: Sequence[ModelDraft], budget: float) -> str:
    limit = 100_000
    offered = tuple(Model(model.name, model.params) for model in models)
    counts = tuple(range(_SAMPLES[0], _SAMPLES[1] + 1))
    space = SearchSpace(
        tuple(Stage(s.name, offered, s.prompt_tokens, s.decode_tokens, counts) for s in stages),
        budget,
    )
    found = space.count(limit)
    return f"{found:,}" if found < limit else f"More than {limit:,}"


def _cost(stages: Sequence[StageDraft], model: ModelDraft, samples: int) -> float:
    return math.fsum(
        stage_budget(model.params, stage.prompt_tokens, stage.decode_tokens, samples)
        for stage in stages
    )


def _rounded_up(value: float) -> float:
    """Return a value of two digits that is not below ``value``."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / step) * step:.6g}")


def _number(params: float) -> str:
    """Return a number of parameters as users write it: ``7.6e9``."""
    exponent = 9 if params >= 1e8 else 6
    return f"{params / 10**exponent:g}e{exponent}"
