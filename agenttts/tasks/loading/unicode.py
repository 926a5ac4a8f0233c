"""Texts without lone surrogates: halves of a character that JSON can escape, and that no file
or table can hold.
"""

from __future__ import annotations

from typing import Any


def clean_text(text: str) -> str:
    """The text with a question mark for each lone surrogate."""
    return text.encode("utf-8", "replace").decode("utf-8")


def clean_value(value: Any) -> Any:
    """A JSON value with all of its texts cleaned, the keys of objects too."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [clean_value(item) for item in value]
    if isinstance(value, dict):
        return {clean_value(key): clean_value(item) for key, item in value.items()}
    return value
