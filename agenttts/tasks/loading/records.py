"""Read data files as records, in every form that data sets are published in.

The forms are JSON (a list, one object a line, or one list of objects under a key of a document),
CSV and TSV with a header, and Parquet; each also compressed with gzip. The content decides the form
where possible, else the name. Halves of characters (lone surrogates), which JSON can escape, become
question marks.
"""

from __future__ import annotations

from pathlib import Path

from agenttts.errors import Unavailable, UserError, nearest_name, valid_names
from agenttts.tasks.loading.content import decode, read_content
from agenttts.tasks.loading.json_records import Fields, read_json
from agenttts.tasks.loading.record import Record, RecordSet
from agenttts.tasks.loading.table_records import read_csv, read_parquet

__all__ = [
    "KINDS",
    "SUFFIXES",
    "Record",
    "RecordSet",
    "read_file",
    "read_records",
    "read_text",
    "undamaged",
]

_LINES = (".jsonl", ".ndjson")
_TABS = (".tsv", ".tab")
KINDS = (".json", *_LINES, ".csv", *_TABS, ".parquet")
SUFFIXES = (*KINDS, *(f"{kind}.gz" for kind in KINDS))
"""The endings of data files' names."""

_PARQUET_MAGIC = b"PAR1"
_LISTED_AT_MOST = 20


def read_records(path: Path) -> list[Record]:
    """Return the records of a data file in order; a damaged record is an error.

    Raises:
        UserError: The file is missing (the message names files that exist), or it is malformed (the
            message names the line).
    """
    return undamaged(read_file(path))


def undamaged(found: RecordSet) -> list[Record]:
    """Return the records of a file or hub split, for a task that skips none.

    Raises:
        UserError: A record is damaged, or there are no records.
    """
    for record in found.records:
        if record.damage is not None:
            raise record.damage
    if not found.records:
        raise UserError(f"{found.source} holds no records")
    return list(found.records)


def read_file(path: Path, *, fields: Fields = (), key: str = "") -> RecordSet:
    """Return the records of a data file; there may be none.

    Damaged records have `Record.damage`. For ``fields`` and ``key`` see
    `agenttts.tasks.loading.json_records.read_json`. A file that is not JSON takes no ``key``.

    Raises:
        UserError: As `read_records`, except for damaged records.
    """
    _check_there(path)
    content = read_content(path)
    name = path.name.removesuffix(".gz").lower()
    if content.startswith(_PARQUET_MAGIC) or name.endswith(".parquet"):
        _check_no_key(path, key, "a Parquet file")
        return read_parquet(path, content)
    if name.endswith((".csv", *_TABS)):
        _check_no_key(path, key, "a table")
        return read_csv(path, content, tabs=name.endswith(_TABS))
    if not name.endswith((".json", *_LINES)) and content.lstrip()[:1] not in (b"{", b"["):
        raise UserError(f"{path}: unknown kind of data file; valid: {_kinds()}")
    return read_json(path, content, named_lines=name.endswith(_LINES), fields=fields, key=key)


def read_text(path: Path) -> str:
    """Return the text of an existing data file, uncompressed.

    Raises:
        UserError: The text is not UTF-8, or the file cannot be read.
    """
    return decode(path, read_content(path))


def _kinds() -> str:
    return f"{', '.join(KINDS)}, each also with .gz"


def _check_there(path: Path) -> None:
    if path.is_dir():
        raise UserError(
            f"{path} is a directory; valid: a file ({_kinds()}), or hf:{path} if it is a "
            "Hugging Face data set",
            at=("data",),
        )
    if not path.exists():
        raise Unavailable(
            f"data file {path} does not exist",
            fix=f"name one that does ({_neighbours(path)})",
            at=("data",),
        )
    if not path.is_file():  # a pipe or a device, which might never end
        raise UserError(f"{path} is not a file; valid: a file ({_kinds()})", at=("data",))


def _check_no_key(path: Path, key: str, what: str) -> None:
    if key:
        raise UserError(
            f"'{key}' is a key of a JSON document, and {path} is {what}; leave it out",
            at=("options", "records_key"),
        )


def _neighbours(path: Path) -> str:
    """Return what exists in place of a missing file."""
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
