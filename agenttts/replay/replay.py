"""Replay: run a searcher against a table of recorded results, without inference."""

from __future__ import annotations

import json
import os
from pathlib import Path

import polars as pl

from agenttts.errors import UserError
from agenttts.replay.table import RecordedTable
from agenttts.search.base import Proposal, Searcher, TrialResult
from agenttts.space import Allocation, SearchSpace

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


def replay(
    table: RecordedTable, space: SearchSpace, searcher: Searcher, trials: int, batch: int
) -> pl.DataFrame:
    """Run ``searcher`` against a table and return its trace.

    Results are told one at a time, so every row's ``recommended`` is what the searcher would choose
    if it stopped there. The replay stops early when the space is exhausted.

    Args:
        table: The recorded results.
        space: The search space.
        searcher: The searcher.
        trials: Number of trials.
        batch: Proposals per batch.

    Returns:
        The trace, with the columns `TRACE_SCHEMA`.
    """
    rows: list[dict[str, object]] = []
    asked: set[Allocation] = set()
    best: float | None = None
    while len(rows) < trials:
        proposals = searcher.propose(min(batch, trials - len(rows)))
        if not proposals:
            break
        for proposal in proposals:
            allocation = proposal.allocation
            result = table.trial(space, allocation, proposal.source, again=allocation in asked)
            asked.add(allocation)
            searcher.tell([result])
            if result.score is not None:
                best = result.score if best is None else max(best, result.score)
            rows.append(_trace_row(len(rows) + 1, proposal, result, best, searcher.best()))
    return pl.DataFrame(rows, schema=TRACE_SCHEMA)


def check_out(path: Path) -> None:
    """Check, before the replay, that a trace can be written to a path.

    Raises:
        UserError: It cannot.
    """
    if path.is_dir():
        raise UserError(f"{path} is a directory; valid: a file, .csv or .parquet")
    above = path if path.exists() else next(p for p in path.absolute().parents if p.exists())
    if above != path and not above.is_dir():
        raise UserError(f"{path}: {above} is not a directory; valid: a file in a directory")
    if not os.access(above, os.W_OK):
        raise UserError(f"{path}: {above} is not writable; valid: a file in a writable directory")


def write_trace(trace: pl.DataFrame, path: Path | str) -> None:
    """Write a trace: Parquet for ``.parquet``, else CSV.

    In CSV the allocations are JSON text.

    Raises:
        UserError: The file cannot be written.
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
