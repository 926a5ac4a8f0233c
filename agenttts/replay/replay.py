"""Replay: run a searcher against a table of recorded results, without inference."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import polars as pl

from agenttts.errors import UserError
from agenttts.files.atomic import write_output
from agenttts.files.table_files import write_csv, write_parquet
from agenttts.replay.table import RecordedTable
from agenttts.search.base import Proposal, Searcher, TrialResult
from agenttts.search.fidelity import Fidelity
from agenttts.space import Allocation, SearchSpace
from agenttts.tables.recorded_results import OTHER_FORMATS, is_parquet

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
    "examples": pl.Int64(),
    "evaluations": pl.Int64(),
}


def replay(
    table: RecordedTable,
    space: SearchSpace,
    searcher: Searcher,
    trials: int | None,
    batch: int,
    *,
    evaluations: int | None = None,
    stored: bool = False,
) -> pl.DataFrame:
    """Run ``searcher`` against a table and return its trace.

    Results are told one at a time, so every row's ``recommended`` is what the searcher would choose
    if it stopped there. The replay stops early when the space is exhausted. An outside failure is
    told once for each allocation. If the table has no other result of its models, the allocation
    then stays pending from its next proposal on, so that it is not proposed for ever.

    Args:
        table: The recorded results.
        space: The search space.
        searcher: The searcher. Its ``fidelity`` says on how many examples a trial is scored.
        trials: Number of trials; None without a limit.
        batch: Proposals per batch.
        evaluations: End when so many examples were evaluated. A trial on m examples counts m, an
            extension only its new ones. The last trial may pass the limit.
        stored: After each trial, tell also what its samples give without further draws: the
            allocations that differ only by fewer samples in the last stage. The stored results of a
            run are told in any case.

    Returns:
        The trace, with the columns `TRACE_SCHEMA`.
    """
    rows: list[dict[str, object]] = []
    asked: set[Allocation] = set()
    best: float | None = None
    spent = 0
    while _goes_on(len(rows), trials) and _goes_on(spent, evaluations):
        left = batch if trials is None else min(batch, trials - len(rows))
        proposals = searcher.propose(left)
        if not proposals:
            break
        for proposal in proposals:
            allocation = proposal.allocation
            if allocation not in searcher.archive.pending:
                continue  # stored samples of the same batch have given its result
            again = allocation in asked
            result = table.trial(
                space, allocation, proposal.source, again=again, examples=proposal.examples
            )
            asked.add(allocation)
            if result.blamed or not again:  # else the table does not know the allocation's score
                searcher.tell([result, *table.stored(space, result, of_grid=stored)])
            examples = len(result.examples or proposal.examples or range(table.example_count or 0))
            spent += examples
            if result.score is not None:
                best = result.score if best is None else max(best, result.score)
            row = _trace_row(len(rows) + 1, proposal, result, best, searcher.best())
            if table.example_count is not None:
                row |= {"examples": examples, "evaluations": spent}
            rows.append(row)
            if not _goes_on(spent, evaluations):
                break
    return pl.DataFrame(rows, schema=TRACE_SCHEMA)


def unrecorded_trials(trace: pl.DataFrame, table: RecordedTable) -> int:
    """Return how many trials of a trace the table does not have."""
    return sum(
        not table.has(
            tuple(choice["model"] for choice in allocation),
            tuple(choice["samples"] for choice in allocation),
        )
        for allocation in trace["allocation"].to_list()
    )


def _goes_on(done: int, limit: int | None) -> bool:
    return limit is None or done < limit


def replay_fidelity(
    path: Path, table: RecordedTable, first: int | None, most: int | None, *, needed: bool
) -> Fidelity | None:
    """Return on how many examples trials are scored; None if always on all.

    Args:
        path: The table's file, for messages.
        table: The recorded results.
        first: Examples of a new trial, and of each extension; None for ``most``.
        most: The most examples of an allocation; None for all of the table.
        needed: Whether the scores by example are needed in any case.

    Raises:
        UserError: The table has no scores by example, or the numbers do not fit it.
    """
    total = table.example_count
    if total is None and (needed or first is not None or most is not None):
        raise UserError(
            f"{path}: the table has no scores by example, which --evaluations, --examples-first, "
            "--examples-most and --stored need; valid: a column 'examples' with a list of scores "
            "in every row with a score, or the trials.parquet of a run beside the directories of "
            "its trials"
        )
    if total is None or (first is None and most is None):
        return None
    most = total if most is None else most
    try:
        return Fidelity(most if first is None else first, most, total)
    except UserError as error:
        raise UserError(f"--examples-first, --examples-most: {error}") from None


def check_out(path: Path, read: Iterable[Path] = ()) -> None:
    """Check, before the replay, that a trace can be written to a path.

    Args:
        path: The path.
        read: Files that the replay reads, which the trace must not replace.

    Raises:
        UserError: It cannot.
    """
    if path.is_dir():
        raise UserError(f"{path} is a directory; valid: a file, .csv or .parquet")
    if path.suffix.lower() in (*OTHER_FORMATS, ".tsv"):  # it would hold CSV
        raise UserError(f"{path}: a trace is not written as {path.suffix}; valid: .csv or .parquet")
    if path.exists() and any(each.exists() and path.samefile(each) for each in read):
        raise UserError(f"{path}: the replay reads this file; valid: another file")
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

    def write(stream: BinaryIO) -> None:
        if is_parquet(path):
            write_parquet(trace, stream)
        else:
            write_csv(trace.with_columns(as_text), stream)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_output(path, write)
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
