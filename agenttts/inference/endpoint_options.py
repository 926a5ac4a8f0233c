"""Options, key and limits of a model on a server that runs already."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from agenttts.endpoint import Address, shown_variable, usable_key
from agenttts.errors import MissingRequirement
from agenttts.inference.base import ModelConfig
from agenttts.spec.endpoint import EndpointOptions
from agenttts.spec.strict import read_options

_RATE = "requests_per_minute"
_CALL_ROUNDS = 16
"""Samples of one engine call, as a multiple of the requests at a time."""


def read_endpoint_options(options: Mapping[str, object]) -> EndpointOptions:
    """Return the options, checked.

    Raises:
        UserError: An option is unknown or its value is not valid. The message repeats no key.
    """
    return read_options(EndpointOptions, options, "engine endpoint")


def find_address(options: EndpointOptions) -> Address:
    """Return the address of the server, with the key from this process's environment.

    Raises:
        MissingRequirement: The variable holds no key.
    """
    name = options.api_key_env
    key = os.environ.get(name, "").strip() if name else ""
    if name and not usable_key(key):
        problem = "holds something else than a key" if key else "is not set in this environment"
        raise MissingRequirement(
            f"{shown_variable(name)} {problem}",
            fix="export it in this shell, then launch again (the controller's job and the trials "
            "inherit it)",
            at=("api_key_env",),
        )
    return Address(options.base_url, key)


def most_a_call(model: ModelConfig, others: int) -> int:
    """Return the most samples of one engine call.

    A server needs no full batch and its samples may cost money, so its calls are short.

    Args:
        model: The model of the call.
        others: The result for a model that is not on a server.
    """
    if model.engine != "endpoint":
        return others
    return _CALL_ROUNDS * read_endpoint_options(model.options).max_concurrent


def key_variables(models: Mapping[str, ModelConfig]) -> tuple[str, ...]:
    """Return the names of the variables with the keys of models on servers."""
    names = {
        str(model.options["api_key_env"])
        for model in models.values()
        if model.engine == "endpoint" and model.options.get("api_key_env")
    }
    return tuple(sorted(names))


def with_rate_share(model: ModelConfig, trials: int) -> ModelConfig:
    """Return a model with one trial's part of its requests per minute.

    Args:
        model: Any model; one without such a limit is returned as it is.
        trials: The number of trials that run at the same time.
    """
    rate = model.options.get(_RATE)
    if model.engine != "endpoint" or not isinstance(rate, int | float) or trials <= 1:
        return model
    return dataclasses.replace(model, options={**model.options, _RATE: rate / trials})
