"""Replay: run a searcher against a table of results recorded before, without any inference."""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from agenttts.errors import UserError, valid_names
from agenttts.search.base import Proposal, Searcher, TrialResult
from agenttts.space import Allocation, SearchSpace
from agenttts.tables.schema import AFTER_SEARCH, NO_METRIC, TrialState, read_trials

_CHOICES = pl.List(pl.Struct({"stage": pl.String, "model": pl.String, "samples": pl.Int64}))

# Columns of a trace. Allocations are lists of {stage, model, samples}, as in trials.parquet.
TRACE_SCHEMA = {
    "step": pl.Int64(),
    "allocation": _CHOICES,
    "budget": pl.Float64(),
    "score": pl.Float64(),
    "best_so_far": pl.Float64(),
    "recommended": _CHOICES,
    "source": pl.String(),
}


@dataclass(frozen=True)
class Recorded:
    """Score (None: a recorded failure), further metrics and the score's standard error of one grid point."""

    score: float | None
    metrics: Mapping[str, float]
    stderr: float | None = None


class RecordedTable:
    """Recorded results by model combination and sample counts."""

    def __init__(
        self, points: Mapping[tuple[str, ...], Mapping[tuple[int, ...], Recorded]]
    ) -> None:
        self._points = points
        self._grids = {
            models: [sorted(set(axis)) for axis in zip(*grid, strict=True)]
            for models, grid in points.items()
        }

    def trial(self, space: SearchSpace, allocation: Allocation, source: str = "") -> TrialResult:
        """What the allocation scored, by the nearest recorded counts of its model combination.

        Each stage's count takes the nearest one recorded for the combination (ties: the lower). Where the grid
        has a hole there, the recorded point with the least total distance in samples stands in. A combination
        with no rows is a failed trial.
        """
        models = tuple(choice.model for choice in allocation.choices)
        wanted = tuple(choice.samples for choice in allocation.choices)
        cost = space.cost(allocation)
        if models not in self._points:
            return TrialResult(allocation, None, {}, cost, source)
        grid = self._points[models]
        point = tuple(
            min(axis, key=lambda recorded, count=count: (abs(recorded - count), recorded))  # type: ignore[misc]
            for axis, count in zip(self._grids[models], wanted, strict=True)
        )
        if point not in grid:
            point = min(grid, key=lambda recorded: (_distance(recorded, wanted), recorded))
        found = grid[point]
        return TrialResult(
            allocation, found.score, found.metrics, cost, source, stderr=found.stderr
        )


def load_table(path: Path | str, space: SearchSpace) -> RecordedTable:
    """Read a replay table: Parquet, or CSV by any other ending.

    Columns: ``STAGE.model`` and ``STAGE.samples`` for every stage, ``score``, optionally its standard error ``stderr``,
    and any number of metric columns (those that hold numbers are kept). Rows of the same point are averaged; an empty
    score is a recorded failure. A run's ``trials.parquet`` is read as it is. In it and in a run's own export, trials
    after the search are passed over: they are on other examples. Raises
    `UserError` naming file, column, row (the first data row is 1) and the valid values.
    """
    path = Path(path)
    frame = _read(path)
    if isinstance(frame.schema.get("allocation"), pl.List):
        frame = _flat(path, space)
    keys = [f"{stage.name}.{part}" for stage in space.stages for part in ("model", "samples")]
    for column in [*keys, "score"]:
        if column not in frame.columns:
            raise UserError(
                f"{path}: no column '{column}'; needed: {', '.join([*keys, 'score'])}; "
                f"the file has: {', '.join(frame.columns)}"
            )
    metrics = [
        column
        for column in frame.columns
        if column not in (*keys, "score", "stderr") and frame[column].dtype.is_numeric()
    ]
    rows: dict[tuple[str, ...], dict[tuple[int, ...], list[Mapping[str, Any]]]] = {}
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        if row.get("source") in AFTER_SEARCH:
            continue
        models = tuple(_model(path, number, space, stage.name, row) for stage in space.stages)
        counts = tuple(_count(path, number, f"{stage.name}.samples", row) for stage in space.stages)
        read = {"score": _score(path, number, row), "stderr": _stderr(path, number, row)}
        rows.setdefault(models, {}).setdefault(counts, []).append({**row, **read})
    if not rows:
        raise UserError(f"{path}: the table has no rows")
    return RecordedTable(
        {
            models: {counts: _merge(same, metrics) for counts, same in grid.items()}
            for models, grid in rows.items()
        }
    )


def replay(
    table: RecordedTable, space: SearchSpace, searcher: Searcher, trials: int, batch: int
) -> pl.DataFrame:
    """Run ``searcher`` for ``trials`` trials in batches of ``batch`` and return its trace.

    Results are told one at a time, so that every row's ``recommended`` is what the searcher would choose if it stopped
    there. Stops early when the space is exhausted. Columns: `TRACE_SCHEMA`.
    """
    rows: list[dict[str, object]] = []
    best: float | None = None
    while len(rows) < trials:
        proposals = searcher.propose(min(batch, trials - len(rows)))
        if not proposals:
            break
        for proposal in proposals:
            result = table.trial(space, proposal.allocation, proposal.source)
            searcher.tell([result])
            if result.score is not None:
                best = result.score if best is None else max(best, result.score)
            rows.append(_trace_row(len(rows) + 1, proposal, result, best, searcher.best()))
    return pl.DataFrame(rows, schema=TRACE_SCHEMA)


