"""The interface to language models in the search: messages in, one reply out.

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
"""Why a call failed.

- ``refused``: key, model or address are wrong.
- ``context``: the prompt is too long for the model.
- ``reply``: the server's answer is not a chat completion.
- ``cap``: the run's own cap on calls or tokens.
- ``unavailable``: the model that the run serves itself does not run.
"""


@dataclass(frozen=True)
class Chat:
    """One question.

    ``schema`` is the JSON schema of the reply, where the server can enforce it.

    ``purpose`` says what the question is for (``guidelines``, ``propose``, ...). ``trials`` is the
    number of results known when it was asked (None if that does not matter). ``state`` identifies
    the results and pending trials that were known then. They are for the transcript, not for the
    model.
    """

    purpose: str
    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None
    seed: int = 0
    trials: int | None = None
    state: str | None = None

    @property
    def key(self) -> str:
        """The identity of the question: 16 hex digits, equal for equal questions."""
        asked = [self.purpose, [dict(m) for m in self.messages], self.schema, self.seed]
        text = json.dumps(asked, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def characters(self) -> int:
        """The length of all messages."""
        return sum(len(message["content"]) for message in self.messages)


@dataclass(frozen=True)
class Reply:
    """A model's reply.

    Token counts are the server's, or an estimate if it gives none.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = "stop"
    notes: tuple[str, ...] = field(default=())
    """What the client changed to get the reply, e.g. that it left the schema out."""


class LLM(Protocol):
    """A language model behind a server.

    Contract: `complete` makes one attempt and returns its reply, also if the text is useless, or
    raises `LLMError`. It does not exceed its timeout by much. It may be called again after any
    error. `close` may be called twice.
    """

    model: str

    def complete(self, chat: Chat) -> Reply: ...

    def close(self) -> None: ...


class LLMError(Exception):
    """A call brought no reply.

    ``again`` says whether the same call is worth another attempt. ``retry_after`` is the time in
    seconds that the server asks to wait.
    """

    def __init__(
        self, fault: Fault, message: str, *, again: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.again = again
        self.retry_after = retry_after
