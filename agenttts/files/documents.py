"""Read JSON documents, which may be damaged or written by another version.

Every fault of a run's document is a `ValueError` with a message of one line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: The text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file that other software has written.

    Such a file is a model's configuration, for example. The result is empty if the file cannot be
    read or holds anything else.
    """
    return _object(file) or {}


def holds_object(file: Path) -> bool:
    """Return whether a file can be read and holds a JSON object."""
    return _object(file) is not None


def _object(file: Path) -> dict[str, Any] | None:
    try:
        if not file.is_file():  # a pipe may never end
            return None
        document = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def typed(kind: type[T], document: object) -> T:
    """Return a parsed document as a dataclass, with every value of its type.

    Fields that ``kind`` does not have are left out, because a later version may write more.

    Raises:
        ValueError: The document does not fit ``kind``.
    """
    try:
        validated: T = _adapter(kind).validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"'{where}': {first['msg']}" if where else first["msg"]) from None
    return validated


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter(kind: type) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
