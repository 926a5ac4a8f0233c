"""What is found out about the models of a run at its launch, and frozen: how they mark their thinking, which weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agenttts.errors import UserError
from agenttts.inference.base import ModelConfig
from agenttts.inference.fingerprint import fingerprint
from agenttts.inference.scripted_thinking import script_thinking
from agenttts.replies import COMMON_THINKING, Thinking, detect_thinking, named_thinking
from agenttts.spec import JobSpec, ModelSection, ThinkingSetting


@dataclass(frozen=True)
class ModelFacts:
    """``thinking``: the markers around a model's thinking, None for none. ``weights``: the fingerprint of its directory,
    None where there is none (a hub id) and in runs launched before there were fingerprints."""

    thinking: Thinking | None
    weights: str | None

    def to_record(self) -> dict[str, Any]:
        """The facts as ``origin.json`` keeps them."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ModelFacts:
        """Inverse of `to_record`."""
        return cls(Thinking.from_record(record["thinking"]), record["weights"])


def find_facts(spec: JobSpec) -> dict[str, ModelFacts]:
    """The facts of every model of a spec as its files are now. Raises `UserError` for files that cannot be read."""
    return {name: _facts(name, model) for name, model in spec.models.items()}


def frozen_facts(spec: JobSpec, origin: Mapping[str, Any]) -> dict[str, ModelFacts]:
    """The facts as a run's ``origin.json`` has them.

    A run launched by a version that froze none goes on with the sample addresses it has: without fingerprints.
    """
    frozen = origin.get("models") or {}
    return {
        name: ModelFacts.from_record(frozen[name])
        if name in frozen
        else ModelFacts(model_thinking(model), None)
        for name, model in spec.models.items()
    }


def changed_weights(spec: JobSpec, facts: Mapping[str, ModelFacts]) -> list[str]:
    """The models whose directory is no longer what it was when ``facts`` were found, as far as it is seen from here."""
    changed = []
    for name, model in spec.models.items():
        try:
            weights = _weights(name, model)
        except UserError:
            continue  # it may be readable where the trials run
        if weights is not None and facts[name].weights not in (None, weights):
            changed.append(name)
    return changed


def model_configs(
    spec: JobSpec, gpus: Mapping[str, int], facts: Mapping[str, ModelFacts]
) -> dict[str, ModelConfig]:
    """The models of a spec as engines need them. Raises `UserError` for a model that the run was launched without."""
    if missing := [name for name in spec.models if name not in gpus]:
        raise UserError(
            f"models.{missing[0]}: the run was launched without this model (its origin.json does not name it); restore the "
            "run's spec.yaml, or launch the new spec under another --name"
        )
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
            weights=facts[name].weights,
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


def _facts(name: str, model: ModelSection) -> ModelFacts:
    return ModelFacts(model_thinking(model), _weights(name, model))


def _weights(name: str, model: ModelSection) -> str | None:
    # The text of a script is part of the address already; what is no place here is a hub id, which has a revision.
    if model.engine == "scripted" or not Path(model.path).is_absolute():
        return None
    try:
        return fingerprint(model.path)
    except OSError as error:
        raise UserError(
            f"models.{name}.path: {error.filename or model.path} cannot be read ({error.strerror}); make the model's files "
            "readable for you"
        ) from None
