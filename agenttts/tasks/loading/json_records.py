"""Records of JSON files.

A file is a list, has one object a line, or has one list of objects under a key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from agenttts.errors import UserError, valid_names
from agenttts.tasks.loading.content import decode, decode_leniently, undecoded
from agenttts.tasks.loading.json_positions import item_lines, key_line
from agenttts.tasks.loading.record import Record, RecordSet, shown
from agenttts.tasks.loading.values import parse_json

Fields = Sequence[Collection[str]]
"""For each field that every record has, the names that it may have.

Empty: not known.
"""

_DEEPEST_KEY = 4
"""The most keys that may lead to the list of records."""
_KEYS_LISTED = 8
"""The most keys that an error lists."""


def read_json(
    path: Path, content: bytes, *, named_lines: bool, fields: Fields, key: str
) -> RecordSet:
    """Return the records of a JSON file in any of its forms.

    A damaged line or item becomes a record with `Record.damage`.

    Args:
        path: Path of the file, for messages.
        content: The bytes of the file.
        named_lines: Whether the file's name says that it has one object a line.
        fields: An object with these fields is a record, not a document around records.
        key: Name of the list of records if the document has several (``a.b``: key b of the object
            under a).

    Raises:
        UserError: The document is not JSON, has no such list, or has several.
    """
    text = decode_leniently(content)
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return RecordSet(str(path), [])
    # If the first of several lines is an object, the file has one object a line. Damage further
    # down then concerns its own line.
    is_lines = len(lines) > 1 and _is_object(lines[0])
    document = None
    if not is_lines:
        try:
            document = parse_json(decode(path, content))
        except (UserError, ValueError, RecursionError):
            is_lines = named_lines or _mostly_objects(lines)
            if not is_lines:
                parse_document(path, decode(path, content))  # raises: names the wrong line
    if is_lines:
        if key:
            raise _key_of_no_use(path, key, "an object a line")
        return RecordSet(str(path), _from_lines(path, text))
    if isinstance(document, list):
        if key:
            raise _key_of_no_use(path, key, "a list")
        return RecordSet(str(path), _from_list(path, text, document, ()))
    if not isinstance(document, dict):
        raise UserError(f"{path}: {_VALID}, not {shown(document)}")
    one_line = len(lines) == 1
    return _from_document(
        path, text, document, fields, key, one_line=one_line, named_lines=named_lines
    )


def parse_document(path: Path, text: str) -> Any:
    """Return the JSON value of a file's ``text``.

    Raises:
        UserError: The text is not JSON; the message names the line.
    """
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None


_VALID = (
    "must hold a JSON list of records, an object a line, or an object with one list of records "
    "under "
    "a key"
)


def _key_of_no_use(path: Path, key: str, form: str) -> UserError:
    return UserError(
        f"'{key}' is a key of a document, and {path} holds {form}; leave it out",
        at=("options", "records_key"),
    )


def _from_lines(path: Path, text: str) -> list[Record]:
    records = []
    # Not splitlines: it would also split at characters that JSON texts may hold, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            records.append(_from_line(line, f"{path}:{number}"))
    return records


def _from_line(line: str, place: str) -> Record:
    if problem := undecoded(line):
        return _damaged(lambda: place, problem)
    try:
        value = parse_json(line)
    except (ValueError, RecursionError) as error:
        return _damaged(lambda: place, f"not a JSON object ({error})")
    return _of_value(value, lambda: place)


class _ListPlaces:
    """The places of a list's items; all are found at the first request for one."""

    def __init__(self, path: Path, text: str, keys: Sequence[str]) -> None:
        self._path = path
        self._text = text
        self._keys = keys

    def of(self, number: int) -> str:
        under = f" of '{'.'.join(self._keys)}'" if self._keys else ""
        return f"{self._path}:{self._lines[number]} (record {number + 1}{under})"

    @cached_property
    def _lines(self) -> list[int]:
        return item_lines(self._text, self._keys)


def _from_list(path: Path, text: str, items: list[Any], keys: Sequence[str]) -> list[Record]:
    places = _ListPlaces(path, text, keys)

    def place(number: int) -> Callable[[], str]:
        return lambda: places.of(number)

    return [_of_value(value, place(number)) for number, value in enumerate(items)]


