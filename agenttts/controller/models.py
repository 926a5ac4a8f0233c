"""What is found out about the models of a run at its launch, and frozen: how they mark their thinking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agenttts.inference.base import ModelConfig
from agenttts.inference.scripted_thinking import script_thinking
from agenttts.replies import COMMON_THINKING, Thinking, detect_thinking, named_thinking
from agenttts.spec import JobSpec, ModelSection, ThinkingSetting


@dataclass(frozen=True)
class ModelFacts:
    """``thinking``: the markers around a model's thinking, None for none."""

    thinking: Thinking | None

    def to_record(self) -> dict[str, Any]:
        """The facts as ``origin.json`` keeps them."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ModelFacts:
        """Inverse of `to_record`."""
        return cls(Thinking.from_record(record["thinking"]))


def find_facts(spec: JobSpec) -> dict[str, ModelFacts]:
    """The facts of every model of a spec as its files are now."""
    return {name: ModelFacts(model_thinking(model)) for name, model in spec.models.items()}


def frozen_facts(spec: JobSpec, origin: Mapping[str, Any]) -> dict[str, ModelFacts]:
    """The facts as a run's ``origin.json`` has them; found now for a run launched by a version that froze none."""
    frozen = origin.get("models") or {}
    return {
        name: ModelFacts.from_record(frozen[name])
        if name in frozen
        else ModelFacts(model_thinking(model))
        for name, model in spec.models.items()
    }


def model_configs(
    spec: JobSpec, gpus: Mapping[str, int], facts: Mapping[str, ModelFacts]
) -> dict[str, ModelConfig]:
    """The models of a spec as engines need them."""
    return {
        name: ModelConfig(
            name=name,
            path=model.path,
            revision=model.revision,
            engine=model.engine,
            prompt_style=model.prompt_style,
            gpus=gpus[name],
            options=model.options,
            template_args=model.template_args,
            thinking=facts[name].thinking,
        )
        for name, model in spec.models.items()
    }


def model_thinking(model: ModelSection) -> Thinking | None:
    """The markers of a model: as the spec names them or, for ``auto``, as its files show them."""
    if model.engine == "scripted" and model.thinking == "auto":
        return script_thinking(model.options) or COMMON_THINKING
    return resolve_thinking(model.thinking, model.path)


def resolve_thinking(setting: ThinkingSetting, path: str | None) -> Thinking | None:
    """The markers that a setting means for the model at ``path`` (None: elsewhere); the common ones where its files show
    none."""
    if setting == "none":
        return None
    directory = Path(path) if path else None
    if setting == "auto":
        return detect_thinking(directory) or COMMON_THINKING
    return named_thinking(setting.start, setting.end, directory)
