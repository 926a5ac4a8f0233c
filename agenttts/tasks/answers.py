"""Reading the right answers of a record, in the forms that the published question answering files have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agenttts.tasks.records import Record


def read_answers(record: Record, fields: Sequence[str]) -> tuple[str, ...]:
    """The right answers, from the first of ``fields`` that has any: a text, a number, or a list of them.

    Any of them is right. Numbers are taken as texts; null and blank answers and repeats are dropped, and a field that
    is null counts as absent. Raises `UserError` for anything else in a field, and when no answer is left.
    """
    there = [field for field in fields if record.values.get(field) is not None]
    for field in there:
        value = record.values[field]
        items = value if isinstance(value, list) else [value]
        if not all(item is None or is_text_or_number(item) for item in items):
            raise record.error(field, _VALID)
        texts = (str(item).strip() for item in items if item is not None)
        if found := tuple(dict.fromkeys(text for text in texts if text)):
            return found
    given = [field for field in fields if field in record.values]
    raise record.error((*there, *given, *fields)[0], _VALID)


def is_text_or_number(value: Any) -> bool:
    """Whether a JSON value is a text or a number (true and false are none)."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


_VALID = "must be a list of one or more texts or numbers that are not blank, or one of them"
