"""A scripted model: replies from a file, in order.

It serves for tests, and to try how the search handles a model's faults.

The file is JSON: ``{"replies": [...], "then": ...}``. A reply is a text, or one of

- ``{"text": "..."}``, or ``{"allocations": [{STAGE: {"model": ..., "samples": ...}}, ...]}`` for a
  well-formed batch;
- ``{"error": 500, "message": "...", "retry_after": 2}``: an HTTP error;
- ``{"timeout": true}``: an answer that does not come in time; ``"delay": SECONDS`` delays any other
  reply.

``"for": "propose"`` keeps a reply for questions of that purpose (``sketch``, ``propose``,
``guidelines``, ``knowledge``). ``then`` is the reply after all others are used up (default: an
empty text).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agenttts.endpoint import estimated_tokens
from agenttts.errors import UserError, valid_names
from agenttts.files.documents import parse_json
from agenttts.search.llm.base import Chat, LLMError, Reply

_AGAIN = {408, 429, 500, 502, 503, 504}


class ScriptedLLM:
    """`LLM` from a script.

    ``served`` are the purposes of the calls that it answered before (after a restart).
    """

    model = "scripted"

    def __init__(
        self,
        script: Mapping[str, Any],
        *,
        timeout: float = 120.0,
        served: Sequence[str] = (),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._replies: list[Mapping[str, Any]] = [_entry(r) for r in script["replies"]]
        self._then = _entry(script.get("then", ""))
        self._timeout = timeout
        self._sleep = sleep
        for purpose in served:
            self._next(purpose)

    def complete(self, chat: Chat) -> Reply:
        """Return the next reply for this purpose."""
        entry = self._next(chat.purpose)
        delay = float(entry.get("delay", 0.0))
        if entry.get("timeout") or delay > self._timeout:
            self._sleep(min(delay, self._timeout))
            raise LLMError("timeout", f"no answer within {self._timeout:g} s", again=True)
        self._sleep(delay)
        if "error" in entry:
            status = int(entry["error"])
            message = f"HTTP {status}: {entry.get('message', 'scripted')}"
            again = status in _AGAIN
            raise LLMError(
                "http" if again else "refused",
                message,
                again=again,
                retry_after=entry.get("retry_after"),
            )
        if "allocations" in entry:
            text = json.dumps({"allocations": entry["allocations"]})
        else:
            text = str(entry.get("text", ""))
        return Reply(text, estimated_tokens(chat.characters), estimated_tokens(len(text)))

    def close(self) -> None:
        """Do nothing: the script holds nothing open."""

    def _next(self, purpose: str) -> Mapping[str, Any]:
        for position, reply in enumerate(self._replies):
            if reply.get("for", purpose) == purpose:
                return self._replies.pop(position)
        return self._then


def load_script(path: Path) -> dict[str, Any]:
    """Read and check a script.

    Raises:
        UserError: The script is wrong; the message names the file and the reply.
    """
    try:
        script = parse_json(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: the script of replies does not exist") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a valid script of replies: {error}") from None
    if not isinstance(script, dict) or not isinstance(script.get("replies"), list):
        raise UserError(f'{path}: not a valid script; valid: {{"replies": [...], "then": ...}}')
    if unknown := [key for key in script if key not in ("replies", "then")]:
        raise UserError(
            f"{path}: unknown key '{unknown[0]}'; {valid_names(unknown[0], ('replies', 'then'))}"
        )
    for number, reply in enumerate([*script["replies"], script.get("then", "")]):
        where = f"replies[{number}]" if number < len(script["replies"]) else "then"
        if not isinstance(reply, (str, dict)):
            raise UserError(f"{path}: {where} is neither a text nor a mapping")
        for key, value in reply.items() if isinstance(reply, dict) else ():
            if key not in _VALID:
                raise UserError(f"{path}: {where}: unknown key '{key}'; {valid_names(key, _VALID)}")
            valid, fits = _VALID[key]
            if not fits(value):
                raise UserError(
                    f"{path}: {where}.{key}: {json.dumps(value)[:60]} is not valid; valid: {valid}"
                )
    return script


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_seconds(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value < math.inf


def _is_status(value: Any) -> bool:
    return type(value) is int and 400 <= value <= 599


# By key of a reply: what is valid, in words and as a check.
_VALID: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "text": ("a text", _is_text),
    "allocations": ("a list", lambda value: isinstance(value, list)),
    "error": ("an HTTP status from 400 to 599", _is_status),
    "message": ("a text", _is_text),
    "retry_after": ("seconds, 0 or more", _is_seconds),
    "timeout": ("true or false", lambda value: isinstance(value, bool)),
    "delay": ("seconds, 0 or more", _is_seconds),
    "for": ("a text", _is_text),
}


def _entry(reply: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return {"text": reply} if isinstance(reply, str) else reply
