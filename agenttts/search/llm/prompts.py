"""The prompts, from Jinja2 templates in ``prompts/``.

The values come from the space, the archive and the task.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttts.errors import UserError
from agenttts.files.unicode import clean_text
from agenttts.search.archive import Archive, TrialResult
from agenttts.search.llm.base import Chat, Message
from agenttts.search.llm.task_description import TaskDescription
from agenttts.search.noise import score_text
from agenttts.space import Allocation, SearchSpace, Stage, units_text

if TYPE_CHECKING:  # Jinja2 is imported when a prompt is written: most commands need none
    import jinja2

FOLDER = Path(__file__).with_name("prompts")
_LONGEST_SAMPLE_LIST = 24
_REASON = {"type": "string", "maxLength": 160}


class Prompts:
    """Writes the questions of one search.

    ``insights`` are the insights that the guideline prompts mention (1 to 3).
    """

    def __init__(
        self,
        space: SearchSpace,
        task_description: TaskDescription,
        insights: Collection[int] = (1, 2, 3),
    ) -> None:
        self._space = space
        self._facts = {
            "task_description": task_description,
            "space": space,
            "budget": units_text(space.budget),
            "stages": [_stage_facts(space, stage, task_description) for stage in space.stages],
            "insights": set(insights),
            # A feasible allocation that shows the format; it need not be good.
            "example": allocation_text(space.cheapest),
        }

    def chat(
        self,
        purpose: str,
        template: str,
        *,
        schema: Mapping[str, Any] | None = None,
        seed: int = 0,
        **values: Any,
    ) -> Chat:
        """Return a question: the system message and ``template``, filled in.

        The template gets the facts of the search and ``values``.
        """
        messages: tuple[Message, ...] = (
            {"role": "system", "content": self.text("system", **values)},
            {"role": "user", "content": self.text(template, **values)},
        )
        return Chat(purpose, messages, schema, seed)

    def proposals(self, template: str, n: int, archive: Archive, seed: int, **values: Any) -> Chat:
        """Return the question for ``n`` allocations."""
        return self.chat(
            "propose",
            template,
            schema=self.allocations_schema(n),
            seed=seed + len(archive.known),
            n=n,
            waiting=[allocation_text(a) for a in archive.pending],
            **values,
        )

    def text(self, template: str, **values: Any) -> str:
        """Return one template, filled in."""
        filled: str = _environment().get_template(f"{template}.j2").render(**self._facts, **values)
        return clean_text(filled.strip())  # a transcript of an earlier version has surrogates

    def allocations_schema(self, n: int) -> dict[str, Any]:
        """Return the JSON schema of a reply with up to ``n`` allocations."""
        stages = {
            stage.name: _object(
                model={"enum": [model.name for model in stage.models]},
                samples={
                    "type": "integer",
                    "minimum": stage.samples[0],
                    "maximum": stage.samples[-1],
                },
            )
            for stage in self._space.stages
        }
        item = _object(**stages, reason=_REASON)
        return _object(allocations=_list(item, n))

    def batch_schema(self, n: int, most: int) -> dict[str, Any]:
        """Return the JSON schema of a reply to the one question of a batch.

        The order is that of thought: analysis, guidelines, and of a proposal first the reason.
        """
        listed = self.allocations_schema(n)["properties"]["allocations"]["items"]["properties"]
        stages = {name: part for name, part in listed.items() if name != "reason"}
        item = _object(reason=_REASON, **stages, predicted_score={"type": "number"})
        return _object(
            analysis={"type": "string", "maxLength": 800},
            guidelines=_list({"type": "string", "maxLength": 200}, most),
            allocations=_list(item, n),
        )

    def sketch_schema(self, counts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Return the JSON schema of a sketch of utilities at numbers of samples."""
        utility = {"type": "number", "minimum": 0, "maximum": 1}
        stages = {
            stage.name: _object(
                **{
                    model.name: _object(**{str(count): utility for count in counts[stage.name]})
                    for model in stage.models
                }
            )
            for stage in self._space.stages
        }
        return _object(analysis={"type": "string", "maxLength": 600}, utility=_object(**stages))

    @staticmethod
    def guidelines_schema(most: int) -> dict[str, Any]:
        """Return the JSON schema of a reply with up to ``most`` guidelines."""
        return _object(guidelines=_list({"type": "string", "maxLength": 300}, most))


