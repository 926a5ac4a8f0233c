"""The client of an OpenAI-compatible chat endpoint, over httpx.

It handles the irregularities of such servers: parameters that one accepts and another refuses,
bodies that are not JSON, and answers that arrive byte by byte. The key is in one request header
only: every text that leaves this file has the key removed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from agenttts.search.llm.base import Chat, LLMError, Reply, estimated_tokens

if TYPE_CHECKING:  # httpx is imported when a client is made: most runs need none
    import httpx

# vLLM answers with such a finish reason, and status 200, when it is shut down during a request.
# Other servers do so when one of their workers fails.
_BROKEN_OFF = {"abort", "aborted", "cancelled", "error"}
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_LARGEST_ANSWER = 4_000_000
_TOO_LONG = re.compile(
    r"context.{0,20}length|context_length|maximum context|too long|too many tokens|max_model_len|"
    r"reduce the length",
    re.I,
)


@dataclass(frozen=True)
class Address:
    """The address of a server.

    ``base_url`` goes up to and including ``/v1``. If the key is empty, none is sent.
    """

    base_url: str
    key: str = field(default="", repr=False)


class EndpointLLM:
    """A model behind an OpenAI-compatible server.

    ``locate`` gives the address before each attempt, because a model that the run serves itself may
    have moved. It may raise `LLMError`. ``direct`` bypasses any proxy that the environment names,
    as needed within a cluster. ``structured`` sends the JSON schema, until the server refuses it.
    ``extra`` are further fields of the request's body.
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
    ) -> None:
        self.model = model
        self._locate = locate
        self._timeout = timeout
        self._direct = direct
        self._client: httpx.Client | None = None
        self._left_out: list[str] = [] if structured else ["response_format"]
        self._limit_field = "max_tokens"
        self._max_tokens = max_tokens
        self._fixed: dict[str, Any] = {"model": model, **(extra or {})}
        if temperature is not None:
            self._fixed["temperature"] = temperature

    def complete(self, chat: Chat) -> Reply:
        """Make one attempt.

        If the server refuses a parameter, the parameter is left out from then on, and the request
        is repeated.
        """
        notes: list[str] = []
        while True:
            address = self._locate()
            status, text, headers = self._post(address, self._body(chat))
            if status == 400 or status == 422:
                change = self._adapt(chat, text)
                if change:
                    notes.append(change)
                    continue
            if status != 200:
                raise _refusal(status, text, headers, address)
            return _reply(chat, text, tuple(notes), address)

    def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _body(self, chat: Chat) -> dict[str, Any]:
        body = {
            **self._fixed,
            "messages": [dict(message) for message in chat.messages],
            self._limit_field: self._max_tokens,
            "seed": chat.seed,
        }
        if chat.schema is not None:
            # Not "strict": servers that support it accept fewer of the schema's bounds with it.
            schema = {"name": chat.purpose, "schema": dict(chat.schema), "strict": False}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {name: value for name, value in body.items() if name not in self._left_out}

    def _adapt(self, chat: Chat, text: str) -> str | None:
        """Change later requests so that the server may accept them.

        Returns:
            What was changed; None if no parameter of the request is the cause.
        """
        complaint = text.lower()
        if "max_completion_tokens" in complaint and self._limit_field == "max_tokens":
            self._limit_field = "max_completion_tokens"
            return "the server wants max_completion_tokens"
        if _TOO_LONG.search(text):
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
        return None

    def _post(
        self, address: Address, body: Mapping[str, Any]
    ) -> tuple[int, str, Mapping[str, str]]:
        """Return status, text and headers of the answer.

        The whole answer must arrive within the timeout.
        """
        import httpx

        if self._client is None:
            self._client = httpx.Client(trust_env=not self._direct, follow_redirects=False)
        headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
        deadline = time.monotonic() + self._timeout
        limits = httpx.Timeout(self._timeout, connect=min(20.0, self._timeout))
        url = f"{address.base_url.rstrip('/')}/chat/completions"
        try:
            with self._client.stream(
                "POST", url, json=dict(body), headers=headers, timeout=limits
            ) as answer:
                content = bytearray()
                for chunk in answer.iter_bytes():
                    content += chunk
                    if time.monotonic() > deadline:
                        raise LLMError(
                            "timeout", f"no whole answer in {self._timeout:g} s", again=True
                        )
                    if len(content) > _LARGEST_ANSWER:
                        raise LLMError("reply", f"the answer is over {_LARGEST_ANSWER} bytes")
                return answer.status_code, content.decode("utf-8", "replace"), answer.headers
        except httpx.TimeoutException:
            raise LLMError("timeout", f"no answer in {self._timeout:g} s", again=True) from None
        except httpx.InvalidURL as error:
            raise LLMError("refused", f"{address.base_url}: {error}") from None
        except httpx.HTTPError as error:
            message = _blotted(f"{address.base_url}: {error or type(error).__name__}", address)
            raise LLMError("connection", message, again=True) from None


def _reply(chat: Chat, text: str, notes: tuple[str, ...], address: Address) -> Reply:
    try:
        document = json.loads(text)
        choice = document["choices"][0]
        content = choice["message"].get("content")
        reason = str(choice.get("finish_reason") or "stop")
        if reason in _BROKEN_OFF:
            raise LLMError("connection", f"the server broke the answer off ({reason})", again=True)
        usage = document.get("usage") or {}
        said = _content(content)
        return Reply(
            text=_blotted(said, address),
            prompt_tokens=int(usage.get("prompt_tokens") or estimated_tokens(chat.characters)),
            completion_tokens=int(usage.get("completion_tokens") or estimated_tokens(len(said))),
            finish_reason=reason,
            notes=notes,
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        start = _blotted(" ".join(text[:200].split()), address)
        raise LLMError("reply", f"the answer is no chat completion: {start}", again=True) from None


def _content(content: Any) -> str:
    """Return a message's text.

    Some servers send it in parts, and send no text for a refusal.
    """
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)


def _refusal(status: int, text: str, headers: Mapping[str, str], address: Address) -> LLMError:
    detail = _blotted(" ".join(text[:500].split()), address)
    message = f"HTTP {status} from {address.base_url}: {detail or 'no text'}"
    if status in _AGAIN:
        return LLMError("http", message, again=True, retry_after=_retry_after(headers))
    if status in (400, 413, 422) and _TOO_LONG.search(text):
        return LLMError("context", message)
    return LLMError("refused" if 400 <= status < 500 else "http", message)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait, from a number of seconds or a date.

    Source: RFC 9110, section 10.2.3.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _blotted(text: str, address: Address) -> str:
    return text.replace(address.key, "[key]") if address.key else text
