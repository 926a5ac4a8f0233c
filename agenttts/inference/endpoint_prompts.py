"""Shorten a prompt that a server refuses because it is too long.

The tokenizer is the server's, so the prompt is cut by characters, and the server says whether it
fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from agenttts.endpoint import ServerError
from agenttts.inference.base import EngineError, Message

Content = str | tuple[Message, ...]
_MOST_ATTEMPTS = 14
_NEAR_TOKENS = 8
"""A shortened prompt is long enough if at most so many tokens of the room are left."""
_NEAR_SHARE = 1 / 64
"""The search for the longest prompt ends when its bounds are this close."""
# "your prompt contains at least 233 input tokens" (vLLM), "(4000 in the messages, 97 in the
# completion)" and "your messages resulted in 4000 tokens" (OpenAI), "The input (5000 tokens) is
# longer than" (SGLang).
_PROMPT_TOKENS = re.compile(
    r"(\d+) input tokens|(\d+) in the messages|resulted in (\d+) tokens|input \((\d+) tokens\)",
    re.I,
)
# "maximum context length is 256 tokens", "context length (4096 tokens)", "max_model_len=256".
_CONTEXT = re.compile(
    r"context (?:length|size)(?: is| of|) \(?(\d+)|max_model_len\W{1,4}(\d+)", re.I
)


def shortened(content: Content, kept: int) -> Content:
    """Return a prompt with ``kept`` of its characters, without its middle.

    Head and tail carry the instructions and the question. The roles of a chat stay.
    """
    total = characters(content)
    head, tail = (kept + 1) // 2, total - kept // 2
    if isinstance(content, str):
        return content[:head] + content[max(head, tail) :]
    messages: list[Message] = []
    begin = 0
    for message in content:
        text = message["content"]
        first = text[: max(0, head - begin)]
        last = text[max(0, tail - begin, len(first)) :]
        messages.append({**message, "content": first + last})
        begin += len(text)
    return tuple(messages)


def characters(content: Content) -> int:
    """Return the length of a prompt's texts."""
    if isinstance(content, str):
        return len(content)
    return sum(len(message["content"]) for message in content)


def said_context(text: str) -> int | None:
    """Return the context in tokens that a refusal names."""
    return _first_number(_CONTEXT, text)


def no_room(max_tokens: int, context: int | None) -> EngineError:
    """Return the error of a stage whose ``decode_tokens`` leave no room for a prompt."""
    of = f" of {context} tokens" if context else ""
    return EngineError(
        f"decode_tokens {max_tokens} leaves no room for a prompt in a context{of}; lower "
        "decode_tokens or raise the model's max_model_len"
    )


def longest_that_fits(
    content: Content,
    refused: ServerError,
    ask: Callable[[Content], int | None],
    *,
    max_tokens: int,
    context: int | None,
) -> Content:
    """Return a prompt that is shortened until the server takes it.

    A search of at most `_MOST_ATTEMPTS` requests looks for the longest such prompt.

    Args:
        content: The prompt that was refused.
        refused: The refusal.
        ask: Sends a prompt. It returns its tokens if the server took it, None if it does not say
            how many; it raises `ServerError` with fault ``context`` if the prompt is too long.
        max_tokens: Tokens of a reply.
        context: The model's context in tokens; None if it is not known.

    Raises:
        EngineError: No prompt fits.
    """
    context = context or said_context(str(refused))
    room = context - max_tokens if context else None
    if room is not None and room < 1:
        raise no_room(max_tokens, context)
    low, high = 0, characters(content)
    fits: Content | None = None
    tokens = _first_number(_PROMPT_TOKENS, str(refused))
    kept = int(high * min(0.95, room / tokens)) if room and tokens else high // 2
    for _ in range(_MOST_ATTEMPTS):
        if not low < kept < high:
            kept = (low + high) // 2
        if kept == low:
            break
        candidate = shortened(content, kept)
        try:
            taken = ask(candidate)
        except ServerError as error:
            if error.fault != "context":
                raise
            high, kept = kept, (low + kept) // 2
            continue
        low, fits = kept, candidate
        left = room - taken if room is not None and taken else None
        if (left is not None and left <= _NEAR_TOKENS) or high - low <= high * _NEAR_SHARE:
            break
        # As many characters a token as in what was taken, less what rounding may cost.
        more = int((left - 1) * kept / taken) if left is not None and taken else 0
        kept = kept + more if more else (low + high) // 2
    if fits is None:
        raise no_room(max_tokens, context)
    return fits


def _first_number(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return next((int(group) for group in match.groups() if group), None) if match else None
