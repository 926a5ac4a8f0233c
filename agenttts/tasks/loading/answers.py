"""Read the right answers of a record, in the forms of published QA data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agenttts.errors import UserError
from agenttts.tasks.loading.record import Record
from agenttts.tasks.metrics import normalise

PARSES = "Parses"
"""WebQSP's field of the queries that answer a question.

Each is an object with its ``Answers``.
"""

_TEXTS = ("answer", "value", "EntityName", "AnswerArgument")
"""Keys of the text in an answer that is an object; the first not null counts.

They are ComplexWebQuestions', TriviaQA's and WebQSP's.
"""
_ALIASES = ("aliases", "Aliases", "answer_aliases")
"""Keys of other names, in an answer that is an object or in the record."""
_TEXT, _EXTRACTED = "text", "answer_start"
"""Keys of SQuAD's ``{text, answer_start}``: lists of the right answers and of their places."""
ANSWER_ID = "answer_id"
_IDS = (ANSWER_ID, "AnswerArgument")
"""Keys of the answer's id, in an answer that is an object or in the record."""


@dataclass(frozen=True)
class Answer:
    """A right answer: its texts and its ids in a knowledge base.

    The texts are the answer and its other names; all of them are right.
    """

    texts: tuple[str, ...]
    ids: tuple[str, ...] = ()


def read_answers(
    record: Record,
    fields: Sequence[str],
    aliases: Mapping[str, Sequence[str]] | None = None,
) -> tuple[str, ...]:
    """Return the right answers of a record, with their aliases; any of them is right.

    The answers come from the first of ``fields`` that has any. A field holds an answer or a list of
    them: a text, a number, or an object, ``{answer, aliases}``, ``{value, aliases}``, WebQSP's
    ``{EntityName, AnswerArgument}`` or SQuAD's ``{text, answer_start}``. The field `PARSES` holds
    lists of these. Numbers become texts. Null answers, blank answers and repeats are dropped. A
    field that is null counts as absent.

    Aliases come from three places:

    - the objects above, also in another of ``fields`` for an answer of the same text
    - the record's own field ``aliases`` or ``answer_aliases``
    - ``aliases``, by the ids of the answers

    Args:
        record: The record.
        fields: The fields that may hold answers.
        aliases: Other names by id of the answer.

    Raises:
        UserError: A field holds anything else, or no answer is left.
    """
    there = [field for field in fields if record.is_given(field)]
    for position, field in enumerate(there):
        answers = _answers(record, field)
        if not any(answer.texts for answer in answers):
            continue
        known = {normalise(text) for answer in answers for text in answer.texts}
        for other in there[position + 1 :]:
            answers += [a for a in _readable(record, other) if known & set(map(normalise, a.texts))]
        texts = [text for answer in answers for text in answer.texts]
        texts += [text for key in _ALIASES for text in _names(record, key)]
        if aliases:
            own = {key: record.value(key, "must be the id of the answer") for key in _IDS}
            ids = [ident for answer in answers for ident in answer.ids] + _ids(own)
            texts += [name for ident in ids for name in aliases.get(ident, ())]
        return tuple(dict.fromkeys(texts))
    given = [field for field in fields if field in record.values]
    raise record.error((*there, *given, *fields)[0], _VALID)


def answer_ids(record: Record, fields: Sequence[str]) -> list[str]:
    """Return the knowledge-base ids that a record gives for its answers.

    The ids are in ``fields`` or in fields of their own.
    """
    found = [ident for field in fields for a in _readable(record, field) for ident in a.ids]
    return [*found, *_ids(record.values)]


def answer_of(value: Any) -> Answer | None:
    """Return a JSON value as an answer; None if it is not a valid answer.

    A null or blank value gives an answer without texts.
    """
    if value is None:
        return Answer(())
    if is_text_or_number(value):
        return Answer(_distinct([value]))
    if not isinstance(value, dict):
        return None
    if _EXTRACTED in value:
        text = value.get(_TEXT)
        items = text if isinstance(text, list) else [text]
        return Answer(_distinct(items)) if all(map(_is_text_number_or_null, items)) else None
    given = [value[key] for key in _TEXTS if value.get(key) is not None]
    names = [value[key] for key in _ALIASES if value.get(key) is not None]
    if not any(key in value for key in _TEXTS) or not all(map(is_text_or_number, given)):
        return None
    if not all(isinstance(n, list) and all(map(_is_text_number_or_null, n)) for n in names):
        return None
    return Answer(_distinct([*given[:1], *(item for n in names for item in n)]), tuple(_ids(value)))


