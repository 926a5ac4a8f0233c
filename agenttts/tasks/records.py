"""Records of a data file, each of which knows where it stands, so that an error can say so.

Reads ``.json`` (a list of objects) and ``.jsonl`` (an object a line), also compressed (``.gz``). A ``.json`` file that
begins with an object on a line of its own is read as lines too: TaskBench's ``data.json`` is published so. Halves of
characters (lone surrogates), which JSON can escape, become question marks.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttts.errors import Unavailable, UserError, nearest_name, valid_names
from agenttts.tasks.surrogates import clean_value

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")

_LISTED_AT_MOST = 20
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""An escaped surrogate: what may be left alone, and worth a walk through the record."""


@dataclass(frozen=True)
class Record:
    """One record of a data set. ``place`` says where it is, and is asked only when something is wrong with it."""

    values: Mapping[str, Any]
    place: Callable[[], str]

    def error(self, field: str, problem: str) -> UserError:
        """The error about a field, to be raised: place, field, what it should be, what it is."""
        if field not in self.values:
            near = nearest_name(field, self.values)
            hint = f"; is '{near}' meant to be it?" if near else ""
            return UserError(f"{self.place()}: field '{field}' is missing, and {problem}{hint}")
        return UserError(
            f"{self.place()}: field '{field}' {problem}, not {_shown(self.values[field])}"
        )

    def text(self, field: str) -> str:
        """A field that must be a string with something in it."""
        value = self.values.get(field)
        if not isinstance(value, str) or not value.strip():
            raise self.error(field, "must be a text that is not empty")
        return value

    def texts(self, field: str, *, blank: bool = False, none: bool = False) -> list[str]:
        """A field that must be a list of strings: of at least one unless ``none`` is valid, and none of them empty
        unless ``blank`` ones are."""
        value = self.values.get(field)
        valid = (lambda item: isinstance(item, str)) if blank else _is_text
        if (
            not isinstance(value, list)
            or not (value or none)
            or not all(valid(item) for item in value)
        ):
            raise self.error(field, f"must be a list of {'' if none else 'one or more '}texts")
        return value


def read_records(path: Path) -> list[Record]:
    """The records of a data file, in its order.

    Raises `UserError` for a missing file (naming those that are there) or a malformed one (naming the line).
    """
    if path.is_dir():
        raise UserError(
            f"{path} is a directory; valid: a file ({', '.join(SUFFIXES)}), or hf:{path} if it is a Hugging Face data set"
        )
    if not path.exists():
        raise Unavailable(
            f"data file {path} does not exist", fix=f"name one that does ({_neighbours(path)})"
        )
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: unknown kind of data file; valid: {', '.join(SUFFIXES)}")
    text = read_text(path)
    lines = path.name.removesuffix(".gz").endswith(".jsonl") or _begins_with_object(text)
    records = _from_lines(path, text) if lines else _from_list(path, text)
    if not records:
        raise UserError(f"{path} holds no records")
    return records


def _begins_with_object(text: str) -> bool:
    """Whether the first line is a whole JSON object."""
    first = text.lstrip().split("\n", 1)[0]
    if not first.startswith("{"):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):  # no object, or the first line of a longer one
        return False
    return True


def read_text(path: Path) -> str:
    """The text of a data file that is there, uncompressed; `UserError` when it is not UTF-8 or cannot be read."""
    try:
        raw = path.read_bytes()
        if path.name.endswith(".gz"):
            raw = gzip.decompress(raw)
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8 text ({error.reason})") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: not a whole gzip file ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _from_lines(path: Path, text: str) -> list[Record]:
    records = []
    # Not splitlines: JSON texts may hold characters such as U+2028 that it would break a record at.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            value = _json(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not a JSON object ({error})") from None
        if not isinstance(value, dict):
            raise UserError(f"{place}: must be a JSON object, not {_shown(value)}")
        records.append(Record(value, lambda place=place: place))  # type: ignore[misc]
    return records


def _from_list(path: Path, text: str) -> list[Record]:
    values = parse_json(path, text)
    if not isinstance(values, list):
        raise UserError(f"{path}: must hold a JSON list of records, not {_shown(values)}")

    def place(number: int) -> Callable[[], str]:
        return lambda: f"{path}:{line_of_item(text, text.index('['), number)} (record {number + 1})"

    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise UserError(f"{place(number)()}: must be a JSON object, not {_shown(value)}")
    return [Record(value, place(number)) for number, value in enumerate(values)]


def parse_json(path: Path, text: str) -> Any:
    """The JSON value that a file's ``text`` is; `UserError` naming the line when it is none."""
    try:
        return _json(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None


def _json(text: str) -> Any:
    value = json.loads(text)
    return clean_value(value) if _SURROGATE.search(text) else value


def line_of_item(text: str, opening: int, number: int) -> int:
    """The line on which item ``number`` (from 0) of the JSON list starts whose bracket is at ``opening`` of ``text``.

    Scans the text, so for errors only.
    """
    decoder = json.JSONDecoder()
    position = opening + 1
    for passed in range(number + 1):
        while text[position] in " \t\r\n,":
            position += 1
        if passed < number:
            _, position = decoder.raw_decode(text, position)
    return text.count("\n", 0, position) + 1


def _neighbours(path: Path) -> str:
    """What is there instead of a missing file."""
    folder = path.parent
    if not folder.is_dir():
        there = next(parent for parent in folder.absolute().parents if parent.is_dir())
        return f"nor does its directory: of {folder.absolute()} only {there} exists"
    names = sorted(f.name for f in folder.iterdir() if f.is_file() and f.name.endswith(SUFFIXES))
    if len(names) > _LISTED_AT_MOST:
        near = nearest_name(path.name, names)
        return f"its directory has {len(names)} data files" + (
            f"; did you mean '{near}'?" if near else ""
        )
    return f"in its directory: {valid_names(path.name, names)}"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
