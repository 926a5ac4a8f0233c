"""The checks of a spec's section ``agent:``."""

from __future__ import annotations

import os
from pathlib import Path

from agenttts import search
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.sizing.cpu_dtype import cpu_dtype
from agenttts.dispatch.sizing.gpu_need import GpuNeed, check_context, gpu_need
from agenttts.dispatch.sizing.model_facts import model_facts
from agenttts.errors import UserError, located, valid_names
from agenttts.inference.engine_options import check_options
from agenttts.search.llm.connect import check_key
from agenttts.search.llm.scripted import load_script
from agenttts.serving.served_model import served_config
from agenttts.spec import EndpointAgent, JobSpec, ScriptedAgent, ServeAgent


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
    method = spec.search.method
    wants = search.SEARCHERS[method].asks_llm
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


def check_extra_fields(spec: JobSpec) -> None:
    """Check that no field in ``agent.extra`` is overridden by another key.

    It is for launches only: a run of an earlier version goes on with the fields that it has.

    Raises:
        UserError: One is, by another key of the section.
    """
    agent = spec.agent
    if not isinstance(agent, EndpointAgent):
        return
    reasons = {
        **dict.fromkeys(
            ("max_tokens", "max_completion_tokens"),
            f"agent.max_tokens ({agent.max_tokens}) bounds a reply: set that",
        ),
        "seed": "each question has a seed of its own, made from search.seed: set that",
    }
    if agent.temperature is not None:
        reasons["temperature"] = f"agent.temperature ({agent.temperature:g}) is sent: set that"
    for name, reason in reasons.items():
        if name in agent.extra:
            raise UserError(
                f"it would be overridden; {reason}, and leave this out", at=("agent", "extra", name)
            )


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
    config = served_config(spec, agent, 0, dtype)
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
        gpu_type=profile.trial.gpu_type,
    )


def served_dtype(spec: JobSpec, *, gpus_per_node: int) -> str | None:
    """Return the data type that the served model gets on a CPU (`cpu_dtype`).

    Args:
        spec: The spec.
        gpus_per_node: GPUs of a node of the profile.
    """
    if not isinstance(spec.agent, ServeAgent):
        return None
    config = served_config(spec, spec.agent, 0)
    return cpu_dtype(
        config.path,
        config.engine,
        config.options,
        gpus=_given_gpus(spec, spec.agent),
        gpus_per_node=gpus_per_node,
    )


def _given_gpus(spec: JobSpec, agent: ServeAgent) -> int | None:
    """Return the GPUs that the spec gives the served model; None if it does not say."""
    known = spec.models.get(agent.model)
    return agent.gpus if agent.gpus is not None or known is None else known.gpus
