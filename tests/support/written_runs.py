"""Run directories written to disk without a run, as the controller writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agenttts.files.table_files import atomic_write_parquet
from agenttts.space import Allocation, Choice
from agenttts.tables.schema import (
    ExampleRow,
    TrialRow,
    TrialState,
    examples_frame,
    trials_frame,
)

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
SPEC = (
    "name: any\ntask: {name: retrieval_qa}\nsearch: {method: agenttts, budget: 1000.0, seed: 7}\n"
)


def trial(number: int, score: float | None, budget: float, **changes: Any) -> TrialRow:
    """A trial over two stages that finished ``number`` minutes after the start."""
    values: dict[str, Any] = {
        "run": "any",
        "trial": f"t{number:04d}",
        "iteration": 0,
        "source": "initial",
        "state": TrialState.FAILED if score is None else TrialState.COMPLETED,
        "score": score,
        "budget": budget,
        "metrics": {} if score is None else {"retrieval.f1": 0.5, "answer.em": score},
        "allocation": Allocation(
            (Choice("retrieval", "qwen-7b", number), Choice("answer", "llama[3b]", 2 * number))
        ),
        "started": START,
        "finished": START + timedelta(minutes=number),
        "gpu_seconds": 36.0 * number,
        "prompt_tokens": 1000,
        "decode_tokens": 100 * number,
        "reused_tokens": 500,
        "job_id": f"42_{number}",
        "error": "ValueError: <b>no\n such [/red] thing</b>" if score is None else None,
    }
    return TrialRow(**values | changes)


ROWS = (
    trial(1, 0.25, 100.0),
    trial(2, None, 200.0),
    trial(3, 0.5, 400.0),
    trial(4, 0.0, 50.0),
    trial(5, 0.5, 300.0),
)


def write_run(
    folder: Path,
    name: str = "demo",
    rows: Sequence[TrialRow] | None = ROWS,
    metrics: Sequence[str] = ("retrieval.f1", "answer.em"),
    events: Sequence[Mapping[str, Any]] = (
        {"event": "started"},
        {"event": "ended", "outcome": "done"},
    ),
    examples: bool = True,
) -> Path:
    """Write ``folder/results/NAME`` and return it; with ``rows=None`` it has no table yet."""
    run = folder / "results" / name
    run.mkdir(parents=True)
    (run / "spec.yaml").write_text(SPEC)
    (run / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    if rows is not None:
        atomic_write_parquet(run / "trials.parquet", trials_frame(rows, metrics))
    for row in rows if rows and examples else ():
        write_examples(run, row)
    return run


def write_examples(run: Path, row: TrialRow) -> None:
    """The per-example table of a trial: 20 examples, the score the share of those with ``em`` 1."""
    if row.score is None:
        return
    right = round(20 * row.score)
    rows = [
        ExampleRow(row.trial, f"e{i:02d}", stage, "m", 1, '"x"', ("x",), {name: value})
        for i in range(20)
        for stage, name, value in (("retrieval", "f1", 0.5), ("answer", "em", float(i < right)))
    ]
    directory = run / "trials" / row.trial
    directory.mkdir(parents=True)
    atomic_write_parquet(directory / "examples.parquet", examples_frame(rows, ["f1", "em"]))
