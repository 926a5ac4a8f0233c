"""Scores of short answers, texts and sets, all in [0, 1].

Answers are compared as in SQuAD's evaluation: lower-cased, without punctuation, articles and extra
white space. An empty answer scores 0, whatever the gold answers are. Other texts than ASCII are
compared alike, as in MLQA's evaluation: all of Unicode's punctuation is removed, and each character
of a script without spaces is a word where words are counted.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass


class _Punctuation(dict[int, str]):
    """A table for `str.translate` that removes punctuation, ASCII's and Unicode's."""

    def __missing__(self, code: int) -> str:
        self[code] = "" if unicodedata.category(chr(code)).startswith("P") else chr(code)
        return self[code]


_PUNCTUATION = _Punctuation.fromkeys(map(ord, string.punctuation), "")
# Thai and Lao, Burmese, Khmer, kana, Chinese characters
WITHOUT_SPACES = (
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""A pattern of the characters of scripts that are written without spaces."""
SENTENCE_ENDS = ".!?\u3002\uff01\uff1f"
"""What ends a sentence; replies leave it out of a choice that is one."""
_TYPOGRAPHY = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u00b4\uff07", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\uff02", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-"),
        **dict.fromkeys("\u2014\u2015", " - "),
        # Soft hyphen, zero-width space, marks of direction, word joiner, byte order mark
        **dict.fromkeys("\u00ad\u200b\u200e\u200f\u2060\ufeff", ""),
    }
)
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


def plain_marks(text: str) -> str:
    """Return a text with ASCII quotes and hyphens, and with composed letters.

    Models write "20-year" with a hyphen that does not break, and "don't" with a closing quote. A
    letter and its accent may be two characters, as in names of files on macOS.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text).translate(_TYPOGRAPHY)


def spaced(text: str) -> str:
    """Return a text with single spaces, also around characters of such scripts."""
    return " ".join(re.sub(WITHOUT_SPACES, r" \g<0> ", text).split())


def normalise(text: str) -> str:
    """Return the form in which answers are compared.

    'The  U.S. Navy!' becomes 'us navy'. An answer of articles alone keeps them (option '(A)', the
    band 'The The'), and one of punctuation alone is compared as written ('+'): empty, it would
    equal every other such answer.
    """
    text = plain_marks(text)
    for words in (_without_articles(text), text.lower().translate(_PUNCTUATION), text.lower()):
        if found := " ".join(words.split()):
            return found
    return ""


def contains(text: str, answer: str) -> bool:
    """Return whether a text has the words of an answer, in their order and normalised.

    Each character of a script without spaces (Chinese, Japanese, Thai, ...) is a word. An answer of
    articles or punctuation alone is looked for as written, one of one letter in its own case: "a"
    is in most texts.
    """
    text, answer = plain_marks(text), plain_marks(answer)
    if words := spaced(_without_articles(answer)):
        return f" {words} " in f" {spaced(_without_articles(text))} "
    answer = answer.translate(_PUNCTUATION).strip() or answer.strip()
    left, right = ("(?<!\\w)", "(?!\\w)") if answer[:1].isalpha() else ("", "")
    letters = re.NOFLAG if len(answer) == 1 else re.I
    return bool(answer and re.search(left + re.escape(answer) + right, text, letters))


def exact_match(prediction: str, gold: Sequence[str]) -> float:
    """Return 1 if the normalised prediction equals a normalised gold answer, else 0."""
    return float(any(normalise(prediction) == normalise(answer) != "" for answer in gold))


def token_overlap(prediction: str, gold: Sequence[str], whole: Collection[str] = ()) -> Overlap:
    """Return the overlap of words with the gold answer of the best F1.

    Repeated words count. On a tie the first gold answer is taken.

    Args:
        prediction: The answer to score.
        gold: The right answers.
        whole: Normalised answers that overlap with nothing but themselves. HotpotQA's and
            2WikiMultiHopQA's evaluation has "yes", "no" and "noanswer".
    """
    best = Overlap(0.0, 0.0, 0.0)
    normal = normalise(prediction)
    predicted = spaced(normal).split()
    for answer in gold:
        right = normalise(answer)
        if right != normal and (right in whole or normal in whole):
            continue
        wanted = spaced(right).split()
        hits = (Counter(predicted) & Counter(wanted)).total()
        best = max(best, Overlap.of(hits, len(predicted), len(wanted)), key=lambda o: o.f1)
    return best


def rouge_l(prediction: str, reference: str) -> Overlap:
    """Return ROUGE-L: the longest common subsequence of words, relative to each text.

    Words are runs of letters and digits, lower-cased, without stemming, and single characters of
    scripts without spaces. For ASCII texts this equals the ``rouge-score`` package, which drops
    other letters. Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004).
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
    text = spaced(plain_marks(text))
    return re.findall(r"[^\W_]+", text.lower()) or text.split()


def _without_articles(text: str) -> str:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION))
