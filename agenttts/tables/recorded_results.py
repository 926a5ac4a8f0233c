"""Read tables of recorded results, for a replay or as knowledge: Parquet or CSV."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agenttts.errors import UserError

if TYPE_CHECKING:
    import polars as pl

OTHER_FORMATS = (
    *(".jsonl", ".ndjson", ".json", ".xlsx", ".xls", ".ods", ".feather", ".arrow", ".html"),
    *(".gz", ".bz2", ".xz", ".zst", ".zip"),
)
"""Endings of files that are neither Parquet nor CSV."""

_OF_REPORT = ("run", "trial", "iteration", "source", "state")
_MAGIC = b"PAR1"
_SEPARATORS = {"\t": "tabs", ";": "semicolons"}


def is_parquet(path: Path) -> bool:
    """Return whether the ending of a path says that it is Parquet."""
    return path.suffix.lower() == ".parquet"


def holds_parquet(path: Path) -> bool:
    """Return whether a file is Parquet, by its ending or its first bytes.

    Raises:
        OSError: It cannot be read.
    """
    if is_parquet(path):
        return True
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read_results(path: Path) -> pl.DataFrame:
    """Read a table: Parquet, or CSV if the file is not Parquet.

    Raises:
        UserError: It cannot be read.
    """
    import polars as pl

    if path.suffix.lower() in OTHER_FORMATS:
        raise UserError(
            f"{path}: {path.suffix} is not a format of recorded results; valid: .parquet, or .csv "
            "with commas",
            at=(),
        )
    try:
        if holds_parquet(path):
            return pl.read_parquet(path, glob=False)
        # Names of models may look like numbers, which do not keep their text ("1.50").
        models = dict.fromkeys((n for n in _header(path) if n.endswith(".model")), pl.String())
        return pl.read_csv(path, infer_schema_length=None, glob=False, schema_overrides=models)
    except (pl.exceptions.PolarsError, OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{path}: the table cannot be read: {error}", at=()) from error


def of_report(columns: Sequence[str]) -> bool:
    """Return whether a table with these columns was written by `report`."""
    return set(_OF_REPORT) <= set(columns)


def stages_in(columns: Sequence[str], row: Mapping[str, object] | None = None) -> list[str]:
    """Return the stages with the columns ``STAGE.model`` and ``STAGE.samples``.

    Args:
        columns: The columns.
        row: Leave out stages without a choice in this row. A table that `report` wrote of several
            runs has the stages of all of them.
    """
    stages = [name.removesuffix(".model") for name in columns if name.endswith(".model")]
    return [
        stage
        for stage in stages
        if f"{stage}.samples" in columns
        and (row is None or (row[f"{stage}.model"], row[f"{stage}.samples"]) != (None, None))
    ]


def _header(path: Path) -> list[str]:
    """Return the columns of a CSV file.

    Raises:
        UserError: One is repeated, which Polars would rename without a warning, or commas do not
            separate them.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        line = file.readline()
        file.seek(0)
        names = next(csv.reader(file), [])
    if len(names) == 1:
        for separator, called in _SEPARATORS.items():
            if separator in line:
                raise UserError(
                    f"{path}: {called} separate the columns; valid: commas (CSV), or Parquet in a "
                    "file .parquet",
                    at=(),
                )
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(
            f"{path}: column '{repeated[0]}' occurs {names.count(repeated[0])} times; "
            "keep one of them",
            at=(),
        )
    return names
