"""How replies are parsed, fused and scored, by the right answers of the data."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agenttts.errors import UserError
from agenttts.init.fields import Data
from agenttts.init.options import Options, all_options, options_of
from agenttts.tasks.loading.answers import is_text_or_number, texts_of_named_answer
from agenttts.tasks.loading.values import json_from_text
from agenttts.tasks.metrics import WITHOUT_SPACES, spaced

_NUMBER = re.compile(r"[-+]?\$?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?%?", re.ASCII)
_WORKED_OUT = re.compile(r"####\s*[-+$]?\d")
"""The end of a worked-out answer in GSM8K: its number, after four hash signs."""
_CODE = re.compile(r"[A-Za-z]|\d{1,3}", re.ASCII)
"""An answer that names an option, rather than being one."""
LETTERS = string.ascii_uppercase
"""What options are called in prompts."""
_MOST_CHOICES = 12
_MOST_WRONG = 0.05
"""The largest share of answers that are none of their options, where the others are."""
_SHORT_WORDS = 8
"""The most words of nine in ten short answers."""
_ANY_OF_THEM = {"answers", "gold", "golden_answers", "gold_answer", "aliases", "reference"}
"""Fields whose lists hold several right answers, of which any one is right."""
_CHARACTERS_A_TOKEN = 4
"""Characters of a token of English text, on average."""
_ONE_A_TOKEN = re.compile(f"{WITHOUT_SPACES}|[\uac00-\ud7a3]")
"""A character that is about one token: of a script without spaces, or a Korean syllable."""


@dataclass(frozen=True)
class AnswerForm:
    """What is done with the replies of the last stage.

    Attributes:
        why: What the data hold, for a comment.
        instruction: What the model is told of the form of its reply.
        parse: The parser of a sample.
        metric: The main metric.
        fuse: ``vote``, ``union`` or ``model``.
        decode_tokens: Tokens of one sample.
        more_metrics: Metrics that are reported too.
        choices: The choices, or the field that lists them.
        lettered: Whether the options are shown with letters.
        numbered_from: The number that the first option is shown with; None: without numbers.
    """

    why: str
    instruction: str
    parse: str
    metric: str
    fuse: str
    decode_tokens: int
    more_metrics: tuple[str, ...] = ()
    choices: tuple[str, ...] | str = ()
    lettered: bool = False
    numbered_from: int | None = None


def answer_form(data: Data) -> AnswerForm:
    """Return the form of the answers of a data file."""
    values = [row[data.fields.answer] for row in data.values]
    field = data.fields.options
    listed = None if field is None else all_options([row[field] for row in data.values])
    if field is None or listed is None:
        return _of_answers(data, values)
    form = _of_options(data, field, values, listed)
    if form is not None:
        return form
    form = _of_answers(data, values)
    pairs = zip(map(_plain, values), listed, strict=True)
    if 2 * sum(bool(_CODE.fullmatch(v)) and v not in o.texts for v, o in pairs) > len(values):
        why = f"{form.why}; the prompt does not say which of the {field} they mean"
        return replace(form, why=why)
    return form


def _of_answers(data: Data, values: Sequence[Any]) -> AnswerForm:
    """Return the form of answers that are not chosen from options."""
    if all(isinstance(value, bool) for value in values):
        return _choice("every answer is true or false", ("true", "false"))
    if all(_is_number(value) for value in values):
        return _number("every answer is a number")
    if all(isinstance(value, str) and _WORKED_OUT.search(value) for value in values):
        return _number("every answer ends with #### and a number, which is what counts")
    read = [json_from_text(value) if isinstance(value, str) else value for value in values]
    if any(isinstance(value, list) for value in values) or all(isinstance(v, list) for v in read):
        return _of_lists(data, values, read)
    total = len(data.answers)
    kinds = set(map(_text, data.answers))
    few = 2 <= len(kinds) <= min(_MOST_CHOICES, total // 3)
    if few and all(_short(text) for text in kinds):
        return _choice(
            f"the {total} answers have {len(kinds)} different values", tuple(sorted(kinds))
        )
    return _of_texts([_text(value) for value in values])


def _of_options(
    data: Data, field: str, values: Sequence[Any], listed: Sequence[Options]
) -> AnswerForm | None:
    """Return the form of answers that are chosen from the options of each record."""
    alike = [o for o in map(options_of, data.options) if o and o.form == listed[0].form]
    if listed[0].labels:
        labels = tuple(sorted({label for o in alike for label in o.labels}))
        return _of_labels(field, values, listed, labels)
    options = [[text.strip() for text in o.texts] for o in listed]
    pairs = list(zip(map(_plain, values), options, strict=True))
    if every := _nearly_every(v in o for v, o in pairs):
        return AnswerForm(
            f"{every} is one of the record's {field}",
            "Reply with one of the options, and nothing else.",
            "choice",
            "exact_match",
            "vote",
            _tokens([str(v) for v in values]) + 8,
            choices=field,
        )
    most = max(len(o.texts) for o in alike)
    letters = [v.upper() in list(LETTERS[: len(o)]) for v, o in pairs]
    if most <= len(LETTERS) and (every := _nearly_every(letters)):
        return AnswerForm(
            f"{every} is the letter of one of the record's {field}",
            "Reply with the letter of the right option, and nothing else.",
            "choice",
            "exact_match",
            "vote",
            8,
            choices=tuple(LETTERS[:most]),
            lettered=True,
        )
    counted = [(int(v) if _CODE.fullmatch(v) and v.isdecimal() else -1, len(o)) for v, o in pairs]
    from_0, from_1 = ([start <= n < start + size for n, size in counted] for start in (0, 1))
    first = 1 if sum(from_1) > sum(from_0) else 0
    if every := _nearly_every(from_1 if first else from_0):
        return AnswerForm(
            f"{every} is the number of one of the record's {field}, from {first}",
            "Reply with the number of the right option, and nothing else.",
            "number",
            "number",
            "vote",
            8,
            numbered_from=first,
        )
    return None


def _of_labels(
    field: str, values: Sequence[Any], listed: Sequence[Options], labels: tuple[str, ...]
) -> AnswerForm | None:
    """Return the form of answers that are labels of their record's options."""
    known = [{label.strip().upper() for label in o.labels} for o in listed]
    pairs = zip(map(_plain, values), known, strict=True)
    every = _nearly_every(v.upper() in labels for v, labels in pairs)
    if not every:
        return None
    return AnswerForm(
        f"{every} is the label of one of the record's {field}",
        "Reply with the label of the right option, and nothing else.",
        "choice",
        "exact_match",
        "vote",
        _tokens(labels) + 8,
        choices=labels,
    )


