"""Write a report in any format, to standard output or atomically to a file."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import polars as pl

from agenttts.errors import UserError, valid_names
from agenttts.files.atomic import write_output
from agenttts.files.table_files import write_csv, write_parquet
from agenttts.report.summary import Report
from agenttts.tables.schema import TRIAL_SECONDS, metric_names

ReportFormat = Literal["table", "json", "csv", "html", "parquet"]


def format_of(out: Path | None) -> ReportFormat:
    """Return the format that the name of a file asks for; without a file, a table.

    Raises:
        UserError: No format is written to files of this name.
    """
    suffix = "" if out is None else out.suffix.lower()
    if suffix in ("", ".txt", ".md", ".log"):
        return "table"
    for known in get_args(ReportFormat):
        if suffix in (f".{known}", f".{known}".removesuffix("l")):
            return known  # type: ignore[no-any-return]
    if suffix in (".svg", ".png", ".pdf"):
        raise UserError(
            f"--out {out}: figures are written with --figures DIR, as SVG, PNG and PDF; "
            "--format html writes a page that prints well"
        )
    formats = valid_names(suffix[1:], get_args(ReportFormat))
    raise UserError(f"--out {out}: its name tells no format; give one with --format; {formats}")


def render(report: Report, format: ReportFormat, out: Path | None = None) -> None:
    """Print the report, or write it to ``out``.

    ``csv`` and ``parquet`` are one table of the trials of all runs (see `flat_table`).

    Raises:
        UserError: ``out`` cannot be written, or Parquet would go to a terminal.
    """
    if format not in _WRITERS:
        raise UserError(f"unknown format '{format}'; {valid_names(format, get_args(ReportFormat))}")
    if out is not None:
        _write_file(out, partial(_WRITERS[format], report))
    elif format == "table":
        from agenttts.report.render_table import print_tables  # as in `_table`

        print_tables(report)
    elif format == "parquet":
        if sys.stdout.isatty():
            raise UserError(
                "--format parquet cannot be printed to a terminal; name a file with --out"
            )
        sys.stdout.flush()
        _WRITERS[format](report, sys.stdout.buffer)
    else:
        _write_standard_output(partial(_WRITERS[format], report))


def write_plain_page(report: Report, out: Path) -> None:
    """Write the page without its figures, which take most of its time.

    Raises:
        UserError: ``out`` cannot be written.
    """
    from agenttts.report.render_html import render_html

    page = render_html(report, with_figures=False).encode("utf-8", "replace")
    _write_file(out, lambda stream: stream.write(page))


def flat_table(trials: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each trial, without nested columns.

    ``replay`` takes such a table.

    - The allocation becomes the columns ``STAGE.model`` and ``STAGE.samples``. They are null where
      a run has no such stage.
    - Metric X becomes the column ``X``, or ``metrics.X`` if that name is taken.
    - The standard error of metric X becomes ``metrics_stderr.X``.
    - The share of cut samples becomes ``cut_share.STAGE``. That, or the name of a standard error,
      has ``trial.`` before it where a stage has the column of this name.
    - The seconds become ``seconds.queue``, ``seconds.start`` and so on.
    """
    stages = dict.fromkeys(
        choice["stage"] for allocation in trials["allocation"] for choice in allocation
    )
    choices = [
        pl.col("allocation")
        .list.eval(
            pl.element().filter(pl.element().struct.field("stage") == stage).struct.field(part)
        )
        .list.first()
        .alias(f"{stage}.{part}")
        for stage in stages
        for part in ("model", "samples")
    ]
    part_of = pl.element().struct
    cuts = [
        pl.col("cut_samples")
        .list.eval(
            (part_of.field("cut") / part_of.field("samples")).filter(
                part_of.field("stage") == stage
            )
        )
        .list.first()
        .alias(f"cut_share.{stage}")
        for stage in stages
    ]
    taken = {
        *trials.columns,
        *(f"{stage}.{part}" for stage in stages for part in ("model", "samples")),
        *(f"seconds.{name}" for name in TRIAL_SECONDS),
        *(f"cut_share.{stage}" for stage in stages),
    }
    metrics = [
        pl.col("metrics").struct.field(name).alias(f"metrics.{name}" if name in taken else name)
        for name in metric_names(trials)
    ]
    errors = [
        pl.col("metrics_stderr").struct.field(name).alias(f"metrics_stderr.{name}")
        for name in metric_names(trials)
    ]
    before = ("run", "trial", "iteration", "source", "state", "score", "score_stderr", "budget")
    seconds = [
        pl.col("seconds").struct.field(name).alias(f"seconds.{name}") for name in TRIAL_SECONDS
    ]
    nested = ("metrics", "metrics_stderr", "allocation", "cut_samples", "seconds")
    after = [c for c in trials.columns if c not in (*before, *nested)]
    chosen: list[str | pl.Expr] = [*before, *choices, *metrics, *after, *seconds]
    names = set(trials.select(chosen).columns)
    return trials.select(*chosen, *_named_anew(cuts, names), *_named_anew(errors, names))


def _named_anew(columns: Sequence[pl.Expr], names: set[str]) -> Iterator[pl.Expr]:
    """Yield columns; one whose name is in ``names`` gets a longer one.

    ``names`` gets the names of the columns.
    """
    for column in columns:
        name = column.meta.output_name()
        while name in names:
            name = f"trial.{name}"
        names.add(name)
        yield column.alias(name)


def _table(report: Report, stream: BinaryIO) -> None:
    from agenttts.report.render_table import tables_text  # imports Rich, which a controller saves

    stream.write(tables_text(report).encode())


def _json(report: Report, stream: BinaryIO) -> None:
    encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, indent=2)
    for part in encoder.iterencode(report.as_dict()):
        stream.write(part.encode())
    stream.write(b"\n")


def _csv(report: Report, stream: BinaryIO) -> None:
    moments = pl.col("started", "finished").dt.to_string("%Y-%m-%dT%H:%M:%S%.6fZ")
    write_csv(flat_table(report.trials).with_columns(moments), stream)


def _parquet(report: Report, stream: BinaryIO) -> None:
    write_parquet(flat_table(report.trials), stream)


def _html(report: Report, stream: BinaryIO) -> None:
    from agenttts.report.render_html import render_html  # imports Altair, which takes half a second

    stream.write(render_html(report).encode("utf-8", "replace"))


_WRITERS: dict[str, Callable[[Report, BinaryIO], None]] = {
    "table": _table,
    "json": _json,
    "csv": _csv,
    "html": _html,
    "parquet": _parquet,
}


def _write_standard_output(write: Callable[[BinaryIO], object]) -> None:
    """Write a document to standard output in UTF-8, whatever the terminal's encoding."""
    sys.stdout.flush()
    stream = getattr(sys.stdout, "buffer", None)
    if stream is None:  # standard output was replaced by an object that takes only text
        content = io.BytesIO()
        write(content)
        sys.stdout.write(content.getvalue().decode())
    else:
        write(stream)


def _write_file(out: Path, write: Callable[[BinaryIO], object]) -> None:
    try:
        write_output(out, write)
    except OSError as error:
        raise UserError(
            f"{out}: the report cannot be written: {error.strerror or error}"
        ) from error