def check_out(path: Path) -> None:
    """Whether a trace can be written there, told before the replay. Raises `UserError`."""
    if path.is_dir():
        raise UserError(f"{path}: is a directory; give a file, .csv or .parquet")
    above = path if path.exists() else next(p for p in path.absolute().parents if p.exists())
    if above != path and not above.is_dir():
        raise UserError(f"{path}: {above} is no directory; give a file in a directory")
    if not os.access(above, os.W_OK):
        raise UserError(f"{path}: {above} is not writable; give a file in a place that is")


def write_trace(trace: pl.DataFrame, path: Path | str) -> None:
    """Write a trace as Parquet (``.parquet``), else as CSV with the allocations as JSON text.

    Raises `UserError` when it cannot be written.
    """
    path = Path(path)
    as_text = [
        pl.Series(column, [_json(value) for value in trace[column].to_list()], dtype=pl.String)
        for column in ("allocation", "recommended")
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            trace.write_parquet(path)
        else:
            trace.with_columns(as_text).write_csv(path)
    except OSError as error:
        raise UserError(
            f"{path}: the trace cannot be written: {error.strerror or error}"
        ) from error


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a Parquet or CSV table of recorded results")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        _check_header(path)
        return pl.read_csv(path, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable table: {error}") from error


def _check_header(path: Path) -> None:
    """Polars renames a repeated column: one of the two would be read in silence, the other be taken for a metric."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        names = next(csv.reader(file), [])
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(
            f"{path}: column '{repeated[0]}' is there {names.count(repeated[0])} times; keep one of them"
        )


def _flat(path: Path, space: SearchSpace) -> pl.DataFrame:
    """A table of trials with the columns of a replay table; trials without a score of their own are failures."""
    rows: list[dict[str, object]] = []
    stages = [stage.name for stage in space.stages]
    for number, trial in enumerate(read_trials(path).iter_rows(named=True), start=1):
        choices = trial["allocation"] or []
        found = [choice["stage"] for choice in choices]
        if sorted(found) != sorted(stages):
            raise UserError(
                f"{path}: row {number}: the trial's stages are {', '.join(found) or '(none)'}; the spec's are "
                f"{', '.join(stages)}"
            )
        completed = trial["state"] == TrialState.COMPLETED
        row: dict[str, object] = dict(trial["metrics"] or {})
        for choice in choices:
            row[f"{choice['stage']}.model"] = choice["model"]
            row[f"{choice['stage']}.samples"] = choice["samples"]
        row["source"] = trial["source"]
        row["score"] = trial["score"] if completed else None
        row["stderr"] = trial.get("stderr") if completed else None
        row.pop(NO_METRIC, None)
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: the table has no rows")
    return pl.DataFrame(rows, infer_schema_length=None)


def _model(path: Path, number: int, space: SearchSpace, stage: str, row: Mapping[str, Any]) -> str:
    value = row[f"{stage}.model"]
    names = [model.name for model in space.stage(stage).models]
    if str(value) not in names:
        raise UserError(
            f"{path}: row {number}: column '{stage}.model' is '{value}'; {valid_names(value, names)}"
        )
    return str(value)


def _count(path: Path, number: int, column: str, row: Mapping[str, Any]) -> int:
    value = _number(row[column])
    if value is None or value < 1 or value != int(value):
        raise UserError(
            f"{path}: row {number}: column '{column}' is '{row[column]}'; valid: whole numbers from 1"
        )
    return int(value)


def _score(path: Path, number: int, row: Mapping[str, Any]) -> float | None:
    if row["score"] is None:
        return None
    value = _number(row["score"])
    if value is None:
        raise UserError(
            f"{path}: row {number}: column 'score' is '{row['score']}'; "
            "valid: finite numbers, or empty for a failed trial"
        )
    return value


def _stderr(path: Path, number: int, row: Mapping[str, Any]) -> float | None:
    if row.get("stderr") is None:
        return None
    value = _number(row["stderr"])
    if value is None or value < 0:
        raise UserError(
            f"{path}: row {number}: column 'stderr' is '{row['stderr']}'; "
            "valid: finite numbers from 0, or empty where it is not known"
        )
    return value


def _number(value: object) -> float | None:
    """A cell as a finite number, None when it is not one."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _merge(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> Recorded:
    scored = [row for row in rows if row["score"] is not None]
    if not scored:
        return Recorded(None, {})
    values = {m: [float(row[m]) for row in scored if row[m] is not None] for m in metrics}
    errors = [row["stderr"] for row in scored]
    known = None not in errors
    return Recorded(
        fmean(row["score"] for row in scored),
        {m: fmean(v) for m, v in values.items() if v},
        # Of the mean of independent scores.
        math.hypot(*errors) / len(errors) if known else None,
    )


def _distance(recorded: tuple[int, ...], wanted: tuple[int, ...]) -> int:
    return sum(abs(a - b) for a, b in zip(recorded, wanted, strict=True))


def _trace_row(
    step: int,
    proposal: Proposal,
    result: TrialResult,
    best: float | None,
    recommended: Allocation | None,
) -> dict[str, object]:
    return {
        "step": step,
        "allocation": proposal.allocation.to_records(),
        "budget": result.cost,
        "score": result.score,
        "best_so_far": best,
        "recommended": None if recommended is None else recommended.to_records(),
        "source": proposal.source,
    }


def _json(records: object) -> str | None:
    return None if records is None else json.dumps(records, ensure_ascii=False)
