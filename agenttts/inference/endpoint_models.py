"""Which models a server lists, and whether a model is among them."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from agenttts.endpoint import Address, Answer, parse_answer, refusal

_AZURE = re.compile(r"\.(?:openai|services\.ai|cognitiveservices)\.azure\.(?:com|us|cn)$")
"""Hosts of Azure OpenAI: they list models, and a request names a deployment of one."""


def read_models(answer: Answer, address: Address) -> dict[str, int | None]:
    """Return the contexts of the models that a server lists, by id.

    A context is None if the server does not say it. The result is empty if the server has no list
    of what a request may name.

    Raises:
        ServerError: The answer is not a list of models.
    """
    if answer.status in (404, 405, 501):
        return {}
    if answer.status != 200:
        raise refusal(answer, address)
    document = parse_answer(answer, address)
    if is_azure(address):
        return {}
    entries = document.get("data") if isinstance(document, dict) else None
    found: dict[str, int | None] = {}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("id"), str):
            context = entry.get("max_model_len")  # of vLLM and SGLang
            found[entry["id"]] = context if type(context) is int and context > 0 else None
    return found


def is_azure(address: Address) -> bool:
    """Return whether a server is Azure OpenAI, which lists models and no deployments."""
    return _AZURE.search(urlsplit(address.base_url).hostname or "") is not None


def has_model(listed: Collection[str], path: str) -> bool:
    """Return whether a server with this list of models may have the model ``path``.

    Gateways list patterns (LiteLLM: ``openai/*``), and take ids with a suffix that chooses a
    provider (Hugging Face, OpenRouter: ``org/name:provider``).
    """
    if path in listed or path.rpartition(":")[0] in listed:
        return True
    patterns = (".*".join(map(re.escape, name.split("*"))) for name in listed if "*" in name)
    return any(re.fullmatch(pattern, path) for pattern in patterns)
