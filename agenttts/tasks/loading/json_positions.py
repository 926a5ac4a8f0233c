"""Find the lines of values in the text of a JSON document.

This scans the text, so it is used for errors only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from agenttts.files.unicode import clean_text

_DECODER = json.JSONDecoder()


def item_lines(text: str, keys: Sequence[str]) -> list[int]:
    """Return the line of each item of the list under ``keys``.

    ``text`` is the JSON document. There are no lines if the value under ``keys`` is not a list.
    """
    position = _value_position(text, keys)
    if text[position] != "[":
        return []
    found = []
    line, counted = 1, 0
    position = _skip_space(text, position + 1)
    while text[position] != "]":
        line += text.count("\n", counted, position)
        counted = position
        found.append(line)
        _, position = _DECODER.raw_decode(text, position)
        position = _skip_space(text, position)
        if text[position] == ",":
            position = _skip_space(text, position + 1)
    return found


def key_line(text: str, keys: Sequence[str]) -> int:
    """Return the line of the value under ``keys`` of the JSON document ``text``."""
    return text.count("\n", 0, _value_position(text, keys)) + 1


def _value_position(text: str, keys: Sequence[str]) -> int:
    position = _skip_space(text, 0)
    for key in keys:
        position = _member_position(text, position, key)
    return position


def _member_position(text: str, position: int, key: str) -> int:
    """Return the position of the value of ``key`` in the JSON object at ``position``.

    If a key is given twice, the last one counts.
    """
    found = position
    position = _skip_space(text, position + 1)
    while text[position] != "}":
        name, position = _DECODER.raw_decode(text, position)
        position = _skip_space(text, _skip_space(text, position) + 1)  # after the colon
        if clean_text(name) == key:
            found = position
        _, position = _DECODER.raw_decode(text, position)
        position = _skip_space(text, position)
        if text[position] == ",":
            position = _skip_space(text, position + 1)
    return found


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
