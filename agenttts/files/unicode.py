"""Texts without lone surrogates.

A lone surrogate is half of a character. JSON can escape it, and no file or table can hold it.
"""

from __future__ import annotations

from typing import Any


def clean_text(text: str) -> str:
    """Return the text with a question mark for each lone surrogate."""
    return text.encode("utf-8", "replace").decode("utf-8")


def clean_value(value: Any) -> Any:
    """Return a JSON value with all of its texts cleaned, including keys of objects."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [clean_value(item) for item in value]
    if isinstance(value, dict):
        return {clean_value(key): clean_value(item) for key, item in value.items()}
    return value
