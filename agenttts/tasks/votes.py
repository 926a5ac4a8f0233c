"""The majority vote of samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T")


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
