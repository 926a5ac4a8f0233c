"""Checks of the servers that a spec's models are on."""

from __future__ import annotations

from agenttts.dispatch.check import Check, check
from agenttts.endpoint import ServerError
from agenttts.errors import MissingRequirement, located
from agenttts.inference.base import ModelConfig
from agenttts.inference.endpoint_check import check_listed, check_sampling
from agenttts.run.models import find_facts, model_configs
from agenttts.spec import JobSpec


def endpoint_checks(spec: JobSpec) -> list[Check]:
    """Return the checks of every model of a spec with ``engine: endpoint``.

    Each server is asked for its models, and for four samples of 16 tokens.
    """
    served = {name: m for name, m in spec.models.items() if m.engine == "endpoint"}
    if not served:
        return [Check("endpoints", None, "no model of the spec has engine: endpoint")]
    chosen = spec.model_copy(update={"models": served})
    configs = model_configs(chosen, dict.fromkeys(served, 0), find_facts(chosen, gpus_per_node=0))
    return [_endpoint_check(name, config) for name, config in configs.items()]


def _endpoint_check(name: str, config: ModelConfig) -> Check:
    def ask() -> str:
        with located("models", name):
            try:
                listed = check_listed(config)
            except ServerError as error:
                raise MissingRequirement(
                    str(error), fix="start the server, or correct options.base_url", at=()
                ) from None
            return f"{listed}; {check_sampling(config)}"

    return check(f"endpoint of model '{name}'", ask)
