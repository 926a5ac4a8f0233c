"""Check from this machine that a server answers with a model.

``launch`` and ``doctor`` use it.
"""

from __future__ import annotations

import dataclasses
import time

from agenttts.endpoint import (
    Address,
    EndpointClient,
    ServerError,
    shown_variable,
)
from agenttts.errors import MissingRequirement, Unavailable, located, valid_names
from agenttts.inference.base import EngineError, ModelConfig, Request, SamplingParams
from agenttts.inference.endpoint import EndpointEngine
from agenttts.inference.endpoint_models import has_model, is_azure, read_models
from agenttts.inference.endpoint_options import find_address, read_endpoint_options

_LIST_S = 20.0
_ANSWER_S = 60.0
_QUESTION = "Write one sentence about a river.\n"
_TOKENS = 16
_SEEDS = (7, 7, 7, 8)


def check_listed(config: ModelConfig) -> str:
    """Ask the server for its models once.

    Args:
        config: A model with ``engine: endpoint``.

    Returns:
        What the server says of the model.

    Raises:
        MissingRequirement: The variable with the key holds none, or the server refuses the key.
        Unavailable: The server has no such model, or ``base_url`` lacks its ``/v1``.
        ServerError: The server does not answer here.
    """
    options = read_endpoint_options(config.options)
    with located("options"):
        address = find_address(options)
    client = EndpointClient(timeout=_LIST_S, use_proxy=options.use_proxy)
    try:
        answer = client.get(address, "models")
        listed = read_models(answer, address)
        lacks_v1 = answer.status == 404 and _is_below_v1(client, address)
    except ServerError as error:
        if error.status in (401, 403):
            variable = options.api_key_env
            raise MissingRequirement(
                f"the server refuses the key: {error}",
                fix=f"check the key in {shown_variable(variable)}"
                if variable
                else "export the key, and give the name of its variable in options.api_key_env",
                at=(),
            ) from None
        raise
    finally:
        client.close()
    if lacks_v1:
        raise Unavailable(
            f"nothing answers at {options.base_url} (HTTP 404), but at {options.base_url}/v1",
            fix=f"set it to {options.base_url}/v1",
            at=("options", "base_url"),
        )
    if listed and not has_model(listed, config.path):
        raise Unavailable(
            f"the server at {options.base_url} has no model '{config.path}'",
            fix=valid_names(config.path, listed),
            at=("path",),
        )
    if not listed:
        return f"the server at {options.base_url} lists no models"
    context = options.max_model_len or listed.get(config.path)
    known = f"a context of {context} tokens" if context else "a context that it does not say"
    return f"'{config.path}' is at {options.base_url}, with {known}"


def _is_below_v1(client: EndpointClient, address: Address) -> bool:
    """Return whether a server answers below ``/v1`` of an address that has no list.

    There are servers without a list of models, so a request to the address itself must find nothing
    either. The one that is sent has no content, so that it draws no sample.
    """
    below = dataclasses.replace(address, base_url=f"{address.base_url.rstrip('/')}/v1")
    try:
        answer = client.get(below, "models")
        # Azure lists models, of which none is a deployment.
        lists = answer.status == 200 and (is_azure(below) or bool(read_models(answer, below)))
        return lists and client.post(address, "chat/completions", {}).status == 404
    except ServerError:  # it is not known then
        return False


def check_sampling(config: ModelConfig) -> str:
    """Draw short samples from a server, three of them with one seed.

    Returns:
        How long a sample took, and whether the server honours seeds.

    Raises:
        MissingRequirement: The server gives no samples.
    """
    short = {"retry_seconds": 0.0, "timeout_seconds": _ANSWER_S, "requests_per_minute": None}
    quick = dataclasses.replace(config, options={**config.options, **short})
    plain = config.prompt_style == "few_shot_completion"
    content = _QUESTION if plain else ({"role": "user", "content": _QUESTION},)
    params = SamplingParams(1.0, _TOKENS)
    texts = []
    try:
        # What it says belongs neither to the output of doctor nor to its JSON document.
        engine = EndpointEngine(quick, say=lambda line: None)
        try:
            began = time.monotonic()
            for seed in _SEEDS:
                request = Request(content, params, (seed,), template_args=config.template_args)
                [completion] = engine.generate([request])
                texts.append(completion.samples[0].text)
            seconds = (time.monotonic() - began) / len(texts)
        finally:
            engine.close()
    except EngineError as error:
        raise MissingRequirement(
            str(error),
            fix="correct the model's keys in the spec, or the server's settings",
            at=(),
        ) from None
    same = texts[:-1]
    # A server with a cache of prompts computes a repeated prompt otherwise, which may change the
    # last bits and then a token. So two equal texts are enough.
    if len(set(same)) == len(same):
        seeds = "it ignores seeds: samples are repeatable through the sample store only"
    elif len(set(texts)) == 1:
        seeds = "two seeds gave one text, so that it is not known whether it honours seeds"
    else:
        seeds = "it honours seeds"
    return f"{_TOKENS} tokens take {seconds:.1f} s; {seeds}"
