"""Language models as the search sees them: messages in, one reply out.

There is one kind of error, `LLMError`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Message = Mapping[str, str]
"""A chat message: {"role": "system"|"user"|"assistant", "content": text}."""

Fault = Literal[
    "timeout", "connection", "http", "refused", "context", "reply", "cap", "unavailable"
]
"""Why a call failed. ``refused``: key, model or address are wrong; ``context``: the prompt is too
long for the model; ``reply``: the server's answer is not a chat completion; ``cap``: the run's own
cap on calls or tokens; ``unavailable``: the model that the run serves itself does not run."""


@dataclass(frozen=True)
class Chat:
    """One question.

    ``schema`` is the JSON schema that the reply should obey, where the server can enforce it.

    ``purpose`` says what it is for (``guidelines``, ``propose``, ...); ``trials`` is the number of
    results known when it was asked (None: that does not matter). Both are for the transcript, not
    for the model.
    """

    purpose: str
    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None
    seed: int = 0
    trials: int | None = None

    @property
    def key(self) -> str:
        """What the question is known by: equal questions have equal keys (16 hex digits)."""
        asked = [self.purpose, [dict(m) for m in self.messages], self.schema, self.seed]
        text = json.dumps(asked, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def characters(self) -> int:
        """Length of all messages."""
        return sum(len(message["content"]) for message in self.messages)


@dataclass(frozen=True)
class Reply:
    """What the model said.

    Token counts are the server's, or an estimate where it gives none.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = "stop"
    notes: tuple[str, ...] = field(default=())
    """What the client had to do to get it, e.g. leave the schema out."""


class LLM(Protocol):
    """A language model behind some server.

    Contract: `complete` makes one attempt and returns its reply, however useless the text, or
    raises `LLMError`; it never takes longer than its timeout by much. It may be called again after
    any error. `close` may be called twice.
    """

    model: str

    def complete(self, chat: Chat) -> Reply: ...

    def close(self) -> None: ...


class LLMError(Exception):
    """A call brought no reply.

    ``again``: worth trying again as it is; ``retry_after``: seconds the server asks for.
    """

    def __init__(
        self, fault: Fault, message: str, *, again: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.again = again
        self.retry_after = retry_after


def estimated_tokens(characters: int) -> int:
    """About how many tokens a text of so many characters is.

    Four characters a token, rounded up.
    """
    return -(-characters // 4)
