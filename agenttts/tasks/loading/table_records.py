"""Records of tables: CSV and TSV files with a header, and Parquet files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agenttts.errors import UserError, counted
from agenttts.tasks.loading.content import decode_leniently, undecoded
from agenttts.tasks.loading.record import Record, RecordSet
from agenttts.tasks.loading.values import plain_value, value_of_cell

_UNCLOSED = "unexpected end of data"
"""The csv module's message about a quoted field that the end of the file cuts off."""
_COLUMNS_LISTED = 12
"""The most columns that an error lists."""


def read_csv(path: Path, content: bytes, *, tabs: bool) -> RecordSet:
    """Return the rows of a CSV or TSV file, whose first row names the fields.

    For the values see `value_of_cell`. The csv module reads the file: Polars would fill short rows
    with nulls and does not know the lines of its rows. A row with another number of fields becomes
    a record with `Record.damage`.

    Args:
        path: Path of the file, for messages.
        content: The bytes of the file.
        tabs: Whether the separator is a tab. Otherwise it is a comma, or the semicolon or tab of a
            header without commas.

    Raises:
        UserError: The header is not valid, or damage spans several lines. Such damage hides an
            unknown number of records.
    """
    text = decode_leniently(content)
    with _long_fields(len(text)):
        rows = list(_rows(path, text, "\t" if tabs else _separator(text)))
    if not rows:
        return RecordSet(str(path), [])
    line, header, problem = rows[0]
    if problem:
        raise UserError(f"{path}:{line}: the header: {problem}")
    names = _header(path, line, header)
    records = []
    for number, (line, row, problem) in enumerate(rows[1:], 1):
        place = f"{path}:{line} (record {number})"
        if not problem and len(row) != len(header):
            fields = counted(len(row), "field")
            problem = f"has {fields}, and the header has {len(header)}: {_listed(names)}"
        records.append(_record(place, names, row, problem))
    return RecordSet(str(path), records)


def read_parquet(path: Path, content: bytes) -> RecordSet:
    """Return the rows of a Parquet file.

    Raises:
        UserError: The file is not a whole Parquet file.
    """
    import polars as pl

    try:
        frame = pl.read_parquet(io.BytesIO(content))
        rows = frame.rows(named=True)
    # Polars' errors share no base with the errors of Arrow's types, and damaged bytes make it
    # panic.
    except (Exception, pl.exceptions.PanicException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a whole Parquet file ({reason})") from None

    def place(number: int) -> Callable[[], str]:
        return lambda: f"{path}, record {number}"

    return RecordSet(str(path), [row_record(row, place(n)) for n, row in enumerate(rows, 1)])


def row_record(row: dict[str, object], place: Callable[[], str]) -> Record:
    """Return the record of a row of Python values.

    Values without a JSON form, such as the bytes of an image, are `Record.unreadable`.
    """
    values, unreadable = {}, {}
    for name, value in row.items():
        try:
            values[name] = plain_value(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            unreadable[name] = str(error)
    return Record(values, place, unreadable=unreadable)


def _record(place: str, names: Sequence[str], row: Sequence[str], problem: str) -> Record:
    if problem:
        return Record({}, lambda: place, UserError(f"{place}: {problem}"))
    # A column without a name is the index that pandas writes.
    cells = {name: value_of_cell(cell) for name, cell in zip(names, row, strict=True) if name}
    return Record(cells, lambda: place)


def _rows(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str], str]]:
    """Yield (first line, fields, error or empty text) of each row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    width = 0
    while True:
        line = reader.line_num + 1
        problem, row = "", []
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if str(error) == _UNCLOSED:
                raise UserError(
                    f"{path}:{line}: a quoted field that begins in this record is not closed "
                    "before the end of the file; "
                    "close it (within a quoted field, a quote is written twice)"
                ) from None
            problem = f"not a row of a table ({error})"
        if not problem and not any(field.strip() for field in row):
            continue
        problem = problem or next(filter(None, map(undecoded, row)), "")
        several = reader.line_num > line
        if several and (problem or (width and len(row) != width)):
            what = problem or f"has {counted(len(row), 'field')}, and the header has {width}"
            raise UserError(
                f"{path}:{line}: a record that spans lines {line} to {reader.line_num} {what}; "
                "is a quote before it not "
                "closed? (within a quoted field, a quote is written twice)"
            )
        width = width or len(row)
        yield line, row, problem


def _separator(text: str) -> str:
    header = text.lstrip("\r\n").partition("\n")[0]
    return next((sign for sign in ",;\t" if sign in header), ",")


def _header(path: Path, line: int, header: Sequence[str]) -> list[str]:
    names = [name.strip() for name in header]
    for name in names:
        if name and names.count(name) > 1:
            raise UserError(
                f"{path}:{line}: the header names column '{name}' twice; valid: a name of its "
                "own for each"
            )
    return names


def _listed(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _COLUMNS_LISTED else ""
    return f"{', '.join(names[:_COLUMNS_LISTED])}{more}"


@contextmanager
def _long_fields(length: int) -> Iterator[None]:
    """Let the csv module take fields of ``length`` characters.

    Its own limit of 131,072 is less than the length of some contexts.
    """
    before = csv.field_size_limit(max(length, 131_072))
    try:
        yield
    finally:
        csv.field_size_limit(before)
