"""The majority vote of samples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from agenttts.tasks.metrics import SENTENCE_ENDS, plain_marks

T = TypeVar("T")

_MARKED = re.compile(r"([\"'*_`]{1,4})(.+)\1")
_FULL_STOPS = ".\u3002"


def most_frequent(candidates: Iterable[T], key: Callable[[T], Hashable] | None = None) -> T | None:
    """Return the most frequent candidate; on a tie, the first of them.

    Args:
        candidates: The values of the samples, in their order.
        key: Gives equal results for values that count as equal; None: the value itself.

    Returns:
        The first candidate of those that count as equal; None if there is no candidate.
    """
    firsts: dict[Hashable, T] = {}
    votes = Counter[Hashable]()
    for candidate in candidates:
        vote = candidate if key is None else key(candidate)
        firsts.setdefault(vote, candidate)
        votes[vote] += 1
    # Counter keeps the order of first occurrence, and `most_common` keeps it on a tie.
    return firsts[votes.most_common(1)[0][0]] if votes else None


def plain_answer(text: str) -> str:
    """Return what short answers that vote as one have in common.

    Their case, white space, the marks around them and the end of a sentence do not count. That is
    less than for metrics: C and C++ are two.
    """
    words = _without_end(" ".join(plain_marks(text).casefold().split()))
    marked = _MARKED.fullmatch(words)
    return _without_end(marked[2]) if marked else words


def _without_end(text: str) -> str:
    bare = text.rstrip(SENTENCE_ENDS)
    if bare and not bare[-1].isdigit():
        return bare
    return text.rstrip(_FULL_STOPS) or text  # 5! is a factorial
