"""The checks of a launch.

An error in the spec is always raised. What this machine lacks is raised too, or collected for a dry
run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agenttts.dispatch.profile import Profile
from agenttts.dispatch.schedulers import scheduler_type
from agenttts.dispatch.sizing.gpu_need import GpuNeed, gpu_need
from agenttts.dispatch.slurm.syntax import memory_bytes, memory_times
from agenttts.errors import MissingRequirement, Unavailable, UserError, valid_names
from agenttts.inference.embedding import find_embedding_model
from agenttts.inference.engine_options import check_options
from agenttts.inference.hub_snapshots import (
    download_command,
    find_snapshot,
    hub_cache,
    with_places,
)
from agenttts.inference.model_files import check_model_files, check_there
from agenttts.sandbox import check_sandbox
from agenttts.spec import JobSpec, ServeAgent
from agenttts.spec.paths import named_places
from agenttts.tasks.base import Task
from agenttts.trial.toolbox import refusal


@dataclass(frozen=True)
class Problem:
    """A reason to refuse a launch from this machine, and how to fix it."""

    what: str
    fix: str


class Checks:
    """What this machine lacks.

    A launch raises it at once. A dry run collects it in ``problems``.
    """

    def __init__(self, *, dry_run: bool) -> None:
        self.problems: list[Problem] = []
        self._dry_run = dry_run

    @contextmanager
    def here(self) -> Iterator[None]:
        """Run a check of what this machine has.

        Any other `UserError`, i.e. an input that is wrong on every machine, is always raised.
        """
        try:
            yield
        except (Unavailable, MissingRequirement) as error:
            if not self._dry_run:
                raise
            self.problems.append(Problem(" ".join(error.what.split()), error.fix))


def ordered(spec: JobSpec, task: Task) -> JobSpec:
    """Return the spec with its stages in the task's order.

    Raises:
        UserError: The stages are not the task's.
    """
    names = [stage.name for stage in task.stages]
    for stage in spec.stages:
        if stage not in names:
            raise UserError(
                f"stages.{stage}: task '{task.name}' has no such stage; {valid_names(stage, names)}"
            )
    missing = [name for name in names if name not in spec.stages]
    if missing:
        raise UserError(
            f"stages: task '{task.name}' also needs {', '.join(missing)}; valid: "
            f"{', '.join(names)}, all of them"
        )
    return spec.model_copy(update={"stages": {name: spec.stages[name] for name in names}})


def check_toolbox(task: Task, spec: JobSpec, profile: Profile) -> None:
    """Check that this machine has what the trials' toolbox needs.

    An image is not checked.

    Raises:
        UserError: Something is missing, or the spec does not allow code on the host.
        MissingRequirement: The machine has no sandbox, or not the package for embeddings.
    """
    settings = task.toolbox_settings(spec.task.options)
    if settings is None or profile.container is not None or spec.container.image is not None:
        return
    if settings.runs_code:
        if not spec.task.run_code_on_host:
            raise UserError(refusal())
        check_sandbox()
    if settings.embeds:
        find_embedding_model(settings.embedding_model)


def with_snapshots(spec: JobSpec, profile: Profile, checks: Checks) -> JobSpec:
    """Return the spec with hub ids replaced by directories of downloaded snapshots.

    They are those of models, and those in the options of engines (tokenizers, draft models). If
    trials reach no hub (in a container, on compute nodes), what was not downloaded is unavailable.
    """
    offline = (
        scheduler_type(profile.kind).has_nodes
        or profile.container is not None
        or spec.container.image is not None
    )

    def place(path: str, revision: str | None, key: str) -> str:
        option = key.partition(".options.")[2]
        what = _PLACES.get(option, "configuration") if option else "model"
        if Path(path).is_absolute():
            return path
        weights = what in ("model", "draft")
        try:
            found = find_snapshot(path, revision, weights=weights)
        except OSError as error:
            with checks.here():
                raise Unavailable(
                    f"{key}: the {what} '{path}' is looked for in the hub's cache, and "
                    f"{error.filename} cannot be read ({error.strerror})",
                    fix="make it readable for you, or set HF_HUB_CACHE to a cache that is",
                ) from None
            return path
        if weights and found is not None and not offline and not _whole(found, what):
            return path  # the engine fetches the rest
        if found is None and offline:
            with checks.here():
                raise Unavailable(
                    f"{key}: the {what} '{path}' is no directory and is not in the hub's cache "
                    f"{hub_cache()}, and "
                    "trials cannot download it",
                    fix=f"run '{download_command(path, revision)}' here, with HF_HOME on a "
                    "file system that the "
                    "compute nodes see, or give the directory",
                )
        return str(found or path)

    models = {}
    for name, model in spec.models.items():
        if model.engine != "scripted":
            path = place(model.path, model.revision, f"models.{name}.path")
            key = f"models.{name}.options"
            options = with_places(model.options, model.revision, key, place)
            model = model.model_copy(update={"path": path, "options": options})
        models[name] = model
    agent = spec.agent
    if isinstance(agent, ServeAgent):
        known = spec.models.get(agent.model)
        path = agent.model if known else place(agent.model, None, "agent.model")
        revision = known.revision if known else None
        options = with_places(agent.options, revision, "agent.options", place)
        agent = agent.model_copy(update={"model": path, "options": options})
    return spec.model_copy(update={"models": models, "agent": agent})


def model_need(name: str, spec: JobSpec, profile: Profile, checks: Checks) -> GpuNeed:
    """Return the GPUs that a model of the spec needs, after a check of its options."""
    model = spec.models[name]
    try:
        check_options(model.engine, model.options)
    except UserError as error:
        raise UserError(f"models.{name}.options: {error}") from None
    if model.engine == "scripted":
        with checks.here():
            check_there(f"models.{name}.path", Path(model.path))
    else:
        _check_places(f"models.{name}", "path", model.path, model.options, checks)
    with checks.here():
        need = gpu_need(
            name,
            model.path,
            model.params,
            gpus=model.gpus,
            engine=model.engine,
            options=model.options,
            gpu_memory_gb=profile.gpu_memory_gb,
            gpus_per_node=profile.gpus_per_node,
            context_tokens=max(
                (
                    stage.prompt_tokens + stage.decode_tokens
                    for stage in spec.stages.values()
                    if name in stage.models
                ),
                default=None,
            ),
        )
        return _with_memory(need, profile)
    return GpuNeed(profile.gpus_per_node, "all of a node, and not enough")


def _with_memory(need: GpuNeed, profile: Profile) -> GpuNeed:
    """Return the need, with a word on jobs that have too little memory for the weights.

    vLLM reads weights ahead from a network file system only if they fit in 90 % of the memory.
    """
    trial = profile.trial
    each = memory_times(trial.mem_per_gpu, need.gpus) if trial.mem_per_gpu else trial.mem
    size = memory_bytes(each) if each else None
    if not (need.gpus and need.weight_bytes and size and scheduler_type(profile.kind).has_nodes):
        return need
    if size >= _MEMORY_PER_WEIGHTS * need.weight_bytes:
        return need
    return replace(
        need,
        reasoning=f"{need.reasoning}; a job of {each} is too small to read the weights ahead "
        f"(below {_MEMORY_PER_WEIGHTS} x their size): raise trial.mem_per_gpu or trial.mem in the "
        "profile",
    )


_MEMORY_PER_WEIGHTS = 1.2


def check_agent_files(spec: JobSpec, checks: Checks) -> None:
    """Check that all files of the search's served model are on this machine."""
    agent = spec.agent
    if not isinstance(agent, ServeAgent):
        return
    known = spec.models.get(agent.model)
    options = {**(known.options if known else {}), **agent.options}
    if known is None:
        _check_places("agent", "model", agent.model, options, checks)
    else:  # the model's own files are checked with the other models
        _check_places("agent", "model", "", agent.options, checks)