def _of_value(value: Any, place: Callable[[], str]) -> Record:
    if isinstance(value, dict):
        return Record(value, place)
    return _damaged(place, f"must be a JSON object, not {shown(value)}")


def _damaged(place: Callable[[], str], problem: str) -> Record:
    return Record({}, place, UserError(f"{place()}: {problem}"))


def _from_document(
    path: Path,
    text: str,
    document: Mapping[str, Any],
    fields: Fields,
    key: str,
    *,
    one_line: bool,
    named_lines: bool,
) -> RecordSet:
    """Return an object's records: the items of its only list of objects, or itself.

    On ``one_line``, an object without such a list is a record. In a file whose name says that a
    line is a record (``named_lines``), an object with such a list is a record too, unless items of
    the list have the fields of every record.
    """
    found = _lists_of_objects(document, fields)
    if (
        not (key or found or named_lines or _is_record(document, fields))
        and [] in document.values()
    ):
        return RecordSet(str(path), [])
    if key:
        keys = _named(path, document, key, found)
    elif (
        _is_record(document, fields)
        or (one_line and not found)
        or (named_lines and not any(_has_record(document, keys, fields) for keys in found))
    ):
        return RecordSet(str(path), [Record(document, lambda: f"{path}:{key_line(text, ())}")])
    elif len(found) == 1:
        [keys] = found
    elif found:
        names = ", ".join(f"'{'.'.join(keys)}'" for keys in found[:_KEYS_LISTED])
        raise UserError(
            f"{path}: holds {len(found)} lists of objects, and which of them are the records "
            f"cannot be told: {names}"
            f"{', ...' if len(found) > _KEYS_LISTED else ''}; name one with "
            "the option records_key"
        )
    else:
        names = ", ".join(map(str, [*document][:_KEYS_LISTED])) or "none"
        raise UserError(f"{path}: {_VALID}; it is an object without one, with the keys: {names}")
    items = _value_under(document, keys)
    return RecordSet(str(path), _from_list(path, text, items, keys), ".".join(keys))


def _is_record(value: Mapping[str, Any], fields: Fields) -> bool:
    """Return whether an object has all of the ``fields``.

    A field that is a list of objects does not count: such a list probably holds a document's
    records.
    """
    return bool(fields) and all(
        any(name in value and not _is_list_of_objects(value[name]) for name in names)
        for names in fields
    )


def _has_record(document: Mapping[str, Any], keys: Sequence[str], fields: Fields) -> bool:
    items = _value_under(document, keys)
    return any(isinstance(item, dict) and _is_record(item, fields) for item in items)


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _lists_of_objects(document: Mapping[str, Any], fields: Fields) -> list[tuple[str, ...]]:
    """Return the keys of the lists of objects that the fewest keys lead to."""
    level: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [((), document)]
    for _ in range(_DEEPEST_KEY):
        members = [((*keys, k), v) for keys, part in level for k, v in part.items()]
        if found := [keys for keys, value in members if _is_list_of_objects(value)]:
            return found
        level = [(k, v) for k, v in members if isinstance(v, dict) and not _is_record(v, fields)]
    return []


def _named(
    path: Path, document: Mapping[str, Any], key: str, found: Sequence[tuple[str, ...]]
) -> tuple[str, ...]:
    """Return the keys that the option ``records_key`` names."""
    for keys in ((key,), tuple(key.split("."))):
        value = _value_under(document, keys)
        if _is_list_of_objects(value) or value == []:
            return keys
    names = [".".join(keys) for keys in found[:_KEYS_LISTED]]
    raise UserError(
        f"{path} has no list of objects under '{key}'; {valid_names(key, names)}",
        at=("options", "records_key"),
    )


def _value_under(document: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _is_object(line: str) -> bool:
    if not line.lstrip().startswith("{"):
        return False
    try:
        parse_json(line)
    except (ValueError, RecursionError):  # not JSON, or the first line of a longer object
        return False
    return True


def _mostly_objects(lines: Sequence[str]) -> bool:
    """Return whether most lines begin and end like an object.

    Lines that are damaged may be among them.
    """
    whole = sum(line.lstrip()[:1] + line.rstrip()[-1:] == "{}" for line in lines)
    return len(lines) > 1 and 2 * whole > len(lines)