def texts_of_named_answer(value: Any) -> tuple[str, ...] | None:
    """Return the texts of an answer that is an object with other names or places.

    It has a key ``aliases`` or ``answer_start``. Any other value gives None.
    """
    if not isinstance(value, dict) or not any(key in value for key in (*_ALIASES, _EXTRACTED)):
        return None
    answer = answer_of(value)
    return answer.texts if answer else None


def is_answer_in_another_form(value: Any) -> bool:
    """Return whether an object seems to hold an answer, in a form that is not read.

    It has a key such as ``answer`` or ``text``; `texts_of_named_answer` does not read it.
    """
    if not isinstance(value, dict) or texts_of_named_answer(value) is not None:
        return False
    return any(key in value for key in (*_TEXTS, _TEXT, _EXTRACTED))


def is_text_or_number(value: Any) -> bool:
    """Return whether a JSON value is a text or a number; true and false are neither."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


_VALID = (
    "must be a list of one or more texts or numbers that are not blank, or one of them, or "
    "such objects as "
    "{answer, aliases}, {value, aliases}, {EntityName, AnswerArgument} or {text, answer_start}"
)
_VALID_PARSES = (
    "must be a list of objects, each with a list 'Answers' of {EntityName, AnswerArgument}"
)


def _answers(record: Record, field: str) -> list[Answer]:
    if field == PARSES:
        return _answers_of_parses(record)
    given = record.value(field, _VALID)
    for value in (record.structure(field), given):
        found = [answer_of(item) for item in (value if isinstance(value, list) else [value])]
        if None not in found:
            return [answer for answer in found if answer is not None]
    raise record.error(field, _VALID)


def _answers_of_parses(record: Record) -> list[Answer]:
    parses = record.structure(PARSES)
    if not isinstance(parses, list) or not all(isinstance(parse, dict) for parse in parses):
        raise record.error(PARSES, _VALID_PARSES)
    lists = [parse.get("Answers") or [] for parse in parses]
    if not all(isinstance(items, list) for items in lists):
        raise record.error(PARSES, _VALID_PARSES)
    found = [answer_of(item) for items in lists for item in items]
    if None in found:
        raise record.error(PARSES, _VALID_PARSES)
    return [answer for answer in found if answer is not None]


def _readable(record: Record, field: str) -> list[Answer]:
    """Return the answers of a field, or no answers if it is null or malformed.

    The field is read only for aliases and ids, so it makes no record bad.
    """
    if record.values.get(field) is None:
        return []
    try:
        return _answers(record, field)
    except UserError:
        return []


def _names(record: Record, key: str) -> tuple[str, ...]:
    if record.value(key, "must be a list of texts, the other names of the answer") is None:
        return ()
    value = record.structure(key)
    items = value if isinstance(value, list) else [value]
    if not all(map(_is_text_number_or_null, items)):
        raise record.error(key, "must be a list of texts, the other names of the answer")
    return _distinct(items)


def _ids(values: Mapping[str, Any]) -> list[str]:
    given = [values[key] for key in _IDS if values.get(key) is not None]
    items = [item for value in given for item in (value if isinstance(value, list) else [value])]
    return [_text(item).strip() for item in items if is_text_or_number(item)]


def _is_text_number_or_null(value: Any) -> bool:
    return value is None or is_text_or_number(value)


def _distinct(values: Iterable[Any]) -> tuple[str, ...]:
    """Return texts and numbers as texts, without blank ones, nulls and repeats."""
    texts = (_text(value).strip() for value in values if value is not None)
    return tuple(dict.fromkeys(text for text in texts if text))


def _text(value: Any) -> str:
    """Return a text or a number as a text.

    A whole number has no decimal point in the result. A column of whole numbers with a null in it
    is read as floats (1999.0).
    """
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
