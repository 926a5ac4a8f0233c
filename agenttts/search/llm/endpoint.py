"""The client of a language model behind an OpenAI-compatible chat endpoint.

It handles the irregularities of such servers: parameters that one accepts and another refuses.
Requests and their failures are in `agenttts.endpoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agenttts.endpoint import (
    BROKEN_OFF,
    Address,
    Answer,
    EndpointClient,
    ServerError,
    broken_off,
    estimated_tokens,
    message_text,
    not_a_completion,
    parse_answer,
    refusal,
    refuses_system,
    says_too_long,
    without_system,
)
from agenttts.search.llm.base import Chat, LLMError, Reply


class EndpointLLM:
    """A model behind an OpenAI-compatible server.

    ``locate`` gives the address before each attempt, because a model that the run serves itself may
    have moved. It may raise `LLMError`. ``direct`` bypasses any proxy that the environment names,
    as needed within a cluster. ``structured`` sends the JSON schema, until the server refuses it.
    ``extra`` are further fields of the request's body. ``merges_system`` puts the system's text at
    the head of the first user turn; so does a server's refusal of the system message.
    """

    def __init__(
        self,
        model: str,
        locate: Callable[[], Address],
        *,
        max_tokens: int,
        temperature: float | None = None,
        timeout: float = 120.0,
        structured: bool = True,
        direct: bool = False,
        extra: Mapping[str, Any] | None = None,
        merges_system: bool = False,
    ) -> None:
        self.model = model
        self._locate = locate
        self._client = EndpointClient(timeout=timeout, use_proxy=not direct)
        self._left_out: list[str] = [] if structured else ["response_format"]
        self._limit_field = "max_tokens"
        self._merges_system = merges_system
        self._max_tokens = max_tokens
        self._fixed: dict[str, Any] = {"model": model, **(extra or {})}
        if temperature is not None:
            self._fixed["temperature"] = temperature

    def complete(self, chat: Chat) -> Reply:
        """Make one attempt.

        If the server refuses a parameter, the parameter is left out from then on, and the request
        is repeated.
        """
        try:
            return self._complete(chat)
        except ServerError as error:
            raise LLMError(
                error.fault, str(error), again=error.again, retry_after=error.retry_after
            ) from None

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _complete(self, chat: Chat) -> Reply:
        notes: list[str] = []
        while True:
            address = self._locate()
            answer = self._client.post(address, "chat/completions", self._body(chat))
            if answer.status in (400, 422):
                change = self._adapt(chat, answer)
                if change:
                    notes.append(change)
                    continue
            if answer.status != 200:
                raise refusal(answer, address)
            return _reply(chat, answer, tuple(notes), address)

    def _body(self, chat: Chat) -> dict[str, Any]:
        messages = [dict(message) for message in chat.messages]
        if self._merges_system:
            messages = without_system(messages) or messages
        body = {
            **self._fixed,
            "messages": messages,
            self._limit_field: self._max_tokens,
            "seed": chat.seed,
        }
        if chat.schema is not None:
            # Not "strict": servers that support it accept fewer of the schema's bounds with it.
            schema = {"name": chat.purpose, "schema": dict(chat.schema), "strict": False}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {name: value for name, value in body.items() if name not in self._left_out}

    def _adapt(self, chat: Chat, answer: Answer) -> str | None:
        """Change later requests so that the server may accept them.

        Returns:
            What was changed; None if no parameter of the request is the cause.
        """
        complaint = answer.text.lower()
        if "max_completion_tokens" in complaint and self._limit_field == "max_tokens":
            self._limit_field = "max_completion_tokens"
            return "the server wants max_completion_tokens"
        if says_too_long(answer):
            return None
        words = {
            "response_format": ("response_format", "json_schema", "schema", "grammar", "guided"),
            "temperature": ("temperature",),
            "seed": ("seed",),
        }
        for name, signs in words.items():
            sent = name in self._body(chat)
            if sent and any(sign in complaint for sign in signs):
                self._left_out.append(name)
                return f"the server refuses {name}: left out"
        first = chat.messages[0]["role"] if chat.messages else ""
        if first == "system" and not self._merges_system and refuses_system(complaint):
            self._merges_system = True
            return "the server refuses a system message: its text is in the user's"
        return None


def _reply(chat: Chat, answer: Answer, notes: tuple[str, ...], address: Address) -> Reply:
    document = parse_answer(answer, address)
    try:
        choice = document["choices"][0]
        content = choice["message"].get("content")
        reason = str(choice.get("finish_reason") or "stop")
        if reason in BROKEN_OFF:
            raise broken_off(reason)
        usage = document.get("usage") or {}
        said = message_text(content)
        return Reply(
            text=address.without_key(said),
            prompt_tokens=int(usage.get("prompt_tokens") or estimated_tokens(chat.characters)),
            completion_tokens=int(usage.get("completion_tokens") or estimated_tokens(len(said))),
            finish_reason=reason,
            notes=notes,
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise not_a_completion(answer, address) from None