def _plain(value: Any) -> str:
    """Return a text or a number as a stripped text, any other value as ``""``."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # from a column of whole numbers with a null in it
    return str(value).strip() if is_text_or_number(value) else ""


def _nearly_every(fits: Iterable[bool]) -> str:
    """Return "every answer" with the exceptions; ``""`` if there are too many."""
    found = list(fits)
    wrong = found.count(False)
    if wrong > _MOST_WRONG * len(found):
        return ""
    return f"every answer but {wrong} of {len(found)}" if wrong else "every answer"


def _of_lists(data: Data, values: Sequence[Any], read: Sequence[Any]) -> AnswerForm:
    """Return the form of lists; ``read`` are the values with JSON texts as lists.

    Raises:
        UserError: Any item would be right, but the lists are texts.
    """
    in_texts = not any(isinstance(value, list) for value in values)
    lists = [v if isinstance(v, list) else [v] for v in (read if in_texts else values)]
    items = [item for items in lists for item in items]
    named = any(map(texts_of_named_answer, items))  # set_f1 compares no aliases
    objects = not named and any(isinstance(item, dict) for item in items)
    one = not in_texts and all(len(items) == 1 for items in lists)
    field = data.fields.answer
    if objects or not (field.lower() in _ANY_OF_THEM or one or named):
        return _of_items(
            lists, "a JSON list of all objects" if objects else "all items, one a line"
        )
    if in_texts:
        raise UserError(
            f"{data.path}: the field '{field}' holds lists as JSON texts, and a metric would "
            "compare replies with such a text; write the answers as lists, or name another field "
            "with --answer FIELD"
        )
    form = _of_texts([_text(item) for item in items])
    why = f"{form.why}; of several in a list, any one is right (else set_f1 fits better)"
    return replace(form, why=why)


def _of_items(lists: Sequence[Sequence[Any]], wanted: str) -> AnswerForm:
    longest = max(_tokens([", ".join(map(str, items))]) for items in lists)
    # `list` splits a single line at commas: such an item would never be right.
    commas = any("," in item for items in lists for item in items if isinstance(item, str))
    return AnswerForm(
        "the answers are lists, of which all items are wanted",
        f"Reply with {wanted}, and nothing else.",
        "lines" if commas else "list",
        "set_f1",
        "union",
        next_multiple(2 * longest + 16, 16),
    )


def _of_texts(texts: Sequence[str]) -> AnswerForm:
    short = sum(map(_short, texts)) >= 0.9 * len(texts)
    if short:
        return AnswerForm(
            f"nine in ten answers have at most {_SHORT_WORDS} words",
            "Reply with the answer alone, in as few words as possible.",
            "first_line",
            "exact_match",
            "vote",
            next_multiple(_tokens(texts) + 16, 16),
            more_metrics=("token_f1",),
        )
    return AnswerForm(
        f"the answers are texts of more than {_SHORT_WORDS} words",
        "Reply with the answer alone.",
        "text",
        "rouge_l",
        "model",
        next_multiple(int(1.5 * _tokens(texts)) + 16, 32),
        more_metrics=("token_f1",),
    )


def _number(why: str) -> AnswerForm:
    return AnswerForm(
        why,
        "Work step by step, and end with the answer as a number.",
        "number",
        "number",
        "vote",
        256,
    )


def _choice(why: str, choices: tuple[str, ...]) -> AnswerForm:
    return AnswerForm(
        why,
        f"Reply with one of: {', '.join(choices)}.",
        "choice",
        "exact_match",
        "vote",
        next_multiple(_tokens(choices) + 8, 8),
        choices=choices,
    )


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float) or (
        isinstance(value, str) and _NUMBER.fullmatch(value.strip()) is not None
    )


def _text(value: Any) -> str:
    """Return an answer as a text; of an object with aliases, its first name."""
    named = texts_of_named_answer(value)
    return named[0] if named else str(value)


def _short(text: str) -> bool:
    # Two characters of a script without spaces are a word, roughly.
    words = len(spaced(text).split()) - len(re.findall(WITHOUT_SPACES, text)) / 2
    return words <= _SHORT_WORDS


def _tokens(texts: Sequence[str]) -> int:
    return 1 + tokens_of_nine_in_ten(texts)


def tokens_of_nine_in_ten(texts: Iterable[str]) -> int:
    """Return the number of tokens that nine in ten texts do not exceed, roughly."""
    ordered = sorted(map(_tokens_of, texts))
    return ordered[int(0.9 * (len(ordered) - 1))]


def _tokens_of(text: str) -> int:
    single = len(_ONE_A_TOKEN.findall(text))
    return single + (len(text) - single) // _CHARACTERS_A_TOKEN


def next_multiple(value: int, step: int) -> int:
    """Return the least multiple of a step that is not below a value."""
    return -(-value // step) * step
