"""The model that a run serves itself, set up for the run's controller."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agenttts.dispatch.apptainer import CACHES, OFFLINE, container_env, exec_command
from agenttts.inference.base import ModelConfig
from agenttts.run.directory import Run
from agenttts.run.models import with_dtype
from agenttts.run.record import AgentRecord
from agenttts.run.schedulers import served_scheduler
from agenttts.search.llm.base import LLM
from agenttts.search.llm.endpoint import EndpointLLM
from agenttts.search.llm.transcript import Transcript
from agenttts.serving.job import KEY_VARIABLE, PORT, SERVE_FILE, Serving, service_request
from agenttts.serving.lifecycle import ServedLimits, ServedModel
from agenttts.serving.worker_model import AnsweringWorkers, model_of_search, workers_first
from agenttts.spec import JobSpec, ServeAgent
from agenttts.spec.paths import places_of_options

# A served model outlives a controller that is being requeued, not one that is gone.
_LEASE_S = 900.0
# It is renewed between requests, not while one runs; a server may ask for a pause (Retry-After).
_BESIDE_REQUEST_S = 600.0
# What the server does not need to know of a model: the search's requests and the reading of replies
# need it.
_NOT_SERVED = ("template_args", "thinking", "weights")


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
    config = served_config(run.spec, section, record.gpus or 0, record.dtype)
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
        merges_system=record.merges_system,
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
    profile, gpus = run.profile, config.gpus
    if own is not None and config.engine == "vllm":
        # Workers draw without the defaults of the model's generation_config.json.
        config = replace(config, options={"generation_config": "vllm", **config.options})
    directory = run.directory.agent
    scheduler = served_scheduler(run.directory, profile)
    local = not scheduler.has_nodes
    most_trial_gpus = max((model.gpus for model in run.record.models.values()), default=0)
    limits = ServedLimits(
        start_seconds=section.start_seconds,
        idle_seconds=section.idle_seconds,
        restarts=section.restarts,
        alone=local and gpus > 0 and gpus + most_trial_gpus > profile.gpus_per_node,
        poll_seconds=min(2.0, profile.poll_seconds),
        queue_seconds=profile.poll_seconds,
        pauses=tuple(profile.retry_pauses),
    )
    lease = max(_LEASE_S, section.timeout_seconds + _BESIDE_REQUEST_S)
    return ServedModel(
        directory,
        _serving(run, config, local, lease),
        scheduler,
        service_request(directory, run=run.name, token=run.tokens[0], gpus=gpus),
        limits,
        note,
        avoided,
        needed=lambda: own is None or not workers.may_answer(own),
        make_room=workers.make_room,
        look=workers.look,
    )


def served_config(
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


def _serving(run: Run, config: ModelConfig, local: bool, lease_seconds: float) -> Serving:
    directory, container, cache = run.directory.agent, run.record.container, run.cache
    # Elsewhere than on one machine the controller comes from another node: the key is what guards
    # the port.
    host = "127.0.0.1" if local else "0.0.0.0"
    inner: tuple[str, ...] = ("-P", "-m", "agenttts.serving.program")
    inner += (str(directory / SERVE_FILE), "--host", host, "--port", PORT)
    env: Mapping[str, str]
    keys: tuple[str, ...] = (KEY_VARIABLE,)
    if container is None:
        command: tuple[str, ...] = (sys.executable, *inner)
        env = run.profile.env
    else:
        options = places_of_options(config.options).values()
        command = exec_command(
            container,
            ("python", *inner),
            read_only=[p for p in (Path(config.path), *options) if p.is_absolute()],
            writable=[directory],
        )
        env = container_env({**OFFLINE, **CACHES, **run.profile.env})
        keys = tuple(container_env({KEY_VARIABLE: ""}))
    kept = {"directory": str(cache.directory), "image": cache.image} if cache else None
    served = {k: value for k, value in config.to_record().items() if k not in _NOT_SERVED}
    needs = [Path(config.path), *places_of_options(config.options).values()]
    needs += [container.image] if container is not None else []
    seen = tuple(str(path) for path in needs if path.is_absolute())
    return Serving(command, dict(env), keys, host, lease_seconds, config.name, served, kept, seen)


def _note(transcript: Transcript, what: str) -> None:
    transcript.add("served", what=what)
