"""The choices of ``parse: choice``: found in replies, and compared with right answers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence


def first_choice(text: str, choices: Sequence[str]) -> str:
    """Return the choice that a text names first; ``""`` if it names none."""
    found = _first(text, choices, letters=re.NOFLAG)  # "a" is an article, "A" a choice
    return found or _first(text, choices, letters=re.I)


def is_choice(output: str, answer: str, choices: Sequence[str]) -> bool | None:
    """Return whether an output is the choice that a right answer is; None if it is none of them.

    Unlike in texts, every mark counts: A+ is not A.
    """
    wanted = _key(answer)
    return _key(output) == wanted if wanted in map(_key, choices) else None


def _first(text: str, choices: Sequence[str], letters: re.RegexFlag) -> str:
    """Return the first choice in a text; ``letters`` is for choices of one letter."""
    best = ""
    best_place = (math.inf, 0)
    for choice in map(str.strip, choices):
        words = r"\s+".join(map(re.escape, choice.split()))
        # An apostrophe inside a word is part of it: "I'd" does not name D.
        pattern = rf"(?<!\w)(?<!\w['\u2019]){words}(?!\w|['\u2019]\w)"
        match = re.search(pattern, text, letters if len(choice) == 1 else re.I)
        # If two begin at one place ("yes", "yes, but"), the longer one is meant.
        if match and (match.start(), -len(choice)) < best_place:
            best, best_place = choice, (match.start(), -len(choice))
    return best


def _key(choice: str) -> str:
    """Return what equal choices have in common."""
    return " ".join(choice.casefold().split())
