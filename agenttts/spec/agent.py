"""The ``agent:`` section: the language model that the search asks, if any.

It holds no secret. The spec names the environment variable of an endpoint's key, and a value that
looks like a key is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from agenttts.errors import shortened, valid_names
from agenttts.spec.endpoint import (
    KEY_LIKE,
    BaseUrl,
    KeyVariable,
    check_extra,
)
from agenttts.spec.engine_options import from_command_line
from agenttts.spec.section import PlacedError, Section
from agenttts.spec.thinking import ThinkingSetting, check_template_args, check_thinking


class _Talk(Section):
    """Settings for calls of a model, whatever serves it."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.7
    """None: the server's default, for models that take no temperature."""
    max_tokens: Annotated[int, Field(ge=64)] = 2048
    """The most tokens of one reply."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Seconds that one call may take."""
    retries: Annotated[int, Field(ge=0, le=20)] = 4
    """Further attempts after a passing failure (timeout, 429, 5xx); waits grow."""
    max_calls: Annotated[int, Field(ge=1)] = 200
    """The most attempts of a run, whether it was resumed or not."""
    max_total_tokens: Annotated[int, Field(ge=1)] = 2_000_000
    """The most tokens of a run: prompts and replies."""
    bad_replies: Annotated[int, Field(ge=0, le=10)] = 2
    """How often an unusable reply is returned for correction.

    After that the insight rules propose.
    """
    structured: bool = True
    """Ask for JSON by schema; switched off automatically where the server refuses it."""
    thinking: ThinkingSetting = "auto"
    """The markers around the model's thinking.

    Thinking is removed before a reply is read.
    ``auto``: as for ``models`` if the run serves the model, else the common tags.
    """

    @field_validator("thinking", mode="before")
    @classmethod
    def _check_thinking(cls, value: Any) -> Any:
        return check_thinking(value)

    @field_validator("temperature", "timeout_seconds", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return float(value) if type(value) is int else value


class EndpointAgent(_Talk):
    """An OpenAI-compatible server that is already running."""

    kind: Literal["endpoint"]
    """A server that runs already."""
    base_url: BaseUrl
    """The address of the server, up to and including ``/v1``."""
    model: str
    """The server's name of the model."""
    api_key_env: KeyVariable = None
    """The name of the environment variable with the server's key; None: it asks for no key."""
    extra: dict[str, Any] = {}
    """Further fields of the request's body, e.g. ``{reasoning_effort: low}``."""

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_extra(value, ("messages", "model", "stream", "n", "response_format"))


class ServeAgent(_Talk):
    """A model that the run serves itself, as long as the search needs it.

    vLLM serves it, in the trials' image. If it is one of the search's models, jobs of trials that
    stay with its engine loaded answer in place of a server.
    """

    kind: Literal["serve"]
    """A model that the run serves."""
    model: str
    """A name under ``models``, or the directory of a chat model."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs of the served model.

    None: as set for the model, or derived from its config.json and the profile's GPU memory.
    """
    options: dict[str, Any] = {}
    """vLLM's engine options, checked by name; they override those under ``models``."""
    template_args: dict[str, Any] = {}
    """Arguments of the chat template; they override those under ``models``."""
    start_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds that the search waits for the model, in the queue and while it loads.

    After that the insight rules propose.
    """
    idle_seconds: Annotated[float, Field(ge=0)] = 600.0
    """Seconds that the model stays idle before it is released.

    It is released if trials take longer than this, and started again for the next batch. On GPUs
    it is released earlier if its start took less.
    """
    restarts: Annotated[int, Field(ge=0, le=20)] = 2
    """The most consecutive restarts after the model dies or does not start."""

    @property
    def served_name(self) -> str:
        """The name of the model for its server and in the transcript."""
        return Path(self.model).name

    @field_validator("options")
    @classmethod
    def _read_options(cls, value: dict[str, Any]) -> dict[str, Any]:
        return from_command_line(value)

    @field_validator("template_args")
    @classmethod
    def _check_template_args(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_template_args(value)

    @field_validator("start_seconds", "idle_seconds", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        return float(value) if type(value) is int else value


class ScriptedAgent(_Talk):
    """Replies from a file, for tests and for trying what a bad model does."""

    kind: Literal["scripted"]
    """Replies from a file."""
    replies: str
    """A JSON file, see `agenttts.search.llm.scripted`."""


KINDS: dict[str, type[_Talk]] = {
    "endpoint": EndpointAgent,
    "serve": ServeAgent,
    "scripted": ScriptedAgent,
}


def _alternative(value: Any) -> str | None:
    """Return the alternative that a value is meant for.

    Errors then concern that alternative alone.
    """
    if isinstance(value, _Talk):
        return type(value).__name__
    if isinstance(value, Mapping):
        kind = KINDS.get(str(value.get("kind")))
        return kind.__name__ if kind else None
    return "none"


AgentSection = Annotated[
    Annotated[Literal["none"], Tag("none")]
    | Annotated[EndpointAgent, Tag("EndpointAgent")]
    | Annotated[ServeAgent, Tag("ServeAgent")]
    | Annotated[ScriptedAgent, Tag("ScriptedAgent")],
    Discriminator(_alternative),
]


def check_kind(value: Any) -> Any:
    """Check that the kind is a known one and that no key may hold a secret.

    This validator runs before the alternatives of the union.
    """
    if isinstance(value, Mapping):
        for name in value:
            if KEY_LIKE.search(str(name)):
                raise PlacedError(
                    ("agent", str(name)),
                    "a key does not belong in a spec, which is a plain file that the run "
                    "copies; export it in an "
                    "environment variable and give the variable's name as api_key_env",
                )
        if "kind" not in value:
            raise PlacedError(("agent", "kind"), f"this key is required; valid: {', '.join(KINDS)}")
        if value["kind"] not in list(KINDS):
            given = shortened(str(value["kind"]))
            raise PlacedError(
                ("agent", "kind"), f"unknown kind '{given}'; {valid_names(given, KINDS)}"
            )
    elif value != "none" and not isinstance(value, _Talk):
        raise PlacedError(
            ("agent",), f"must be 'none' or a mapping with a kind ({', '.join(KINDS)})"
        )
    return value
