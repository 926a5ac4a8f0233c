"""What the samples of a trial give with fewer of them: one table for each trial.

A trial with fewer samples would draw the first of a trial's samples, so its result is known without
a draw. A row has the number of samples of every stage, in the order of the stages.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agenttts.errors import UserError
from agenttts.files.trouble import passing_trouble
from agenttts.tables.schema import NO_METRIC

if TYPE_CHECKING:  # a job on a node needs no Polars
    import polars as pl

log = logging.getLogger(__name__)

STORED_FILE = "stored.parquet"


@dataclass(frozen=True)
class StoredResult:
    """The result of an allocation that has a trial's models and fewer of its samples.

    Attributes:
        samples: Number of samples by stage.
        score: The main metric, the mean over the examples.
        score_stderr: Its standard error; None with one example.
        metrics: Every ``STAGE.METRIC``, the mean over the examples that have it.
        examples: The main metric by example, in the trial's order; None where it has none.
    """

    samples: tuple[int, ...]
    score: float
    score_stderr: float | None
    metrics: Mapping[str, float]
    examples: tuple[float | None, ...]


def stored_frame(results: Sequence[StoredResult]) -> pl.DataFrame:
    """Return the table of results; a metric that one of them lacks is null there."""
    import polars as pl

    names = dict.fromkeys(name for result in results for name in result.metrics)
    metrics = pl.Struct(dict.fromkeys(names, pl.Float64()) or {NO_METRIC: pl.Float64()})
    records = [
        {
            "samples": list(result.samples),
            "score": result.score,
            "score_stderr": result.score_stderr,
            "metrics": {name: result.metrics.get(name) for name in names or [NO_METRIC]},
            "examples": list(result.examples),
        }
        for result in results
    ]
    return pl.DataFrame(records, schema=_columns(metrics))


def read_stored(path: Path) -> list[StoredResult]:
    """Return the results in a file; none without the file.

    A damaged file is warned of, and counts as none.

    Raises:
        OSError: The file system is in trouble that may pass.
    """
    import polars as pl

    try:
        frame = pl.read_parquet(path, glob=False, hive_partitioning=False)
        frame = frame.select(_columns(frame.schema["metrics"]).names())
        if frame.schema != _columns(frame.schema["metrics"]):
            raise UserError(f"{path}: not a table of stored results")
    except FileNotFoundError:
        return []
    except (
        OSError,
        UserError,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        KeyError,
    ) as error:
        if passing_trouble(error):
            raise
        log.warning(
            "%s: what fewer samples of a trial give cannot be read (%s), so the search goes on "
            "without it; restore the file from a copy",
            path,
            str(error).partition("\n")[0],
        )
        return []
    return [
        StoredResult(
            samples=tuple(row["samples"]),
            score=row["score"],
            score_stderr=row["score_stderr"],
            metrics={name: v for name, v in row["metrics"].items() if v is not None},
            examples=tuple(row["examples"]),
        )
        for row in frame.iter_rows(named=True)
    ]


def _columns(metrics: pl.DataType) -> pl.Schema:
    import polars as pl

    return pl.Schema(
        {
            "samples": pl.List(pl.Int64),
            "score": pl.Float64(),
            "score_stderr": pl.Float64(),
            "metrics": metrics,
            "examples": pl.List(pl.Float64),
        }
    )
