"""What launch finds out about the models of a run.

That is how they mark their thinking, and which weights they have.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agenttts.dispatch.sizing.cpu_dtype import cpu_dtype
from agenttts.errors import KeyPath, UserError
from agenttts.inference.base import ModelConfig, SamplingParams, sample_key
from agenttts.inference.chat_form import (
    MessageLeftOut,
    Render,
    changed_form,
    renderer,
    roles_of,
)
from agenttts.inference.context import only_cuts
from agenttts.inference.fingerprint import contents_digest, fingerprint
from agenttts.inference.placement import PLACING_OPTIONS
from agenttts.inference.sampling_options import sampling_of
from agenttts.inference.scripted import script_thinking
from agenttts.replies import COMMON_THINKING, Thinking, detect_thinking, named_thinking
from agenttts.run.record import RunRecord
from agenttts.spec import JobSpec, ModelSection, ThinkingSetting

_RULES, _RULES_WITH_CONTEXT = 3, 2
"""Rules of fingerprints and sample addresses in a run that is launched now.

The second ones are for models whose context may change more than the prompts that are cut for it.
"""


@dataclass(frozen=True)
class ModelFacts:
    """What launch found out about a model.

    Attributes:
        thinking: The markers around the model's thinking; None for none.
        weights: The fingerprint of its directory; None without a directory (a hub id).
        rules: Number of the rules that make the fingerprint and sample addresses. A run keeps its
            number, and so finds the samples that it has stored.
        dtype: The data type that it gets on a CPU (`cpu_dtype`); None for its engine's default.
        chat_form: As in `agenttts.inference.base.ModelConfig`.
        sampling: As in `agenttts.inference.base.ModelConfig`.
    """

    thinking: Thinking | None
    weights: str | None
    rules: int
    dtype: str | None = None
    chat_form: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)


def find_facts(spec: JobSpec, *, gpus_per_node: int) -> dict[str, ModelFacts]:
    """Return the facts of every model of a spec, from its files as they are now.

    Args:
        spec: The spec.
        gpus_per_node: GPUs of a node of the profile.

    Raises:
        UserError: A file cannot be read.
    """
    return {
        name: ModelFacts(
            model_thinking(model),
            _weights(name, model, _RULES),
            rules=_RULES
            if only_cuts(model.engine, model.path, model.options)
            else _RULES_WITH_CONTEXT,
            dtype=cpu_dtype(
                model.path,
                model.engine,
                model.options,
                gpus=model.gpus,
                gpus_per_node=gpus_per_node,
            ),
            chat_form=_chat_form(model),
            sampling=sampling_of(model.engine, model.options),
        )
        for name, model in spec.models.items()
    }


def frozen_facts(spec: JobSpec, models: Mapping[str, ModelConfig]) -> dict[str, ModelFacts]:
    """Return the facts that launch froze.

    Args:
        spec: The run's spec.
        models: The models of its record.
    """

    def dtype(name: str, model: ModelConfig) -> str | None:
        given = spec.models[name].options.get("dtype") is not None
        chosen = model.options.get("dtype")
        return None if given or chosen is None else str(chosen)

    return {
        name: ModelFacts(
            model.thinking,
            model.weights,
            model.rules,
            dtype(name, model),
            model.chat_form,
            model.sampling,
        )
        for name, model in models.items()
    }


def with_dtype(options: Mapping[str, Any], dtype: str | None) -> Mapping[str, Any]:
    """Return an engine's options with the data type that launch chose, if any."""
    return options if dtype is None else {**options, "dtype": dtype}


