"""A run directory as it is in the middle of a search on Slurm, written without a run.

Two workers run, each with what its program writes down; one idles, and two jobs wait in the queue.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from agenttts.dispatch.job_starts import JobStart, write_job_start
from agenttts.files.atomic import atomic_write_json
from agenttts.files.table_files import atomic_write_parquet
from agenttts.run.directory import RunDirectory
from agenttts.run.progress import PlannedTrial, planned_record
from agenttts.run.rows import row_to_json
from agenttts.run.starts import ControllerHandle, write_handle
from agenttts.space import Allocation, Choice
from agenttts.tables.schema import ExampleRow, TrialRow, TrialState, examples_frame
from agenttts.trial.phase import PHASE_FILE
from agenttts.trial.progress import PROGRESS_FILE
from tests.support.written_runs import trial

QUEUE = """JOBID|STATE|REASON|COMMENT
7 n01|RUNNING|None|controller
41 n02|RUNNING|None|worker
42 n03|RUNNING|None|worker
43 n03|RUNNING|None|worker
44|PENDING|Priority|worker
45|PENDING|Priority|worker
46|PENDING|PartitionTimeLimit|worker
"""
"""What squeue says of it (`agenttts.dispatch.slurm.queue_reader.SQUEUE_FORMAT`)."""
GUIDELINE = (
    "In the answer stage a small model with many samples is as good as the large one; in retrieval "
    "the large model pays from two samples on, and more than eight samples of it add nothing that "
    "the examples so far could show. Try strong x4 in retrieval before anything dearer, and leave "
    "out the allocations that spend most of the budget on the answers."
)


def write_running(run: RunDirectory, started: str) -> None:
    """Make an unstarted run one that runs since the moment ``started``."""
    spec = yaml.safe_load(run.spec_file.read_text())
    spec["agent"] = {"kind": "endpoint", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    run.spec_file.write_text(yaml.safe_dump(spec))
    run.profile_file.write_text("kind: slurm\n")
    write_handle(run, ControllerHandle("slurm", job_id="7", host="login1"))
    events = [{"event": "started", "time": started}, *_events()]
    run.journal_file.write_text("".join(json.dumps(event) + "\n" for event in events))
    row = _rows()["t0001"]
    _write_examples(run.trial("t0001"), row)
    _write_workers(run)


def _events() -> list[dict[str, Any]]:
    rows = _rows()
    trials = [
        _planned(number, 0 if number < 3 else 1, "initial" if number < 3 else "insight")
        for number in range(9)
    ]
    first, second = trials[:3], trials[3:]
    return [
        {"event": "proposed", "trials": [planned_record(p) for p in first]},
        {"event": "submitting", "batch": "any-0-0", "trials": [p.trial for p in first],
         "lists": [["t0000", "t0001", "t0002"]], "stays": True, "gpus": 2},
        {"event": "submitted", "jobs": dict.fromkeys((p.trial for p in first), "41")},
        *({"event": "finished", "trial": name, "row": row_to_json(row)} for name, row in rows.items()),
        {"event": "told", "iteration": 0, "guidelines": ["An earlier one.", GUIDELINE],
         "recommended": rows["t0001"].allocation.to_records(),
         "confidence": {"within": 0.02, "probability": 0.4, "shortfall": 0.03}},
        {"event": "proposed", "trials": [planned_record(p) for p in second]},
        {"event": "assigned", "worker": "0-0-0", "attempts": {"t0003": 0, "t0004": 0}},
        {"event": "submitting", "batch": "any-1-0", "stays": True, "gpus": 1,
         "trials": [f"t000{n}" for n in (5, 6, 7, 8)], "lists": [[f"t000{n}"] for n in (5, 6, 7, 8)]},
        {"event": "submitted", "jobs": {"t0005": "42", "t0006": "44", "t0007": "45", "t0008": "46"}},
        {"event": "submitting", "batch": "any-2-0", "trials": ["t0005"], "lists": [["t0005"]],
         "stays": True, "gpus": 1},
        {"event": "submitted", "jobs": {"t0005": "43"}},
        {"event": "assigned", "worker": "1-0-0", "attempts": {"t0005": 0}},
    ]  # fmt: skip


def _planned(number: int, iteration: int, source: str) -> PlannedTrial:
    allocation = Allocation(
        (Choice("retrieval", "strong", number + 1), Choice("answer", "weak", 2 * number + 1))
    )
    return PlannedTrial(f"t{number:04d}", iteration, allocation, source, "because", 10.0)


def _rows() -> dict[str, TrialRow]:
    scores: Mapping[int, float | None] = {0: 0.25, 1: 0.5, 2: None}
    changes = {"gpu_seconds": 720.0, "finished": datetime(2026, 1, 2, tzinfo=UTC)}
    return {
        f"t000{n}": trial(n, score, 10.0, allocation=_planned(n, 0, "").allocation, **changes)
        for n, score in scores.items()
    }


def _write_examples(directory: Path, row: TrialRow) -> None:
    assert row.state is TrialState.COMPLETED
    rows = [
        ExampleRow(row.trial, f"e{i}", stage, "m", 1, '"x"', ("x",), {name: value})
        for i in range(20)
        for stage, name, value in (("retrieval", "f1", 0.5), ("answer", "em", float(i < 10)))
    ]
    directory.mkdir(parents=True)
    atomic_write_parquet(directory / "examples.parquet", examples_frame(rows, ["f1", "em"]))


def _write_workers(run: RunDirectory) -> None:
    """Write what three jobs and their programs have recorded.

    The first generates for two trials. The second's program has not begun; what is there is of an
    earlier start. The third waits for trials.
    """
    now = datetime.now(UTC)

    def ago(**time: float) -> str:
        return (now - timedelta(**time)).isoformat()

    def start(worker: str, number: int, job: str, node: str, gpus: int, began: str) -> Path:
        directory = run.worker(worker)
        directory.mkdir(parents=True, exist_ok=True)
        write_job_start(directory, JobStart(number, job, node, gpus, None, began, began))
        return directory

    first = start("0-0-0", 1, "41", "n02", 2, ago(minutes=42, seconds=20))
    stages = [
        {"trial": "t0003", "stage": "answer", "number": 2, "stages": 2, "examples": 8, "done": 5},
        {"trial": "t0002", "stage": "answer", "number": 2, "stages": 2, "examples": 8, "done": 8},
    ]
    _write_program(first, ago(minutes=42), "generate", "weak", stages, tokens=61_700, seconds=20.0)
    second = start("1-0-0", 1, "42", "n03", 1, ago(seconds=95))
    _write_program(second, ago(hours=3), "load", "strong", [])
    third = start("2-0-0", 1, "43", "n03", 1, ago(hours=1, minutes=5, seconds=30))
    _write_program(third, ago(hours=1, minutes=5), "other", "strong", [], tokens=10, seconds=1.0)


def _write_program(
    directory: Path,
    started: str,
    phase: str,
    model: str,
    stages: list[dict[str, Any]],
    tokens: int = 0,
    seconds: float = 0.0,
) -> None:
    progress = {"started": started, "model": model, "seconds": seconds, "tokens": tokens}
    atomic_write_json(directory / PROGRESS_FILE, progress | {"trials": stages, "newer": 1})
    atomic_write_json(directory / PHASE_FILE, {"number": 3, "name": phase, "model": model})
