"""Requests to an OpenAI-compatible server, over httpx.

The search's language model and the engine of trials share this module. A whole answer arrives
within a time, or the request has failed. The key is in one request header only: every text that
leaves this file has the key removed (`Address.without_key`). Redirects are not followed, because
the key would go with them.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # httpx is imported when a client is made: most runs need none
    import httpx

BROKEN_OFF = {"abort", "aborted", "cancelled", "error"}
"""Finish reasons of an answer that the server broke off, with status 200.

vLLM answers so when it is shut down during a request. Other servers do so when one of their workers
fails.
"""
_AGAIN = {408, 409, 425, 429}
_NOT_AGAIN = {501, 505}
"""Failures that do not pass. All others of 500 and more may (Cloudflare: 520 to 530)."""
_LARGEST_ANSWER = 4_000_000
# What httpx reads of the environment. A proxy's value may hold a password: no message shows it.
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_LONG_KEY, _MIXED_KEY = 16, 8  # characters; keys of providers have 20 and more
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_TOO_LONG = re.compile(
    r"context.{0,20}(length|size|window)|context_length|maximum context|too long|too many tokens|"
    r"max_model_len|reduce the length|max_new_tokens.{0,20} must be <=|"
    # xAI, Gemini, Moonshot, DashScope, TensorRT-LLM
    r"maximum prompt length|token count.{0,40}exceeds|exceeded model token limit|"
    r"range of input length|max_seq_len|max_num_tokens",
    re.I,
)
# With status 413, Groq refuses a request that is larger than what a minute allows.
_RATE = re.compile(r"rate.?limit|per minute|\bTPM\b", re.I)

# "System role not supported" (Gemma 2), "Conversation roles must alternate" (early Mistral).
_SYSTEM_REFUSED = re.compile(r"\bsystem\b|\broles?\b", re.I)

ServerFault = Literal["timeout", "connection", "http", "refused", "context", "reply"]
"""Why a request failed.

- ``refused``: key, model or address are wrong.
- ``context``: the prompt is too long for the model.
- ``reply``: the server's answer is not what was asked for.
"""


class ServerError(Exception):
    """A request brought no usable answer.

    ``again`` says whether the same request is worth another attempt. ``retry_after`` is the time in
    seconds that the server asks to wait. ``status`` is HTTP's; None if there was no answer.
    """

    def __init__(
        self,
        fault: ServerFault,
        message: str,
        *,
        again: bool = False,
        retry_after: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.again = again
        self.retry_after = retry_after
        self.status = status


@dataclass(frozen=True)
class Address:
    """The address of a server.

    ``base_url`` goes up to and including ``/v1``. If the key is empty, none is sent.
    """

    base_url: str
    key: str = field(default="", repr=False)

    def without_key(self, text: str) -> str:
        """Return a text with the key removed.

        A key that cannot be a secret stays: local servers take any key, such as ``none``, and such
        a word may be a part of any text.
        """
        return text.replace(self.key, "[key]") if _may_be_secret(self.key) else text


@dataclass(frozen=True)
class Answer:
    """An answer of a server, whatever its status."""

    status: int
    text: str
    headers: Mapping[str, str]


class EndpointClient:
    """Sends requests. It may be used by several threads after the first request.

    Args:
        timeout: Seconds within which the whole answer must arrive.
        use_proxy: Use the proxy that the environment names, if any.
        connections: The most connections at a time; None for httpx's own limit.
        largest: The most bytes of an answer.
    """

    def __init__(
        self,
        *,
        timeout: float,
        use_proxy: bool = True,
        connections: int | None = None,
        largest: int = _LARGEST_ANSWER,
    ) -> None:
        self._timeout = timeout
        self._use_proxy = use_proxy
        self._connections = connections
        self._largest = largest
        self._client: httpx.Client | None = None

    def post(self, address: Address, path: str, body: Mapping[str, Any]) -> Answer:
        """Return the answer to a JSON body.

        Raises:
            ServerError: No whole answer came.
        """
        return self._request("POST", address, path, dict(body))

    def get(self, address: Address, path: str) -> Answer:
        """Return the answer to a request without a body.

        Raises:
            ServerError: No whole answer came.
        """
        return self._request("GET", address, path, None)

    def close(self) -> None:
        """Close the connections; may be called twice."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _request(
        self, method: str, address: Address, path: str, body: dict[str, Any] | None
    ) -> Answer:
        import httpx

        if self._client is None:
            self._client = self._new_client(address)
        headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
        deadline = time.monotonic() + self._timeout
        times = httpx.Timeout(self._timeout, connect=min(20.0, self._timeout))
        url = f"{address.base_url.rstrip('/')}/{path}"
        try:
            with self._client.stream(
                method, url, json=body, headers=headers, timeout=times
            ) as answer:
                content = bytearray()
                for chunk in answer.iter_bytes():
                    content += chunk
                    if time.monotonic() > deadline:
                        raise ServerError(
                            "timeout", f"no whole answer in {self._timeout:g} s", again=True
                        )
                    if len(content) > self._largest:
                        raise ServerError("reply", f"the answer is over {self._largest} bytes")
                return Answer(
                    answer.status_code, content.decode("utf-8", "replace"), answer.headers
                )
        except httpx.TimeoutException:
            raise ServerError("timeout", f"no answer in {self._timeout:g} s", again=True) from None
        except httpx.InvalidURL as error:
            raise ServerError("refused", f"{address.base_url}: {error}") from None
        except httpx.HTTPError as error:
            message = f"{address.base_url}: {error or type(error).__name__}"
            raise ServerError("connection", address.without_key(message), again=True) from None

    def _new_client(self, address: Address) -> httpx.Client:
        import httpx

        limits = httpx.Limits(max_connections=self._connections)
        try:
            return httpx.Client(trust_env=self._use_proxy, follow_redirects=False, limits=limits)
        # A SOCKS proxy needs a package that is not installed; the others are errors in a value.
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
            names = (*_PROXY_VARIABLES, *(name.upper() for name in _PROXY_VARIABLES))
            found = [name for name in (*names, *_CA_VARIABLES) if name in os.environ]
            raise ServerError(
                "refused",
                f"{address.base_url}: no request can be sent with this environment ("
                f"{', '.join(found) or 'no proxy is set'}): {type(error).__name__}; set the "
                "proxy as http://HOST:PORT, NO_PROXY as a list of hosts, and SSL_CERT_FILE and "
                "SSL_CERT_DIR to files that exist on this host, or unset them",
            ) from error


