"""Scores of short answers, texts and sets, all in [0, 1].

Answers are compared as in SQuAD's evaluation: lower-cased, without punctuation, articles and extra
white space. An empty answer scores 0, whatever the gold answers are.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class Overlap:
    """Precision, recall and their harmonic mean."""

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, hits: int, predicted: int, gold: int) -> Overlap:
        """Return the overlap of counts; without a hit, all three scores are 0."""
        if hits == 0:
            return cls(0.0, 0.0, 0.0)
        precision, recall = hits / predicted, hits / gold
        return cls(precision, recall, 2 * precision * recall / (precision + recall))


def normalise(text: str) -> str:
    """Return the form in which answers are compared.

    'The  U.S. Navy!' becomes 'us navy'.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, gold: Sequence[str]) -> float:
    """Return 1 if the normalised prediction equals a normalised gold answer, else 0."""
    return float(any(_words(prediction) == _words(answer) != [] for answer in gold))


def token_overlap(prediction: str, gold: Sequence[str]) -> Overlap:
    """Return the overlap of words with the gold answer of the best F1.

    Repeated words count. On a tie the first gold answer is taken.
    """
    best = Overlap(0.0, 0.0, 0.0)
    predicted = _words(prediction)
    for answer in gold:
        wanted = _words(answer)
        hits = (Counter(predicted) & Counter(wanted)).total()
        best = max(best, Overlap.of(hits, len(predicted), len(wanted)), key=lambda o: o.f1)
    return best


def rouge_l(prediction: str, reference: str) -> Overlap:
    """Return ROUGE-L: the longest common subsequence of words, relative to each text.

    Words are runs of letters and digits, lower-cased, without stemming. For ASCII texts this equals
    the ``rouge-score`` package, which drops other letters. Source: Lin, "ROUGE: A Package for
    Automatic Evaluation of Summaries" (2004).
    """
    predicted, wanted = _rouge_words(prediction), _rouge_words(reference)
    # One row of the table of common lengths at a time: row[j] is the length for the words so far
    # and wanted[:j].
    row = [0] * (len(wanted) + 1)
    for word in predicted:
        diagonal = 0
        for j, other in enumerate(wanted, 1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return Overlap.of(row[-1], len(predicted), len(wanted))


def set_overlap(predicted: Collection[Hashable], gold: Collection[Hashable]) -> Overlap:
    """Return the overlap of two sets of ids; order and repeats do not count."""
    found, wanted = set(predicted), set(gold)
    return Overlap.of(len(found & wanted), len(found), len(wanted))


def _rouge_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower()) or text.split()


def _words(text: str) -> list[str]:
    # An answer of only articles or punctuation (the band "The The") is compared as written.
    # Normalised, it would be empty and equal every other such answer.
    return normalise(text).split() or text.lower().split()
