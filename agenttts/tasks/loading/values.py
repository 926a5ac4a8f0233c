"""Convert values of tables to JSON values, and JSON texts to their values."""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
import warnings
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from agenttts.files.unicode import clean_text, clean_value
from agenttts.tasks.loading.syntax import PARSING

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""An escaped surrogate; the values of a text without one need no cleaning."""
_NUMPY = re.compile(r"""['"\]\w.]\s+['"\[\w-]|\barray\(|\bnp\.""")
"""Parts of a literal that numpy writes differently from Python.

These are elements without commas and the names of numpy's types.
"""
_VALUE_TOKENS = (tokenize.STRING, tokenize.NUMBER, tokenize.NAME)
_LAYOUT_TOKENS = (
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


def parse_json(text: str) -> Any:
    """Return the JSON value of a text.

    NaN and Infinity, which are not JSON, become null.

    Raises:
        ValueError: The text is not JSON (``json.JSONDecodeError`` is a subclass).
        RecursionError: It is nested too deeply.
    """
    value = json.loads(text, parse_constant=lambda name: None)
    return clean_value(value) if _SURROGATE.search(text) else value


def json_from_text(text: str) -> Any:
    """Return the list or object of a JSON ``text``; any other text unchanged."""
    if not _looks_structured(text):
        return text
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return text


def value_of_cell(text: str) -> Any:
    """Return the value of a CSV cell.

    It is a list or an object, if the text is one in JSON or in Python (as pandas writes it), else
    the text. Arrays of numpy count as lists: ``['a' 'b']``, ``[np.str_('a')]``,
    ``{'text': array(['a', 'b'], dtype=object)}``. A CSV file has no types, so numbers stay texts
    and an empty cell is an empty text.
    """
    value = json_from_text(text)
    if value is not text or not _looks_structured(text):
        return value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in a text that is not a program
            literal = text.strip()
            if _NUMPY.search(literal):  # before parsing: Python joins 'a' 'b' to one text
                literal = " ".join(_python_tokens(literal))
            with PARSING:
                value = ast.literal_eval(literal)
            # Several lists in a row, such as references, "[3] [17]", are a text.
            return text if isinstance(value, tuple) else _plain_literal(value)
    # Deep nesting overflows the parser's own stack (MemoryError) or Python's.
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError):
        return text


def plain_value(value: Any) -> Any:
    """Return a value of a Parquet or Arrow table as a JSON value.

    Dates become ISO texts, and NaN becomes null.

    Raises:
        TypeError: The value has no such form (e.g. an image's bytes); the message names the type.
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
    if isinstance(value, date | time):  # datetime is a subclass of date
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, timedelta):
        return str(value)
    raise TypeError(type(value).__name__)


def _looks_structured(text: str) -> bool:
    stripped = text.strip()
    return stripped[:1] + stripped[-1:] in ("[]", "{}")


def _python_tokens(text: str) -> Iterator[str]:
    """Yield the tokens of a Python literal, changed so that Python can parse it.

    Commas are added between elements, and the names of numpy's types are left out.

    Raises:
        SyntaxError: The text is not a literal.
        tokenize.TokenError: The text is not a literal.
    """
    found = [
        token
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in _LAYOUT_TOKENS
    ]
    wrapped: list[bool] = []  # for each open parenthesis, whether it belongs to a type
    end_before: tuple[int, int] | None = None  # where the element before this token ends
    position = 0
    while position < len(found):
        token, rest = found[position], [t.string for t in found[position : position + 4]]
        apart = end_before is not None and end_before != token.start
        length = 0  # number of tokens of a type's name and parenthesis
        if rest[:2] == ["array", "("]:
            length = 2
        elif rest[:2] == ["np", "."] and rest[3:] == ["("]:
            length = 4
        signed = rest[0] in ("-", "+") and found[position + 1].start == token.end
        begins = token.type in _VALUE_TOKENS or rest[0] in ("[", "(", "{") or signed
        if apart and begins:
            yield ","
        if length:
            wrapped.append(True)
            end_before, position = None, position + length
        elif rest[:3] == [",", "dtype", "="] and wrapped[-1:] == [True]:
            while position < len(found) and found[position].string != ")":
                position += 1
        else:
            position += 1
            ends = token.type in _VALUE_TOKENS or rest[0] in ("]", ")", "}")
            end_before = token.end if ends else None
            if rest[0] == "(":
                wrapped.append(False)
            elif rest[0] == ")" and wrapped and wrapped.pop():
                continue
            yield rest[0]


def _plain_literal(value: Any) -> Any:
    """Return a Python literal as a JSON value.

    Raises:
        ValueError: It has no such form (a set, bytes, a complex number).
    """
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