def refusal(answer: Answer, address: Address) -> ServerError:
    """Return the error that an answer with a status other than 200 means."""
    status = answer.status
    detail = _start(answer.text, address, 500)
    message = f"HTTP {status} from {address.base_url}: {detail or 'no text'}"
    if 300 <= status < 400:
        target = address.without_key(answer.headers.get("location", "another address"))
        message += f" (it redirects to {target}, which is not followed: give the final address)"
        return ServerError("refused", message, status=status)
    if status in _AGAIN or (status >= 500 and status not in _NOT_AGAIN):
        return ServerError(
            "http", message, again=True, retry_after=_retry_after(answer.headers), status=status
        )
    if says_too_long(answer):
        return ServerError("context", message, status=status)
    return ServerError("refused" if 400 <= status < 500 else "http", message, status=status)


def says_too_long(answer: Answer) -> bool:
    """Return whether the server refused a prompt that is too long for the model.

    Status 413 is also a proxy's, for a body that is larger than it passes on.
    """
    if answer.status == 413 and not _RATE.search(answer.text):
        return True
    return answer.status in (400, 413, 422) and _TOO_LONG.search(answer.text) is not None


def broken_off(reason: str) -> ServerError:
    """Return the error of an answer with a finish reason of `BROKEN_OFF`."""
    return ServerError("connection", f"the server broke the answer off ({reason})", again=True)


def not_a_completion(answer: Answer, address: Address) -> ServerError:
    """Return the error of an answer with status 200 that cannot be read."""
    start = _start(answer.text, address, 200)
    return ServerError("reply", f"the answer is not a chat completion: {start}", again=True)


def message_text(content: Any) -> str:
    """Return a message's text.

    Some servers send it in parts, and send no text for a refusal.
    """
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return str(content)


def parse_answer(answer: Answer, address: Address) -> Any:
    """Return the JSON document of an answer.

    Raises:
        ServerError: It is not JSON.
    """
    try:
        return json.loads(answer.text)
    except (ValueError, RecursionError):
        raise not_a_completion(answer, address) from None


def without_system(messages: list[dict[str, str]]) -> list[dict[str, str]] | None:
    """Return a chat with the system's text at the head of the first user turn.

    None if it does not begin with both.
    """
    if len(messages) < 2 or messages[0]["role"] != "system":
        return None
    first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
    return [first, *messages[2:]]


def refuses_system(complaint: str) -> bool:
    """Return whether a refusal may be of the system message, by a chat template."""
    return _SYSTEM_REFUSED.search(complaint) is not None


def estimated_tokens(characters: int) -> int:
    """Estimate the number of tokens in a text of ``characters``.

    It is one token per four characters, rounded up.
    """
    return -(-characters // 4)


def usable_key(key: str) -> bool:
    """Return whether a key can be sent in a header.

    A key that cannot be sent would appear in the errors of libraries.
    """
    return bool(key) and key.isascii() and key.isprintable() and " " not in key


def shown_variable(variable: str) -> str:
    """Return the variable's name, unless it may be a key given as the name."""
    if re.fullmatch(r"[A-Z][A-Z0-9_]{0,39}", variable):
        return f"the environment variable {variable}"
    return "the environment variable that it names"


def _may_be_secret(key: str) -> bool:
    """Return whether a key is long, or no word and no number."""
    digits_and_letters = any(c.isdigit() for c in key) and any(c.isalpha() for c in key)
    mixed = digits_and_letters or key[1:] not in (key[1:].lower(), key.upper()[1:])
    return len(key) >= _LONG_KEY or (len(key) >= _MIXED_KEY and mixed)


def _start(text: str, address: Address, length: int) -> str:
    # The key is removed first: a cut within the key would leave its first characters.
    return " ".join(address.without_key(text)[:length].split())


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait, from a number of seconds or a date.

    Azure and OpenAI also send milliseconds, whose number of seconds may be rounded down to zero.

    Source: RFC 9110, section 10.2.3.
    """
    exact = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(exact):
        return float(exact) / 1000
    value = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
