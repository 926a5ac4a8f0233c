"""Numbered JSON documents in a folder: ``NN.json``, one for each start.

A file's number is in its name. Names have two digits only up to 99, so files are sorted by number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from agenttts.files.atomic import atomic_write_json
from agenttts.files.documents import parse_json, typed

T = TypeVar("T")

log = logging.getLogger(__name__)


def numbered_files(folder: Path) -> list[Path]:
    """Return the files of a folder by their numbers; none if there is no folder."""
    try:
        return sorted(folder.glob("[!.]*.json"), key=number_of)
    except FileNotFoundError:  # it was removed meanwhile (Python 3.11 looks first, then lists)
        return []


def number_of(path: Path) -> int:
    """Return the number in a file's name; 0 if the name is not a number."""
    return int(path.stem) if path.stem.isdecimal() else 0


def next_number(folder: Path) -> int:
    """Return the number after the last one in a folder."""
    return max(map(number_of, numbered_files(folder)), default=0) + 1


def read_numbered(kind: type[T], folder: Path, check: Callable[[T], None]) -> list[T]:
    """Return the documents of a folder as dataclasses, in order.

    Files that cannot be read are left out. Fields of a newer version are ignored.

    Args:
        kind: The dataclass.
        folder: The folder; it may be absent.
        check: Raises `ValueError` for a document whose values cannot be used.
    """
    found = []
    for path in numbered_files(folder):
        try:
            document = typed(kind, parse_json(path.read_bytes()))
            check(document)
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read and is left out (%s)", path, error)
            continue
        found.append(document)
    return found


def write_numbered(folder: Path, number: int, document: dict[str, Any]) -> None:
    """Write a document, or replace it.

    Raises:
        OSError: It cannot be written.
    """
    folder.mkdir(exist_ok=True)
    atomic_write_json(folder / f"{number:02}.json", document)


def check_moments(*moments: str | None) -> None:
    """Raise `ValueError` for a moment (ISO 8601) without a time zone.

    It could not be compared with others. None is allowed.
    """
    for moment in moments:
        if moment is not None and datetime.fromisoformat(moment).tzinfo is None:
            raise ValueError(f"'{moment}' has no time zone")
