"""Parsers, fusions and metrics that declarative tasks choose by name.

All are pure, and none raises on any text.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from agenttts.files.unicode import clean_value
from agenttts.tasks.declarative.choices import first_choice, is_choice
from agenttts.tasks.declarative.numbers import is_inside_more, last_number, numbers_in
from agenttts.tasks.loading.answers import (
    is_answer_in_another_form,
    texts_of_named_answer,
)
from agenttts.tasks.loading.values import json_from_text
from agenttts.tasks.metrics import (
    contains,
    normalise,
    plain_marks,
    rouge_l,
    set_overlap,
    token_overlap,
)
from agenttts.tasks.votes import most_frequent, plain_answer

_MARK_UP, _CLOSING = " \t*_`", " .,;!*_`)}"
_BEFORE_A_VALUE = (":", "=", ">", "\u2013", "\u2014", "\u2192", "\\boxed{", " is", " are")
"""What stands before a list that is a reply: "Needed: [1]", "x = [1]", "they are [1]"."""
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+")
_ONLY_A_BULLET = re.compile(r"(?:[-•]|\d{1,3}[.)])?")
_QUICK_CHARACTERS = 100
_MOST_SLOW_STARTS = 50
"""The most brackets whose JSON fails after more characters than the quick ones.

It limits the work on a reply that repeats open brackets to its end, and no reply with formulas.
"""
_TOLERANCE = 1e-6
"""The largest relative difference of equal numbers; the absolute one, where the right one is 0."""
SET_F1 = "set_f1"
_OF_TEXT = {"text", "first_line"}
_BLANK_OR_STOP = " \t\n."
_INDIAN = re.compile(r"\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?", re.ASCII)
"""A number alone with Indian grouping: 1,23,456."""
_IN_GROUPS = re.compile(r"(?=[+\d-]{9,20}$)\+?\d{1,4}(?:-\d{2,5}){2,4}", re.ASCII)
"""A telephone number or the like alone: three or more groups of digits with hyphens."""
_UNGROUPED = re.compile(r"\+?\d{7,16}", re.ASCII)
"""Such a number without hyphens."""
_OF_CHOICES = {"exact_match", "contains"}
LISTS = ("list", "lines")
"""The parsers whose outputs are lists."""
_STRUCTURED = ("json", *LISTS)
"""The parsers whose outputs are objects and lists."""
_ANY_TEXT = "be a text, a number, {value, aliases}, {text, answer_start} or a list of them"


def parse(how: str, text: str, choices: Sequence[str] = ()) -> Any:
    """Return a sample's text as a value.

    Unusable text gives the parser's empty value (``""``, None or an empty list). Halves of
    characters (lone surrogates) become question marks. The parsers are:

    - ``text``: the whole text, stripped.
    - ``first_line``: the first line that is not blank.
    - ``number``: the last number in the text.
    - ``choice``: the choice that the text names first.
    - ``list``: a JSON list, else the lines without bullets, else the parts between commas.
    - ``lines``: as ``list``; the commas of a single line are part of it.
    - ``json``: the first JSON object or list in the text.

    A list of numbers within a sentence ("[1] says so") counts only for ``json``, if it has no other
    JSON.
    """
    value = _PARSERS[how](text.strip(), choices)
    try:
        return clean_value(value)
    except RecursionError:  # parsed, but too deep to walk through
        return _PARSERS[how]("", choices)


def is_empty(value: Any) -> bool:
    """Return whether a value is an empty one."""
    return value is None or value in ("", [], {})


def fuse(how: str, candidates: Sequence[Any], empty: Any, parser: str) -> Any:
    """Fuse candidates; a single candidate is returned as it is.

    Empty candidates count only if all are empty. On a tie the first wins. ``parser`` is the parser
    that made the candidates. The fusions are:

    - ``vote``: the most frequent candidate. Texts that differ in case, white space, the marks
      around them or the end of a sentence count as the first of them; choices do not.
    - ``first``: the first one.
    - ``longest``: the one with the most characters.
    - ``median``: the median of numbers; of an even number of them, the lower middle one.
    - ``union``: the union of lists, in the order of first appearance.
    """
    if len(candidates) == 1:
        return candidates[0]
    given = [candidate for candidate in candidates if not is_empty(candidate)]
    if not given:
        return empty
    if how == "vote" and parser in _OF_TEXT:
        return most_frequent(given, plain_answer)
    return _FUSIONS[how](given)


def score(metric: str, output: Any, gold: Any, choices: Sequence[str] = ()) -> float:
    """Return a metric of an output; ``choices`` are those of its stage.

    For `exact_match` and `contains`, a right answer that is one of the choices is compared as one.
    """
    if not (choices and metric in _OF_CHOICES):
        return METRICS[metric](output, gold)
    scores = [0.0]
    for answer in _texts(gold):
        same = is_choice(_text(output), answer, choices)
        scores.append(METRICS[metric](output, answer) if same is None else float(same))
    return max(scores)


def gold_problem(metric: str, gold: Any, parser: str) -> str | None:
    """Return what is wrong with a record's right answer for a metric, or None.

    ``parser`` is the parser of the outputs that it is compared with.
    """
    if metric == "number":
        if _as_number(gold) is None:
            return "must be a number, for the metric 'number'"
        if isinstance(gold, str) and is_inside_more(gold):
            return (
                "must be one number, for the metric 'number', which would compare the "
                f"{_as_number(gold):g} at its end alone; write it as 0.5, 1/2 or 1,250.5"
            )
        return None
    if metric == SET_F1:
        if not isinstance(gold, list) or not gold:
            return "must be a list of one or more items, for the metric 'set_f1'"
        if any(texts_of_named_answer(item) is not None for item in gold):
            return (
                "must be a list of texts or numbers, for the metric 'set_f1': of objects with "
                "several texts it would compare the whole object"
            )
        return None
    if not _texts(gold):
        return f"must {_ANY_TEXT}, for the metric '{metric}'"
    values = gold if isinstance(gold, list) else [gold]
    if any(_is_answer_in_text(value) for value in values):
        return f"must {_ANY_TEXT}, for the metric '{metric}', and no JSON text of such an object"
    if parser not in _STRUCTURED and any(map(is_answer_in_another_form, values)):
        return (
            f"must {_ANY_TEXT}, for the metric '{metric}'; other objects with answers are "
            "compared as a whole, with the outputs of 'parse: json', 'list' and 'lines' alone"
        )
    return None


def _first_line(text: str, choices: Sequence[str]) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _list(text: str, choices: Sequence[str], *, at_commas: bool = True) -> list[Any]:
    value = next((value for value, in_sentence in _json_values(text) if not in_sentence), None)
    if isinstance(value, list):
        return value
    lines = [_BULLET.sub("", line).strip() for line in text.splitlines()]
    items = [line for line in lines if line]
    if at_commas and len(items) == 1:
        items = [item.strip() for item in items[0].split(",")]
    return [item for item in items if item]


def _json(text: str, choices: Sequence[str]) -> Any:
    """Return the first value; one within a sentence only if there is no other."""
    found = None
    for value, in_sentence in _json_values(text):
        if not in_sentence:
            return value
        found = value if found is None else found
    return found


def _json_values(text: str) -> Iterator[tuple[Any, bool]]:
    """Yield the JSON values of a text, and whether they are part of a sentence.

    A list of numbers may be: "[1] says so", "on [0, 1]".
    """
    decoder = json.JSONDecoder(parse_constant=lambda name: None)
    slow = 0
    for start in re.finditer(r"[\[{]", text):
        try:
            value, end = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError) as error:  # not here: perhaps at the next bracket
            place = error.pos if isinstance(error, json.JSONDecodeError) else len(text)
            slow += place - start.start() > _QUICK_CHARACTERS
            if slow == _MOST_SLOW_STARTS:
                return
            continue
        numbers = isinstance(value, list) and all(isinstance(x, int | float) for x in value)
        yield value, numbers and _is_in_sentence(text, start.start(), end, several=len(value) > 1)


def _is_in_sentence(text: str, start: int, end: int, *, several: bool) -> bool:
    """Return whether a list of numbers is part of a sentence, and no reply.

    ``several`` says whether it has more than one number.
    """
    before = text[text.rfind("\n", 0, start) + 1 : start].strip(_MARK_UP)
    ends_line = not text[end:].partition("\n")[0].strip(_CLOSING)
    if ends_line and _ONLY_A_BULLET.fullmatch(before):
        return False
    if before.endswith(_BEFORE_A_VALUE):
        return not (ends_line or several)
    return not (ends_line and several and "\n" not in text)  # "I choose [1, 3]."


def _vote(given: Sequence[Any]) -> Any:
    return most_frequent(given, _as_json)


def _union(given: Sequence[Any]) -> list[Any]:
    items: dict[str, Any] = {}
    for item in (item for values in given for item in values):
        items.setdefault(_as_json(item), item)
    return list(items.values())


def _as_json(value: Any) -> str:
    """Return a value as JSON with composed letters: é may be two characters (NFD)."""
    return unicodedata.normalize("NFC", json.dumps(value, sort_keys=True, ensure_ascii=False))


def _median(given: Sequence[Any]) -> Any:
    # A value of a sample instead of one between two, so that a single sample stays as it is.
    ordered = sorted(given)
    return ordered[(len(ordered) - 1) // 2]


def _exact_match(output: Any, gold: Any) -> float:
    text = _text(output)
    right = _texts(gold)
    equal = _key(text) in map(_key, right) or _digits(text) in set(map(_digits, right)) - {None}
    return float(bool(text.strip()) and equal)


def _key(text: str) -> Hashable:
    """Return what equal texts have in common: the number, or words and numbers.

    Without punctuation alone, as in SQuAD, 1/7 would be 17, and 1.5 million 15 million.
    """
    if _INDIAN.fullmatch(text.strip(_BLANK_OR_STOP)):
        text = text.replace(",", "")
    words, numbers = normalise(text), numbers_in(text)
    if len(numbers) == 1 and words.isdecimal():
        [number] = numbers
        if abs(number) < 1 or not words.startswith("0"):  # 007 is not 7
            return number
    return words, numbers


def _digits(text: str) -> str | None:
    """Return the digits of a number alone whose groups may have hyphens; else None.

    Dates are compared by `_key` as well, in which 2019-12-31 is 2019/12/31.
    """
    plain = plain_marks(text).strip(_BLANK_OR_STOP)
    whole = _IN_GROUPS.fullmatch(plain) or _UNGROUPED.fullmatch(plain)
    return plain.replace("-", "").removeprefix("+") if whole else None


def _contains(output: Any, gold: Any) -> float:
    text = _text(output)
    numbers = Counter(numbers_in(text))
    return float(any(contains(text, a) and Counter(numbers_in(a)) <= numbers for a in _texts(gold)))


def _token_f1(output: Any, gold: Any) -> float:
    return token_overlap(_text(output), _texts(gold)).f1


def _rouge_l(output: Any, gold: Any) -> float:
    return max((rouge_l(_text(output), text).f1 for text in _texts(gold)), default=0.0)


def _set_f1(output: Any, gold: Any) -> float:
    found = output if isinstance(output, list) else [] if is_empty(output) else [output]
    return set_overlap([_item(x) for x in found], [_item(x) for x in gold]).f1


def _number_match(output: Any, gold: Any) -> float:
    found, wanted = _as_number(output), _as_number(gold)
    if found is None or wanted is None:
        return 0.0
    near_zero = 0.0 if wanted else _TOLERANCE
    return float(math.isclose(found, wanted, rel_tol=_TOLERANCE, abs_tol=near_zero))


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = last_number(value)
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else None


def _text(value: Any) -> str:
    if is_empty(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # from a column of whole numbers with a null in it
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _texts(gold: Any) -> list[str]:
    """Return the right answers of a field as texts; any of them is right.

    The field holds one answer or a list of answers, of which each is a text, a number, or an object
    that `texts_of_named_answer` reads. Other objects and lists become JSON.
    """
    found: list[str] = []
    for value in gold if isinstance(gold, list) else [gold]:
        named = texts_of_named_answer(value)
        if named is not None:
            found += named
        elif not is_empty(value):
            found.append(_text(value))
    return found


def _is_answer_in_text(value: Any) -> bool:
    """Return whether a value is an object with answers, as JSON text of a table."""
    return isinstance(value, str) and texts_of_named_answer(json_from_text(value)) is not None


def _item(value: Any) -> Hashable:
    if isinstance(value, list | dict):
        return _as_json(value)
    return _key(_text(value))


_PARSERS: Mapping[str, Callable[[str, Sequence[str]], Any]] = {
    "text": lambda text, choices: text,
    "first_line": _first_line,
    "number": lambda text, choices: last_number(text),
    "choice": first_choice,
    "list": _list,
    "lines": lambda text, choices: _list(text, choices, at_commas=False),
    "json": _json,
}
_FUSIONS: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "vote": _vote,
    "first": lambda given: given[0],
    "longest": lambda given: max(given, key=lambda value: len(_text(value))),
    "median": _median,
    "union": _union,
}
_TEXT_FORM = "{{{{ {0} or 'unknown' }}}}"
_LIST_FORM = "{{{{ {0}[0] | default('') }}}}"
EMPTY_FORMS: Mapping[str, str] = {
    "text": _TEXT_FORM,
    "first_line": _TEXT_FORM,
    "number": "{{% if {0} is not none %}}{{{{ '%.2f' % {0} }}}}{{% endif %}}",
    "choice": _TEXT_FORM,
    "list": _LIST_FORM,
    "lines": _LIST_FORM,
    "json": "{{{{ ({0} or {{}}).KEY | default('') }}}} or {{% for item in {0} or [] %}}",
}
"""How a template takes a stage's empty output, by parser; ``{0}`` is the stage."""
METRICS: Mapping[str, Callable[[Any, Any], float]] = {
    "exact_match": _exact_match,
    "contains": _contains,
    "token_f1": _token_f1,
    "rouge_l": _rouge_l,
    SET_F1: _set_f1,
    "number": _number_match,
}
"""Functions from (output, right answer) to a score in [0, 1].

An empty output scores 0.
"""
