"""Settings of an OpenAI-compatible server that runs already.

The section ``agent:`` and models with ``engine: endpoint`` share the checks. They hold no secret:
they give the *name* of the environment variable with the key, and a value that looks like a key is
an error that does not repeat it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from agenttts.spec.engine_options import EngineOptions
from agenttts.spec.section import PlacedError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
KEY_LIKE = re.compile(r"(^|[_-])(api[_-]?key|key|token|secret|password|authorization)$", re.I)
"""Names of settings and headers whose value may be a secret."""


class SecretFound(ValueError):
    """A value that no message may show, not even the error about it."""


def check_base_url(value: str) -> str:
    """Return an address without a slash at its end.

    It must not have a user, a password or a query.
    """
    parts = urlsplit(value)
    if "api-version=" in parts.query:
        raise SecretFound(
            "an address holds no query; for Azure OpenAI give its v1 API, which needs no "
            "api-version: https://NAME.openai.azure.com/openai/v1, with the deployment as path (of "
            "'agent', as model) and the name of the variable with the key in api_key_env"
        )
    if parts.username or parts.password or parts.query:
        raise SecretFound(
            "an address holds no user, password or query; give the name of the variable "
            "with the key in api_key_env"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"'{value}' is not an address; valid: http://HOST:PORT/v1 or https://HOST/v1"
        )
    return value.rstrip("/")


def check_key_variable(value: str | None) -> str | None:
    """Return the name of a variable.

    The message about any other value does not repeat it, because it may be a key.
    """
    if value is not None and not (_VARIABLE.fullmatch(value) and len(value) <= 64):
        raise SecretFound(
            "this is not the name of an environment variable; valid: a name such as MY_LLM_KEY. "
            "If it is the key itself, "
            "export it in a variable, name that variable here, and take the key out of "
            "this file"
        )
    return value


def check_extra(value: dict[str, Any], reserved: Collection[str]) -> dict[str, Any]:
    """Return further fields of a request's body, which are JSON and not ``reserved``."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(
            "it goes into a JSON request; valid: texts, numbers, true, false, null, lists, mappings"
        ) from None
    secret = next(_secrets(value), None)
    if secret is not None:
        raise SecretFound(
            f"'{secret}' looks like the name of a secret, and specs and runs are plain files; "
            "use api_key_env"
        )
    for name in value:
        if name in reserved:
            raise ValueError(f"'{name}' is set by the program; leave it out")
    return value


def _secrets(value: Any, above: str = "") -> Iterator[str]:
    """Yield the paths of fields that may hold a secret.

    Below the first level, these are only fields with a text or a list: a JSON schema may have a
    property called ``key``.
    """
    if isinstance(value, Mapping):
        for name, field in value.items():
            path = f"{above}.{name}" if above else str(name)
            if KEY_LIKE.search(str(name)) and (not above or isinstance(field, (str, list, tuple))):
                yield path
            yield from _secrets(field, path)
    elif isinstance(value, (list, tuple)):
        for index, field in enumerate(value):
            yield from _secrets(field, f"{above}[{index}]")


# What a stage, its task or the program itself decides.
_SET_BY_THE_ENGINE = (
    *("messages", "prompt", "model", "stream", "n", "best_of", "stop", "seed", "echo"),
    *("max_tokens", "max_completion_tokens", "chat_template_kwargs", "response_format"),
)


BaseUrl = Annotated[str, AfterValidator(check_base_url)]
"""The address of a server, up to and including ``/v1``."""
KeyVariable = Annotated[str | None, AfterValidator(check_key_variable)]
"""The *name* of the environment variable with a server's key; None: it asks for no key."""


class EndpointOptions(EngineOptions):
    """``models.NAME.options`` of ``engine: endpoint``."""

    base_url: BaseUrl
    """The address of the server, up to and including ``/v1``."""
    api_key_env: KeyVariable = None
    """The name of the environment variable with the server's key; None: it asks for no key."""
    use_proxy: bool = True
    """Use the proxy that the environment of the trial names, if it names one."""
    max_concurrent: Annotated[int, Field(ge=1, le=1024)] = 16
    """The most requests of one trial at a time."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    """The most requests of the run in a minute.

    Trials that run at the same time share it equally. None: no limit.
    """
    samples_per_request: Annotated[int, Field(ge=1, le=128)] = 1
    """Samples that one request asks for (``n``). One: every sample has its own seed."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Seconds within which a whole answer must arrive."""
    retry_seconds: Annotated[float, Field(ge=0)] = 900.0
    """Seconds without any answer after which the trial ends. Until then it tries again."""
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    """The model's context in tokens; None: what the server says, if it does."""
    extra: dict[str, Any] = {}
    """Further fields of the request's body, e.g. ``{top_k: 20}``; null leaves a field out."""

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, value: Any) -> Any:
        for name in value if isinstance(value, Mapping) else ():
            if KEY_LIKE.search(str(name)):
                raise PlacedError(
                    (str(name),),
                    "a key does not belong in a spec, which is a plain file that the run copies; "
                    "export it in an environment variable and give the variable's name as "
                    "api_key_env",
                )
        return value

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_extra(value, _SET_BY_THE_ENGINE)

    @field_validator("requests_per_minute", "timeout_seconds", "retry_seconds", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return float(value) if type(value) is int else value