def _check_places(
    key: str, model_key: str, model: str, options: Mapping[str, Any], checks: Checks
) -> None:
    """Check the path of a model, and those that its engine's options name.

    ``model`` may be a hub id.
    """
    if Path(model).is_absolute():
        with checks.here():
            check_model_files(f"{key}.{model_key}", Path(model), options)
    for option, place in named_places(options).items():
        with checks.here():
            if option in _PLACES:
                what, more = _PLACES[option], options.get("speculative_config")
                given = more if what == "draft" and isinstance(more, dict) else {}
                check_model_files(f"{key}.options.{option}", place, given, what)
            elif not place.exists():
                raise Unavailable(
                    f"{key}.options.{option}: there is nothing at {place}",
                    fix="correct the path, or remove the option",
                )


# Options that name a model or a part of one, and which part has to be there.
_PLACES = {
    "tokenizer": "tokenizer",
    "spec_model": "draft",
    "speculative_config.model": "draft",
    "speculative_config.tokenizer": "tokenizer",
}


def _whole(snapshot: Path, what: str) -> bool:
    try:
        check_model_files("", snapshot, {}, what)
    except Unavailable:
        return False
    return True


def check_writable(directory: Path, what: str, where: str) -> None:
    """Check that files can be made under ``directory``, without making one.

    Args:
        directory: The directory; it may not exist yet.
        what: What the directory is, for messages.
        where: Where another one is chosen, for messages.

    Raises:
        UserError: The path leads through a file.
        MissingRequirement: The directory is not writable, or not readable.
    """
    place = directory.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(
            f"{what} {directory}: {place} is a file, not a directory; choose another with {where}"
        )
    if not os.access(place, os.W_OK | os.X_OK) or os.statvfs(place).f_flag & os.ST_RDONLY:
        raise MissingRequirement(
            f"{what} {directory}: {place} is not writable for you",
            fix=f"choose another with {where}",
        )
    if place == directory.absolute() and not os.access(place, os.R_OK):
        raise MissingRequirement(
            f"{what} {directory}: {place} is not readable for you",
            fix=f"choose another with {where}",
        )
