"""The choices of a stage: found in replies, and compared with right answers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agenttts.tasks.metrics import SENTENCE_ENDS, WITHOUT_SPACES, plain_marks

_SEPARATOR = re.compile(r"\s+[-_]\s+|(?<=\w)[-_](?=\w)|\s+")
"""What stands between the words of a choice."""
_SEPARATORS = r"(?:\s+[-_]\s+|[-_]|\s+)"
"""What may stand there in a text: replies say "not entailment" for `not_entailment`."""


def first_choice(text: str, choices: Sequence[str]) -> str:
    """Return the choice that a text names first; ``""`` if it names none."""
    text = plain_marks(text)
    found = _first(text, choices, letters=re.NOFLAG)  # "a" is an article, "A" a choice
    return found or _first(text, choices, letters=re.I)


def is_choice(output: str, answer: str, choices: Sequence[str]) -> bool | None:
    """Return whether an output is the right choice; None if the answer is no choice.

    Unlike in texts, every mark counts, except between words: A+ is not A.
    """
    wanted = _key(answer)
    return _key(output) == wanted if wanted in map(_key, choices) else None


def _first(text: str, choices: Sequence[str], letters: re.RegexFlag) -> str:
    """Return the first choice in a text; ``letters`` is for choices of one letter."""
    found = []
    for choice in map(str.strip, choices):
        written = plain_marks(choice).strip()
        words = written.rstrip(SENTENCE_ENDS) or written
        match = words and re.search(
            _pattern(written, words), text, letters if len(words) == 1 else re.I
        )
        if match:
            # If two begin at one place ("yes", "yes, but"), the longer one is meant; if both are
            # as long ("yes", "yes!"), the one that is written like this.
            other = match[0].casefold() != written.casefold()
            found.append((match.start(), -len(match[0]), other, choice))
    return min(found, key=lambda place: place[:-1])[-1] if found else ""


def _pattern(choice: str, words: str) -> str:
    """Return the pattern of a choice; ``words`` is it without the end of a sentence."""
    inner = _SEPARATORS.join(map(re.escape, _SEPARATOR.split(words)))
    # An apostrophe inside a word is part of it: "I'd" does not name D.
    left, right = rf"(?:(?<!\w)(?<!\w')|(?<={WITHOUT_SPACES}))", rf"(?!(?!{WITHOUT_SPACES})\w|'\w)"
    # In scripts without spaces a choice may stand anywhere; one character is mostly a part of
    # another word.
    if re.match(WITHOUT_SPACES, words):
        left = "" if len(words) > 1 else r"(?<!\w)"
    if re.match(WITHOUT_SPACES, words[-1]):
        right = "" if len(words) > 1 else r"(?!\w)"
    return rf"{left}{inner}(?:{re.escape(choice[len(words) :])})?{right}"


def _key(choice: str) -> str:
    """Return what equal choices have in common."""
    return " ".join(_SEPARATOR.split(plain_marks(choice).casefold().strip()))