def history(archive: Archive, limit: int | None = None) -> list[dict[str, str]]:
    """Return the results of trials for a prompt, in the archive's order.

    Each has allocation, cost, score and metrics as texts.

    Args:
        archive: The results.
        limit: The most results to return. Half of them are the best, and half are the latest of the
            rest.
    """
    results = list(enumerate(archive.evaluated, start=1))
    if limit is not None and len(results) > limit:
        scored = [item for item in results if item[1].score is not None]
        best = sorted(scored, key=lambda item: (-(item[1].score or 0.0), item[0]))[: limit // 2]
        kept = {number for number, _ in best}
        rest = [item for item in results if item[0] not in kept][len(best) - limit :]
        results = sorted([*best, *rest])
    return [_result(archive.space, number, result) for number, result in results]


def allocation_text(allocation: Allocation) -> str:
    """Return an allocation as prompts write it.

    For example ``{"retrieval": {"model": "m", "samples": 4}, ...}``.
    """
    record = {c.stage: {"model": c.model, "samples": c.samples} for c in allocation.choices}
    return json.dumps(record, ensure_ascii=False)


def choices_text(allocation: Allocation) -> str:
    """Return an allocation as prompts list it, e.g. ``retrieval=m x 4, answer=n x 1``."""
    return ", ".join(f"{c.stage}={c.model} x {c.samples}" for c in allocation.choices)


def fixed_text(value: float, decimals: int, error: float | None = None) -> str:
    """Return a score with these decimals at least.

    It has more if its size or standard error needs them.
    """
    text = score_text(value, error)
    return text if len(text.partition(".")[2]) > decimals else f"{value:.{decimals}f}"


def _result(space: SearchSpace, number: int, result: TrialResult) -> dict[str, str]:
    errors = result.metrics_stderr
    metrics = (f"{n}={fixed_text(v, 3, errors.get(n))}" for n, v in result.metrics.items())
    return {
        "number": str(number),
        "allocation": choices_text(result.allocation),
        "cost": _cost(space, result.allocation),
        "score": "failed" if result.score is None else fixed_text(result.score, 4, result.stderr),
        "metrics": " ".join(metrics),
    }


def _cost(space: SearchSpace, allocation: Allocation) -> str:
    try:
        return f"{space.cost(allocation):.0f}"
    except UserError:  # a stage or a model that the space no longer has
        return "?"


def _stage_facts(
    space: SearchSpace, stage: Stage, task_description: TaskDescription
) -> dict[str, Any]:
    return {
        "name": stage.name,
        "description": task_description.stages.get(stage.name, ""),
        "prompt_tokens": stage.prompt_tokens,
        "decode_tokens": stage.decode_tokens,
        "samples": _samples_text(stage.samples),
        "models": [
            {
                "name": model.name,
                "params": f"{model.params / 1e9:g}B",
                "one": f"{stage.budget(model.name, 1):.1f}",
                "each": f"{stage.budget(model.name, 2) - stage.budget(model.name, 1):.2f}",
                "most": stage.affordable_samples(model.name, space.spare(stage, space.cheapest)),
            }
            for model in stage.models
        ],
    }


def _samples_text(samples: Sequence[int]) -> str:
    if len(samples) > 1 and list(samples) == list(range(samples[0], samples[-1] + 1)):
        return f"any whole number from {samples[0]} to {samples[-1]}"
    shown = [str(count) for count in samples[:_LONGEST_SAMPLE_LIST]]
    return ", ".join(shown) + (
        f", ... up to {samples[-1]}" if len(samples) > _LONGEST_SAMPLE_LIST else ""
    )


def _list(item: Mapping[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": most}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    # StrictUndefined: a misspelt name in a template raises an error, and leaves no gap in a prompt.
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        autoescape=False,
    )