def changed_models(
    models: Mapping[str, ModelConfig], contents: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return the models whose files have changed since launch, with their places.

    Changes that this machine does not see are left out.

    Args:
        models: The models of the run's record.
        contents: Its digests of what their files held (`contents_of`).
    """
    changed = {}
    for name, model in models.items():
        try:
            if _is_changed(name, model, contents.get(name)):
                changed[name] = list(_places(model).values())
        except UserError:
            continue  # it may be readable on the nodes of the trials
    return changed


def _is_changed(name: str, model: ModelConfig, contents: str | None) -> bool:
    """Return whether a model's files differ from those of the launch."""
    if model.engine == "scripted":
        found = contents_of({name: model}).get(name)
        return None not in (contents, found) and contents != found
    if not all(map(os.path.exists, _places(model).values())):
        return False
    found = _weights(name, model, model.rules)
    return None not in (model.weights, found) and model.weights != found


def contents_of(models: Mapping[str, ModelConfig]) -> dict[str, str]:
    """Return the digest of what the files of each local model hold.

    Raises:
        UserError: A file cannot be read.
    """
    found = {
        name: _of_places(name, _places(model), contents_digest)
        for name, model in models.items()
        if model.files is not None
    }
    return {name: digest for name, digest in found.items() if digest is not None}


def same_model(name: str, first: RunRecord, second: RunRecord) -> bool | None:
    """Return whether a model of two runs draws the same samples.

    It may have other files that hold the same, or another number of GPUs. None: that is not known.
    An older version launched a run and did not record what the files hold, or the model is on two
    servers and no revision says that it is the same there.

    Args:
        name: The model's name, which both runs have.
        first: The record of one run.
        second: The record of the other run.
    """
    one, two = first.models[name], second.models[name]
    if _without_place(one) != _without_place(two):
        return False
    if on_other_server(one, two):
        return None
    unchanged = one.path == two.path and one.weights == two.weights
    if unchanged and one.engine != "scripted":
        return True
    digests = [record.contents.get(name) for record in (first, second)]
    if None not in digests:
        return digests[0] == digests[1]
    if unchanged:
        return True
    local = [model.files is not None for model in (one, two)]
    return None if any(local) else False


def on_other_server(one: ModelConfig, two: ModelConfig) -> bool:
    """Return whether two models share samples though they may be different ones.

    They have one id on different servers. Where a server is does not belong to the address of
    samples, because a server may move. A ``revision`` says which model it is.
    """
    servers = [str(model.options.get("base_url")).rstrip("/") for model in (one, two)]
    return servers[0] != servers[1] and _server_key(one) == _server_key(two) != ""


def _server_key(model: ModelConfig) -> str:
    """Return what is equal for models that share samples by their id.

    It is empty for all others.
    """
    if model.engine != "endpoint" or model.revision is not None:
        return ""
    # A chat and a plain text have no common samples.
    content = "" if model.prompt_style == "few_shot_completion" else ()
    plain = replace(model, rules=_RULES_WITH_CONTEXT, thinking=None)
    return sample_key(plain, content, SamplingParams(0.0, 1), 0)


def _without_place(model: ModelConfig) -> ModelConfig:
    # What the places hold is a part of the digest.
    left_out = {*PLACING_OPTIONS, *(key[-1] for key in _places(model))}
    options = {name: value for name, value in model.options.items() if name not in left_out}
    return replace(model, path="", weights=None, rules=0, gpus=0, options=options)


def model_configs(
    spec: JobSpec, gpus: Mapping[str, int], facts: Mapping[str, ModelFacts]
) -> dict[str, ModelConfig]:
    """Return the models of a spec in the form that engines need."""
    return {
        name: ModelConfig(
            name=name,
            path=model.path,
            revision=model.revision,
            engine=model.engine,
            prompt_style=model.prompt_style,
            gpus=gpus[name],
            options=with_dtype(model.options, facts[name].dtype),
            template_args=model.template_args,
            thinking=facts[name].thinking,
            weights=facts[name].weights,
            rules=facts[name].rules,
            chat_form=facts[name].chat_form,
            sampling=facts[name].sampling,
        )
        for name, model in spec.models.items()
    }


def model_thinking(model: ModelSection) -> Thinking | None:
    """Return a model's markers, from the spec or, for ``auto``, from its files."""
    if model.engine == "scripted" and model.thinking == "auto":
        return script_thinking(model.options) or COMMON_THINKING
    tokenizer = model.options.get("tokenizer")
    if model.engine == "endpoint":  # its files are elsewhere
        return resolve_thinking(model.thinking, None)
    return resolve_thinking(
        model.thinking, model.path, tokenizer if isinstance(tokenizer, str) else None
    )


def resolve_thinking(
    setting: ThinkingSetting, path: str | None, tokenizer: str | None = None
) -> Thinking | None:
    """Return the markers that a setting means for a model.

    For ``auto`` they are read from the model's files. If these show none, they are the common ones.

    Args:
        setting: The spec's setting.
        path: The model's directory, or a file beside its tokenizer; None: elsewhere.
        tokenizer: Where the tokenizer is, if not at ``path``.
    """
    if setting == "none":
        return None
    places = [folder for place in (tokenizer, path) if place and (folder := _folder(Path(place)))]
    if setting == "auto":
        found = (detect_thinking(folder) for folder in places)
        return next((thinking for thinking in found if thinking), COMMON_THINKING)
    return named_thinking(setting.start, setting.end, places[0] if places else None)


def _chat_form(model: ModelSection) -> str:
    template = chat_renderer(model)
    try:
        return "" if template is None else changed_form(template, roles_of(model.prompt_style))
    except MessageLeftOut:  # a launch refuses it; an earlier run goes on as before
        return ""


def chat_renderer(model: ModelSection) -> Render | None:
    """Return a model's chat template.

    None if the model is asked in no chats, or has none here.
    """
    asked_here = model.engine in ("vllm", "transformers")
    tokenizer = model.options.get("tokenizer")
    place = Path(tokenizer if isinstance(tokenizer, str) else model.path)
    if not asked_here or model.prompt_style == "few_shot_completion" or not place.is_absolute():
        return None
    return renderer(place, model.template_args)


def _folder(place: Path) -> Path | None:
    try:
        if place.is_dir():
            return place
        return place.parent if place.is_file() else None
    except OSError:  # in a directory that is closed: the checks of a launch report it
        return None


def _weights(name: str, model: ModelSection | ModelConfig, rules: int) -> str | None:
    """Return the fingerprint of a model's files; None for a script or if not here."""
    # The text of a script is already a part of the address. A hub id and a server's model have a
    # revision.
    if model.engine == "scripted" or model.files is None:
        return None
    places = _places(model)
    if rules < 2:
        places = {("path",): places["path",]}
    return _of_places(name, places, lambda place: fingerprint(place, rules))


def _places(model: ModelSection | ModelConfig) -> dict[KeyPath, str]:
    """Return the places of a model's files, by key."""
    places: dict[KeyPath, str] = {("path",): model.path}
    tokenizer = model.options.get("tokenizer")
    if isinstance(tokenizer, str) and Path(tokenizer).is_absolute():
        places["options", "tokenizer"] = tokenizer
    return places


def _of_places(
    name: str, places: Mapping[KeyPath, str], digest: Callable[[str], str | None]
) -> str | None:
    """Return the digest of a model's places together; None if the model is not here."""
    found = []
    for key, place in places.items():
        try:
            found.append(digest(place))
        except OSError as error:
            raise UserError(
                f"{error.filename or place} cannot be read ({error.strerror}); give yourself "
                "permission to read the model's files",
                at=("models", name, *key),
            ) from None
    if found[0] is None or found[1:] in ([], [None]):
        return found[0]
    return hashlib.sha256("\0".join(map(str, found)).encode()).hexdigest()[:16]
