"""Values of tables as JSON values, and JSON texts as what they hold."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from agenttts.tasks.surrogates import clean_text, clean_value

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""An escaped surrogate. A text without one needs no walk through its values."""


def parse_json(text: str) -> Any:
    """The JSON value of a text. NaN and Infinity, which are not JSON, become null.

    Raises ValueError (of which ``json.JSONDecodeError`` is one) or RecursionError.
    """
    value = json.loads(text, parse_constant=lambda name: None)
    return clean_value(value) if _SURROGATE.search(text) else value


def json_from_text(text: str) -> Any:
    """The list or object that ``text`` is the JSON of; any other text unchanged."""
    if not _looks_structured(text):
        return text
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return text


def value_of_cell(text: str) -> Any:
    """The value of a CSV cell: the list or object that it is in JSON or in Python (as pandas writes it), else its text.

    A CSV file has no types: numbers stay texts, and an empty cell is an empty text.
    """
    value = json_from_text(text)
    if value is not text or not _looks_structured(text):
        return value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in a text that is no program
            return _plain_literal(ast.literal_eval(text.strip()))
    # Deep nesting overflows the parser's own stack (MemoryError) or Python's.
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def plain_value(value: Any) -> Any:
    """A value of a Parquet or Arrow table as a JSON value: dates in ISO format, NaN as null.

    Raises TypeError naming the type of one that has no such form (an image's bytes, say).
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {clean_text(str(key)): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, date | time):  # datetime is a date
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, timedelta):
        return str(value)
    raise TypeError(type(value).__name__)


def _looks_structured(text: str) -> bool:
    stripped = text.strip()
    return stripped[:1] + stripped[-1:] in ("[]", "{}")


def _plain_literal(value: Any) -> Any:
    """A Python literal as a JSON value; ValueError for one that has no such form (a set, bytes, a complex number)."""
    if isinstance(value, list | tuple):
        return [_plain_literal(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("keys that are not texts")
        return {clean_text(key): _plain_literal(item) for key, item in value.items()}
    if isinstance(value, str):
        return clean_text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    raise ValueError(type(value).__name__)
