"""Cut samples: how many of each stage and model, and when a run warns of them.

A sample is cut when it reaches the stage's ``decode_tokens``. It is a worse answer than the model's
own, or no answer (if it was cut within its thinking). An allocation with many of them is scored for
its token limit, not for its models. The functions are pure: rows in, values out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from agenttts.tables.schema import TrialRow

CUT_SHARE_WARNED_OF = 0.10
"""Share of cut samples of a model in a stage above which a run warns of it."""


@dataclass(frozen=True)
class CutSamples:
    """Numbers of drawn and of cut samples of a stage, over many trials.

    ``model`` is None for all models of the stage together.
    """

    stage: str
    model: str | None
    samples: int
    cut: int

    @property
    def share(self) -> float:
        """The share of samples that were cut."""
        return self.cut / self.samples if self.samples else 0.0


def cut_by_model(rows: Iterable[TrialRow]) -> list[CutSamples]:
    """Return cut samples by stage and model, in order of first appearance.

    Trials without these numbers are left out.
    """
    found: dict[tuple[str, str], CutSamples] = {}
    for row in rows:
        models = {choice.stage: choice.model for choice in row.allocation.choices}
        for part in row.cut_samples:
            key = (part["stage"], models[part["stage"]])
            sums = found.get(key, CutSamples(*key, 0, 0))
            found[key] = replace(
                sums, samples=sums.samples + part["samples"], cut=sums.cut + part["cut"]
            )
    return list(found.values())


def cut_by_stage(by_model: Iterable[CutSamples]) -> list[CutSamples]:
    """Return cut samples by stage, all models together."""
    found: dict[str, CutSamples] = {}
    for part in by_model:
        sums = found.get(part.stage, CutSamples(part.stage, None, 0, 0))
        found[part.stage] = replace(
            sums, samples=sums.samples + part.samples, cut=sums.cut + part.cut
        )
    return list(found.values())


def cut_document(by_model: Iterable[CutSamples]) -> dict[str, object]:
    """Return shares of cut samples by stage, and in each by model.

    It is a part of the JSON of ``status`` and ``report``.
    """
    parts = list(by_model)
    return {
        stage.stage: {
            "samples": stage.samples,
            "cut": stage.cut,
            "share": stage.share,
            "models": {part.model: part.share for part in parts if part.stage == stage.stage},
        }
        for stage in cut_by_stage(parts)
    }


def cut_warnings(
    by_model: Iterable[CutSamples], decode_tokens: Mapping[str, int | None]
) -> list[str]:
    """Return a line for each stage in which a model has too many cut samples.

    The limit is `CUT_SHARE_WARNED_OF`. It applies to models, because a search avoids a model with
    many cut samples. Few of the stage's samples are then cut, although the model is rejected for
    its token limit.

    Args:
        by_model: Cut samples by stage and model.
        decode_tokens: The spec's ``decode_tokens``, by stage.
    """
    parts = list(by_model)
    warnings = []
    for stage in cut_by_stage(parts):
        worst = [
            part
            for part in sorted(parts, key=lambda part: -part.share)
            if part.stage == stage.stage and part.share > CUT_SHARE_WARNED_OF
        ]
        if not worst:
            continue
        models = ", ".join(f"{part.model} {part.share:.0%}" for part in worst)
        limit = decode_tokens.get(stage.stage)
        at = f" at decode_tokens {limit}" if limit else ""
        warnings.append(
            f"stage '{stage.stage}': {stage.share:.0%} of its samples were cut{at} ({models}), "
            "so its scores perhaps do not show what the models can do. "
            f"Raise stages.{stage.stage}.decode_tokens (the budget counts it), "
            "or shorten the thinking of a model that thinks (models.NAME.template_args, "
            "such as enable_thinking: false for Qwen3)"
        )
    return warnings
