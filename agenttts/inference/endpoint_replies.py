"""Read a server's replies: texts, separate thinking, tokens, finish reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agenttts.endpoint import (
    BROKEN_OFF,
    Address,
    Answer,
    broken_off,
    estimated_tokens,
    message_text,
    not_a_completion,
    parse_answer,
)
from agenttts.inference.base import Sample
from agenttts.replies import with_kept_apart

_LENGTH = ("length", "max_tokens", "model_length")
FILTERED = "content_filter"
"""The finish reason of a reply that the server's filter withheld, wholly or in part."""


@dataclass(frozen=True)
class ServerReply:
    """The samples of one request.

    ``prompt_tokens`` is None if the server does not say.
    """

    samples: tuple[Sample, ...]
    prompt_tokens: int | None


def read_reply(
    answer: Answer, address: Address, *, max_tokens: int, stop: Sequence[str] = ()
) -> ServerReply:
    """Return the samples of an answer with status 200.

    Thinking that the server keeps apart is put before the text (`with_kept_apart`). Token
    counts are the server's, or estimates if it gives none. Those of several samples are divided by
    the lengths of their texts. A completion ends before the first stop string, also if the server
    does not know them or returns them.

    Raises:
        ServerError: The answer is not a completion, or the server broke it off.
    """
    document = parse_answer(answer, address)
    try:
        usage = document.get("usage") or {}
        found = [_text_and_reason(choice, stop) for choice in document["choices"]]
        if not found:
            raise ValueError("no choices")
        broken = next((reason for _, reason in found if reason in BROKEN_OFF), None)
        if broken is not None:
            raise broken_off(broken)
        texts = [_valid_text(address.without_key(text)) for text, _ in found]
        reasons = [reason for _, reason in found]
        counts = _decode_tokens(texts, reasons, _count(usage, "completion"), max_tokens)
        return ServerReply(
            tuple(
                Sample(text, tokens, reason)
                for text, tokens, reason in zip(texts, counts, reasons, strict=True)
            ),
            _count(usage, "prompt"),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise not_a_completion(answer, address) from None


def _text_and_reason(choice: Mapping[str, Any], stop: Sequence[str]) -> tuple[str, str]:
    said = str(choice.get("finish_reason") or "stop").lower()
    reason = "length" if said in _LENGTH else said
    if reason not in ("length", FILTERED, *BROKEN_OFF):
        reason = "stop"
    if "message" not in choice:
        text = message_text(choice["text"])
        ends = [place for string in stop if (place := text.find(string)) >= 0]
        return (text[: min(ends)], "stop") if ends else (text, reason)
    message = choice["message"]
    text = message_text(message.get("content") or message.get("refusal"))
    # The field's names: "reasoning_content" (DeepSeek, SGLang, vLLM to 0.11), "reasoning" (vLLM
    # from 0.12, OpenRouter).
    kept_apart = message_text(message.get("reasoning_content") or message.get("reasoning"))
    cut = not text and reason == "length"
    return with_kept_apart(kept_apart, text, cut=cut), reason


def _decode_tokens(
    texts: list[str], reasons: list[str], total: int | None, max_tokens: int
) -> list[int]:
    """Return the tokens of each sample, whose sum is ``total`` if the server says it."""
    if total is None:
        return [
            max_tokens if reason == "length" else min(max_tokens, estimated_tokens(len(text)) + 1)
            for text, reason in zip(texts, reasons, strict=True)
        ]
    lengths = [len(text) + 1 for text in texts]
    counts, given, seen = [], 0, 0
    for length in lengths:
        seen += length
        upto = round(total * seen / sum(lengths))
        counts.append(upto - given)
        given = upto
    return counts


def _count(usage: Mapping[str, Any], what: str) -> int | None:
    value = usage.get(f"{what}_tokens")
    return value if type(value) is int and value >= 0 else None


def _valid_text(text: str) -> str:
    # A lone surrogate from a JSON escape cannot be written to a file.
    return text.encode("utf-8", "replace").decode()
