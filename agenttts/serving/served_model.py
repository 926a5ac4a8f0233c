"""The language model of the search: its prompts' description, checks and set-up."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from agenttts import search, tasks
from agenttts.dispatch.apptainer import CACHES, OFFLINE, Container, container_env, exec_command
from agenttts.dispatch.node.scratch import CompileCache
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.sizing.cpu_dtype import cpu_dtype
from agenttts.dispatch.sizing.gpu_need import GpuNeed, check_context, gpu_need
from agenttts.dispatch.sizing.model_facts import model_facts
from agenttts.errors import UserError, located, valid_names
from agenttts.inference.base import ModelConfig
from agenttts.inference.engine_options import check_options
from agenttts.replies import Thinking
from agenttts.run.directory import Run
from agenttts.run.models import model_thinking, resolve_thinking, with_dtype
from agenttts.run.record import AgentRecord
from agenttts.run.schedulers import served_scheduler
from agenttts.search.llm.base import LLM
from agenttts.search.llm.connect import check_key, connect
from agenttts.search.llm.endpoint import EndpointLLM
from agenttts.search.llm.proposer import LLMSession
from agenttts.search.llm.scripted import load_script
from agenttts.search.llm.task_description import TaskDescription
from agenttts.search.llm.transcript import Transcript
from agenttts.serving.job import KEY_VARIABLE, PORT, SERVE_FILE, Serving, service_request
from agenttts.serving.lifecycle import ServedLimits, ServedModel
from agenttts.serving.worker_model import AnsweringWorkers, model_of_search, workers_first
from agenttts.spec import JobSpec, ScriptedAgent, ServeAgent
from agenttts.spec.agent import EndpointAgent
from agenttts.spec.paths import places_of_options
from agenttts.tasks.base import Task

# A served model outlives a controller that is being requeued, not one that is gone.
_LEASE_S = 900.0
# It is renewed between requests, not while one runs; a server may ask for a pause (Retry-After).
_BESIDE_REQUEST_S = 600.0
# What the server does not need to know of a model: the search's requests and the reading of replies
# need it.
_NOT_SERVED = ("template_args", "thinking", "weights")


def task_description_of(task: Task, examples: int | None) -> TaskDescription:
    """Return what the model is told about the task."""
    return TaskDescription(
        task=task.name,
        description=str(getattr(task, "description", None) or ""),
        stages={s.name: str(getattr(s, "description", None) or "") for s in task.stages},
        main_metric=task.main_metric,
        examples=examples,
    )


def check_agent(spec: JobSpec, profile: Profile, dtype: str | None) -> GpuNeed | None:
    """Check the ``agent:`` section against method, models and profile.

    Args:
        spec: The spec.
        profile: The profile.
        dtype: The data type that launch chose for a served model (`served_dtype`).

    Returns:
        The GPUs of a model that the run serves itself; None if it serves none.

    Raises:
        UserError: The section does not fit the method or the profile.
        MissingRequirement: The environment has no usable key.
    """
    method, wants = spec.search.method, search.asks_llm(spec.search.method)
    if spec.agent == "none":
        if wants == "needs":
            raise UserError(
                f"'{method}' needs a language model; set one in the spec's agent section (kind: "
                "endpoint, serve or scripted), or choose method agenttts, which works without one",
                at=("search", "method"),
            )
        return None
    if wants == "no":
        raise UserError(
            f"method '{method}' does not use a language model; set agent: none, or choose method "
            "agenttts",
            at=("agent",),
        )
    if isinstance(spec.agent, ScriptedAgent):
        load_script(Path(spec.agent.replies))
    with located("agent"):
        check_key(spec.agent)
    if not isinstance(spec.agent, ServeAgent):
        return None
    return _served_need(spec, spec.agent, profile, dtype)


def session_for_replay(
    spec: JobSpec, method: str, table: Path, out: Path | None, given: Mapping[str, Any]
) -> LLMSession | None:
    """Return the language model of a replay.

    The transcript is ``OUT.agent.jsonl``. Replies that it has are used again.

    Args:
        spec: The job spec.
        method: The search method.
        table: The recorded results.
        out: The trace.
        given: What else decides the proposals, by its name in messages.

    Returns:
        The model; None if the method asks none or the spec names none.

    Raises:
        UserError: The model would have to be served first, or the transcript is another replay's.
    """
    if search.asks_llm(method) == "no" or spec.agent == "none":
        return None
    if isinstance(spec.agent, ServeAgent):
        raise UserError(
            "a replay cannot serve a model; start a server and name it with kind: endpoint, or "
            "set agent: none",
            at=("agent", "kind"),
        )
    with located("agent"):
        check_key(spec.agent)
    task_description = task_description_of(tasks.create_for(spec), spec.task.examples)
    path = out.with_name(f"{out.name}.agent.jsonl") if out else None
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    transcript = Transcript(path)
    by_spec = f"{spec.space()!r} {spec.search.options!r}"
    model = spec.agent.model if isinstance(spec.agent, EndpointAgent) else spec.agent.kind
    differing = transcript.keep_search(
        {
            "--searcher": method,
            **given,
            "the table": hashlib.sha256(table.read_bytes()).hexdigest(),
            "the space or options in the spec": hashlib.sha256(by_spec.encode()).hexdigest(),
            "the model in the spec's agent section": model,
        }
    )
    if differing:
        raise UserError(
            f"{path} is the transcript of another replay, whose proposals this one would count as "
            f"its own; different: {', '.join(differing)}; remove the file, or name another trace "
            "with --out"
        )
    return connect(spec.agent, task_description, transcript, thinking=agent_thinking(spec))


def agent_thinking(spec: JobSpec) -> Thinking | None:
    """Return the markers around the thinking of the model that the search asks."""
    agent = spec.agent
    if agent == "none":
        return None
    if not isinstance(agent, ServeAgent):
        return resolve_thinking(agent.thinking, None)  # the model's files are elsewhere
    known = spec.models.get(agent.model)
    if known is not None and agent.thinking == "auto":
        return model_thinking(known)
    tokenizer = {**(known.options if known else {}), **agent.options}.get("tokenizer")
    place = tokenizer if isinstance(tokenizer, str) else None
    return resolve_thinking(agent.thinking, known.path if known else agent.model, place)


def served_fields(spec: JobSpec) -> dict[str, Any]:
    """Return the fields of requests to a served model that only vLLM has.

    OpenAI's interface does not have them.
    """
    if not isinstance(spec.agent, ServeAgent):
        return {}
    known = spec.models.get(spec.agent.model)
    template_args = {**(known.template_args if known else {}), **spec.agent.template_args}
    fields: dict[str, Any] = {"chat_template_kwargs": template_args} if template_args else {}
    thinking = agent_thinking(spec)
    if thinking is not None and thinking.special:
        fields["skip_special_tokens"] = False
    return fields


def served_dtype(spec: JobSpec, *, gpus_per_node: int) -> str | None:
    """Return the data type that the served model gets on a CPU (`cpu_dtype`).

    Args:
        spec: The spec.
        gpus_per_node: GPUs of a node of the profile.
    """
    if not isinstance(spec.agent, ServeAgent):
        return None
    config = _served_config(spec, spec.agent, 0)
    return cpu_dtype(
        config.path,
        config.engine,
        config.options,
        gpus=_given_gpus(spec, spec.agent),
        gpus_per_node=gpus_per_node,
    )


def served_model(
    run: Run,
    transcript: Transcript,
    avoided: Callable[[], Sequence[str]],
    workers: AnsweringWorkers,
) -> tuple[ServedModel | None, LLM | None]:
    """Return the model that a run serves itself, and what the search asks of it.

    Both are None if the run serves none. Nothing is started yet. Questions go to the run's workers
    if they have the model too, and else to the model's server.

    Args:
        run: The run.
        transcript: Gets the events of the model's jobs.
        avoided: Returns the nodes that the run's jobs avoid.
        workers: The run's workers, which may answer in place of the model's server.
    """
    section, record = run.spec.agent, run.record.agent or AgentRecord()
    if not isinstance(section, ServeAgent):
        return None, None
    note = partial(_note, transcript)
    config = _served_config(run.spec, section, record.gpus or 0, record.dtype)
    temperature, own = section.temperature, None
    # Workers have to stay for questions, and do not know the server's own temperature.
    if run.profile.stays_for and temperature is not None:
        own = model_of_search(config, run.record.models)
    served = _lifecycle(run, section, config, own, avoided, workers, note)
    server = EndpointLLM(
        section.served_name,
        served.locate,
        max_tokens=section.max_tokens,
        temperature=temperature,
        timeout=section.timeout_seconds,
        structured=section.structured,
        direct=True,
        extra=record.fields,
    )
    if own is None or temperature is None:
        return served, server
    asked = workers_first(server, section, temperature, record.fields, own, workers, note)
    return served, asked


def _lifecycle(
    run: Run,
    section: ServeAgent,
    config: ModelConfig,
    own: ModelConfig | None,
    avoided: Callable[[], Sequence[str]],
    workers: AnsweringWorkers,
    note: Callable[[str], None],
) -> ServedModel:
    """Return the model that the run serves itself, not started yet.

    ``own`` is the search's model with which workers can answer for it, if any.
    """
    profile, record, gpus = run.profile, run.record, config.gpus
    if own is not None and config.engine == "vllm":
        # Workers draw without the defaults of the model's generation_config.json.
        config = replace(config, options={"generation_config": "vllm", **config.options})
    directory = run.directory.agent
    scheduler = served_scheduler(run.directory, profile)
    local = not scheduler.has_nodes
    most_trial_gpus = max((model.gpus for model in record.models.values()), default=0)
    limits = ServedLimits(
        start_seconds=section.start_seconds,
        idle_seconds=section.idle_seconds,
        restarts=section.restarts,
        alone=local and gpus > 0 and gpus + most_trial_gpus > profile.gpus_per_node,
        poll_seconds=min(2.0, profile.poll_seconds),
        pauses=tuple(profile.retry_pauses),
    )
    lease = max(_LEASE_S, section.timeout_seconds + _BESIDE_REQUEST_S)
    return ServedModel(
        directory,
        _serving(directory, config, record.container, profile, local, run.cache, lease),
        scheduler,
        service_request(directory, run=run.name, token=run.tokens[0], gpus=gpus),
        limits,
        note,
        avoided,
        needed=lambda: own is None or not workers.may_answer(own),
        make_room=workers.make_room,
    )


def _served_config(
    spec: JobSpec, agent: ServeAgent, gpus: int, dtype: str | None = None
) -> ModelConfig:
    """Return the served model as an engine needs it.

    It is one of the spec's models, or a directory.
    """
    known = spec.models.get(agent.model)
    options: dict[str, Any] = {**(known.options if known else {}), **agent.options}
    return ModelConfig(
        name=agent.served_name,
        path=known.path if known else agent.model,
        revision=known.revision if known else None,
        # vLLM serves every other model.
        engine="scripted" if known is not None and known.engine == "scripted" else "vllm",
        gpus=gpus,
        options=with_dtype(options, dtype),
    )


def _given_gpus(spec: JobSpec, agent: ServeAgent) -> int | None:
    """Return the GPUs that the spec gives the served model; None if it does not say."""
    known = spec.models.get(agent.model)
    return agent.gpus if agent.gpus is not None or known is None else known.gpus


def _served_need(spec: JobSpec, agent: ServeAgent, profile: Profile, dtype: str | None) -> GpuNeed:
    known = spec.models.get(agent.model)
    if known is None and not Path(agent.model).is_dir():
        raise UserError(
            f"'{agent.model}' is neither one of the spec's models nor a directory; "
            f"{valid_names(agent.model, spec.models)}",
            at=("agent", "model"),
        )
    if known is not None and known.engine == "endpoint":
        raise UserError(
            f"'{agent.model}' is on a server that runs already; ask it with kind: endpoint",
            at=("agent", "model"),
        )
    config = _served_config(spec, agent, 0, dtype)
    with located("agent", "options"):
        check_options(config.engine, config.options)
    facts = model_facts(config.path, known.params if known else 0.0, config.options, config.engine)
    if "max_model_len" in agent.options:  # else it is that of the model, which is checked
        with located("agent", "options"):
            check_context(facts, config.options, os.environ | profile.env)
    return gpu_need(
        agent.model,
        facts,
        gpus=_given_gpus(spec, agent),
        engine=config.engine,
        options=dict(config.options),
        gpu_memory_gb=profile.gpu_memory_gb,
        gpus_per_node=profile.gpus_per_node,
    )


def _serving(
    directory: Path,
    config: ModelConfig,
    container: Container | None,
    profile: Profile,
    local: bool,
    cache: CompileCache | None,
    lease_seconds: float,
) -> Serving:
    # Elsewhere than on one machine the controller comes from another node: the key is what guards
    # the port.
    host = "127.0.0.1" if local else "0.0.0.0"
    inner: tuple[str, ...] = ("-P", "-m", "agenttts.serving.program")
    inner += (str(directory / SERVE_FILE), "--host", host, "--port", PORT)
    env: Mapping[str, str]
    keys: tuple[str, ...] = (KEY_VARIABLE,)
    if container is None:
        command: tuple[str, ...] = (sys.executable, *inner)
        env = profile.env
    else:
        options = places_of_options(config.options).values()
        command = exec_command(
            container,
            ("python", *inner),
            read_only=[p for p in (Path(config.path), *options) if p.is_absolute()],
            writable=[directory],
        )
        env = container_env({**OFFLINE, **CACHES, **profile.env})
        keys = tuple(container_env({KEY_VARIABLE: ""}))
    kept = {"directory": str(cache.directory), "image": cache.image} if cache else None
    served = {name: value for name, value in asdict(config).items() if name not in _NOT_SERVED}
    needs = [Path(config.path), *places_of_options(config.options).values()]
    needs += [container.image] if container is not None else []
    seen = tuple(str(path) for path in needs if path.is_absolute())
    return Serving(command, dict(env), keys, host, lease_seconds, config.name, served, kept, seen)


def _note(transcript: Transcript, what: str) -> None:
    transcript.add("served", what=what)
