"""From a job spec to a plan: everything checked, nothing created or submitted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttts import search, tasks
from agenttts.dispatch.apptainer import Container, check_container
from agenttts.dispatch.profile import Profile, describe, load_profile
from agenttts.dispatch.resources import GpuNeed, gpu_need
from agenttts.dispatch.slurm_queue import run_slurm
from agenttts.errors import MissingRequirement, UserError, valid_names
from agenttts.inference.base import ModelConfig
from agenttts.inference.embedding import find_embedding_model
from agenttts.inference.engine_options import check_options
from agenttts.sandbox import check_sandbox
from agenttts.space import SearchSpace
from agenttts.spec import JobSpec
from agenttts.tasks.base import Example, Task, TaskConfig
from agenttts.trial.bench import refusal


@dataclass(frozen=True)
class Plan:
    """A checked experiment, ready to be launched."""

    spec: JobSpec
    profile: Profile
    task: Task
    examples: list[Example]
    space: SearchSpace
    needs: Mapping[str, GpuNeed]
    container: Container | None

    @property
    def models(self) -> dict[str, ModelConfig]:
        """Every model as its engine needs it."""
        return model_configs(self.spec, {name: need.gpus for name, need in self.needs.items()})

    def describe(self) -> dict[str, Any]:
        """The plan as one JSON document: what ``launch --dry-run`` shows."""
        searcher = search.create(
            self.spec.search.method, self.space, self.spec.search.seed, **self.spec.search.options
        )
        trials = searcher.initial_batch + self.spec.search.iterations * self.spec.search.batch_size
        return {
            "run": self.spec.name,
            "cluster": {"name": self.spec.cluster, "kind": self.profile.kind},
            "task": {
                "name": self.spec.task.name,
                "main_metric": self.task.main_metric,
                "examples": len(self.examples),
            },
            "search": {
                "method": self.spec.search.method,
                "budget": self.space.budget,
                "least_budget": self.space.least_budget,
                "initial_trials": searcher.initial_batch,
                "iterations": self.spec.search.iterations,
                "batch_size": self.spec.search.batch_size,
                "trials_at_most": trials,
            },
            "stages": [
                {
                    "stage": stage.name,
                    "samples": [stage.samples[0], stage.samples[-1]],
                    "models": [
                        {
                            "model": model.name,
                            "params": model.params,
                            "unit_budget": stage.budget(model.name, 1),
                            "samples_within_budget": stage.affordable_samples(
                                model.name, self.space.budget
                            ),
                            "gpus": self.needs[model.name].gpus,
                        }
                        for model in stage.models
                    ],
                }
                for stage in self.space.stages
            ],
            "resources": {
                "controller": describe(self.profile.controller),
                "trial": describe(self.profile.trial),
                "throttle": self.profile.throttle,
                "gpus": {name: need.reasoning for name, need in self.needs.items()},
            },
            "container": None
            if self.container is None
            else {"runtime": self.container.runtime, "image": str(self.container.image)},
        }


def make_plan(spec: JobSpec, profile_folders: list[Path], results: Path) -> Plan:
    """Check a spec against its task, its method, its models, its data, its profile and this machine.

    Raises `UserError` or `MissingRequirement`; creates and submits nothing.
    """
    profile = load_profile(spec.cluster, profile_folders)
    task = tasks.create(spec.task.name)
    spec = _ordered(spec, task)
    space = spec.space()
    search.create(spec.search.method, space, spec.search.seed, **spec.search.options)
    needs = {name: _model_need(name, spec, profile) for name in spec.models}
    examples = task.load(
        TaskConfig(
            data=spec.task.data,
            split=spec.task.split,
            examples=spec.task.examples,
            seed=spec.search.seed,
            options=spec.task.options,
        )
    )
    container = container_of(spec, profile)
    _check_bench(task, spec, profile)
    if container is not None:
        check_container(container)
        # Frozen as found now: the controller's environment may expand the profile's variables differently.
        frozen = spec.container.model_copy(update={"image": str(container.image)})
        spec = spec.model_copy(update={"container": frozen})
    if profile.kind == "slurm":
        run_slurm(["scontrol", "show", "config"])
    check_writable(results)
    return Plan(spec, profile, task, examples, space, needs, container)


def model_configs(spec: JobSpec, gpus: Mapping[str, int]) -> dict[str, ModelConfig]:
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
        )
        for name, model in spec.models.items()
    }


def container_of(spec: JobSpec, profile: Profile) -> Container | None:
    """The container of the trials; None when they run on the host's Python."""
    defaults = profile.container
    image = spec.container.image or (defaults.image if defaults else None)
    if image is None:
        if defaults is None and not spec.container.binds:
            return None
        raise UserError(
            "container.image: the profile runs trials in a container, but neither it nor the spec names the image; "
            "set container.image in the spec or the profile (build one with 'agenttts-hpc image build')"
        )
    return Container(
        image=Path(os.path.expandvars(image)).expanduser().absolute(),
        runtime=defaults.runtime if defaults else "apptainer",
        nv=defaults.nv if defaults else True,
        binds=(*(defaults.binds if defaults else ()), *spec.container.binds),
        options=tuple(defaults.options) if defaults else (),
    )


def _ordered(spec: JobSpec, task: Task) -> JobSpec:
    """The spec with its stages in the task's order; an error when they are not the task's stages."""
    names = [stage.name for stage in task.stages]
    for stage in spec.stages:
        if stage not in names:
            raise UserError(
                f"stages.{stage}: task '{task.name}' has no such stage; {valid_names(stage, names)}"
            )
    missing = [name for name in names if name not in spec.stages]
    if missing:
        raise UserError(
            f"stages: task '{task.name}' also needs {', '.join(missing)}; valid: {', '.join(names)}, all of them"
        )
    return spec.model_copy(update={"stages": {name: spec.stages[name] for name in names}})


def _check_bench(task: Task, spec: JobSpec, profile: Profile) -> None:
    """What the trials' workbench takes, as far as it can be told from here: an image may hold what this machine lacks."""
    settings = task.bench(spec.task.options)
    if settings is None or profile.container is not None or spec.container.image is not None:
        return
    if settings.runs_code:
        if not spec.task.run_code_on_host:
            raise UserError(refusal())
        check_sandbox()
    if settings.embeds:
        find_embedding_model(settings.embedding_model)


def _model_need(name: str, spec: JobSpec, profile: Profile) -> GpuNeed:
    model = spec.models[name]
    try:
        check_options(model.engine, model.options)
    except UserError as error:
        raise UserError(f"models.{name}.options: {error}") from None
    if Path(model.path).is_absolute() and not Path(model.path).exists():
        raise UserError(
            f"models.{name}.path: there is nothing at {model.path}; give the directory of a downloaded model "
            "('agenttts-hpc models' prepares small ones to try things with)"
        )
    return gpu_need(
        name,
        model.path,
        model.params,
        gpus=model.gpus,
        engine=model.engine,
        options=model.options,
        gpu_memory_gb=profile.gpu_memory_gb,
        gpus_per_node=profile.gpus_per_node,
    )


def check_writable(results: Path) -> None:
    """Whether run directories can be made under ``results``, found out without making one."""
    place = results.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(
            f"results directory {results}: {place} is a file, not a directory; choose another with --results"
        )
    if not os.access(place, os.W_OK | os.X_OK) or os.statvfs(place).f_flag & os.ST_RDONLY:
        raise MissingRequirement(
            f"results directory {results}: {place} is not writable for you",
            fix="choose another with --results DIR",
        )
