"""The result tables keep what is put into them, and refuse what is not theirs."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from agenttts.errors import UserError
from agenttts.files.table_files import atomic_write_parquet
from agenttts.run.rows import row_from_json, row_to_json
from agenttts.space import Allocation, Choice
from agenttts.tables.aggregate import concat_trials
from agenttts.tables.schema import (
    ExampleRow,
    TrialRow,
    TrialSeconds,
    TrialState,
    examples_frame,
    metric_names,
    read_examples,
    read_trials,
    stage_metrics,
    trial_rows,
    trials_frame,
)

COLUMNS = [
    "run",
    "trial",
    "iteration",
    "source",
    "state",
    "score",
    "score_stderr",
    "budget",
    "metrics",
    "metrics_stderr",
    "allocation",
    "started",
    "finished",
    "gpu_seconds",
    "prompt_tokens",
    "decode_tokens",
    "reused_tokens",
    "job_id",
    "attempts",
    "error",
    "cut_share",
    "cut_samples",
    "worker",
    "engine_starts",
    "seconds",
    "examples",
]
ALLOCATION = Allocation((Choice("retrieval", "m", 2), Choice("answer", "n", 30)))
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def row(trial: str = "t0000", **changes: Any) -> TrialRow:
    values: dict[str, Any] = {
        "run": "r",
        "trial": trial,
        "iteration": 0,
        "source": "initial",
        "state": TrialState.COMPLETED,
        "score": 0.5,
        "budget": 12.5,
        "allocation": ALLOCATION,
        "metrics": {"answer.em": 0.5},
        "score_stderr": 0.125,
        "metrics_stderr": {"answer.em": 0.125},
        "started": MOMENT,
        "finished": MOMENT + timedelta(seconds=9),
    }
    return TrialRow(**values | changes)


FAILED = row(
    "t0001",
    state=TrialState.OOM,
    score=None,
    score_stderr=None,
    metrics={},
    metrics_stderr={},
    started=None,
    error="out\nof it",
)


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([row(), FAILED, row("t0002", score=0.0)], ["retrieval.f1", "answer.em"]),
        ([], ["answer.em"]),
        ([FAILED], []),
        ([], []),
    ],
    ids=["trials", "no trial", "no metric", "nothing"],
)
def test_trials_round_trip(rows: list[TrialRow], names: list[str], tmp_path: Path) -> None:
    frame = trials_frame(rows, names)
    path = tmp_path / "trials.parquet"
    atomic_write_parquet(path, frame)
    read = read_trials(path)
    assert read.columns == COLUMNS
    assert read.equals(frame)
    assert read.schema == frame.schema
    assert metric_names(read) == names
    assert trial_rows(read) == rows


def test_types_are_the_same_with_and_without_rows() -> None:
    names = ["answer.em"]
    assert trials_frame([], names).schema == trials_frame([row(), FAILED], names).schema
    schema = trials_frame([], names).schema
    assert schema["started"] == pl.Datetime("us", "UTC")
    assert schema["metrics"] == pl.Struct({"answer.em": pl.Float64})
    choice = pl.Struct({"stage": pl.String, "model": pl.String, "samples": pl.Int64})
    assert schema["allocation"] == pl.List(choice)


def test_moments_are_stored_in_utc_and_need_a_zone() -> None:
    east = MOMENT.astimezone(timezone(timedelta(hours=5)))
    assert trials_frame([row(started=east)], ["answer.em"])["started"][0] == MOMENT
    with pytest.raises(ValueError, match="no time zone"):
        row(started=MOMENT.replace(tzinfo=None))


def test_tables_without_standard_errors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "trials.parquet"
    rows, names = [row(), FAILED], ["answer.em"]
    frame = trials_frame(rows, names)
    atomic_write_parquet(path, frame.drop("score_stderr", "metrics_stderr"))
    read = read_trials(path)
    assert read.schema == frame.schema
    assert read["score_stderr"].to_list() == [None, None]
    unknown = [replace(r, score_stderr=None, metrics_stderr={}) for r in rows]
    assert trial_rows(read) == unknown
    # Below each other with tables of other metrics that have them.
    other = trials_frame([replace(row(), metrics={"b": 1.0}, metrics_stderr={"b": 0.25})], ["b"])
    both = concat_trials([read, other])
    assert both["metrics_stderr"].struct.field("b").to_list() == [None, None, 0.25]
    assert both["metrics_stderr"].struct.field("answer.em").to_list() == [None] * 3
    assert both["score_stderr"].to_list() == [None, None, 0.125]


SECONDS: TrialSeconds = {"queue": 3.0, "start": 1.5, "load": 20.0, "generate": 40.0, "lost": 0.0}


def test_costs_round_trip_and_are_null_in_tables_without_them(tmp_path: Path) -> None:
    path = tmp_path / "trials.parquet"
    rows = [row(worker="1-0", engine_starts=2, seconds=SECONDS), FAILED]
    frame = trials_frame(rows, ["answer.em"])
    atomic_write_parquet(path, frame)
    assert trial_rows(read_trials(path)) == rows
    assert [row_from_json(json.loads(json.dumps(row_to_json(r)))) for r in rows] == rows
    atomic_write_parquet(path, frame.drop("worker", "engine_starts", "seconds"))
    older = read_trials(path)
    assert older.schema == frame.schema
    unknown = {"worker": None, "engine_starts": None, "seconds": None}
    assert trial_rows(older) == [replace(r, **unknown) for r in rows]
    assert concat_trials([older, frame]).height == 4
    record = {k: v for k, v in row_to_json(rows[0]).items() if k not in unknown}
    assert row_from_json(record) == replace(rows[0], **unknown)


def test_standard_errors_survive_the_journal() -> None:
    assert row_from_json(json.loads(json.dumps(row_to_json(row())))) == row()
    older = {k: v for k, v in row_to_json(row()).items() if not k.endswith("_stderr")}
    assert row_from_json(older) == replace(row(), score_stderr=None, metrics_stderr={})


def test_a_metric_that_was_not_named_is_refused() -> None:
    with pytest.raises(ValueError, match=r"answer\.em"):
        trials_frame([row()], ["answer.f1"])
    with pytest.raises(ValueError, match=r"answer\.f1"):
        trials_frame([row(metrics_stderr={"answer.f1": 0.1})], ["answer.em"])


def test_examples_round_trip(tmp_path: Path) -> None:
    rows = [
        ExampleRow("t0", "e1", "retrieval", "m", 2, '["a"]', ("x", "y"), {"f1": 0.5}, 10, 20, 5),
        ExampleRow("t0", "e1", "answer", "n", 1, '"b"', ["z"], {"em": 1.0}, truncated=True),
    ]
    path = tmp_path / "examples.parquet"
    for some in (rows, []):
        frame = examples_frame(some, ["f1", "em"])
        atomic_write_parquet(path, frame)
        assert read_examples(path).equals(frame)
        assert frame.schema == examples_frame([], ["f1", "em"]).schema
    assert examples_frame(rows, ["f1", "em"])["metrics"].to_list() == [
        {"f1": 0.5, "em": None},
        {"f1": None, "em": 1.0},
    ]


def test_what_is_no_table_of_trials_is_named(tmp_path: Path) -> None:
    good = tmp_path / "good.parquet"
    atomic_write_parquet(good, trials_frame([row()], ["answer.em"]))
    examples = examples_frame([], ["em"])
    text_score = trials_frame([row()], ["answer.em"]).with_columns(pl.col("score").cast(pl.String))
    odd_state = trials_frame([row()], ["answer.em"]).with_columns(pl.lit("DONE").alias("state"))
    cases: dict[str, bytes | pl.DataFrame] = {
        "empty": b"",
        "text": b"hello, world: this is no table",
        "cut short": good.read_bytes()[:-30],
        "these columns are missing: run": examples,
        "column 'score' is String": text_score,
        "unknown state 'DONE'": odd_state,
    }
    for name, content in cases.items():
        path = tmp_path / f"{name.replace(' ', '_')}.parquet"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.write_parquet(path)
        with pytest.raises(UserError) as caught:
            read_trials(path)
        assert str(path) in str(caught.value)
        if not isinstance(content, bytes):
            assert name in str(caught.value)
    for path in (tmp_path, tmp_path / "missing.parquet"):
        with pytest.raises(UserError, match="the file does not exist"):
            read_trials(path)


def test_columns_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    frame = trials_frame([row()], ["answer.em"])
    path = tmp_path / "trials.parquet"
    frame.with_columns(pl.lit(1).alias("new")).write_parquet(path)
    assert read_trials(path).equals(frame)


def test_a_metric_is_that_of_the_longest_stage_it_begins_with():
    stages = ["plan", "plan.check", "plan.check.again", "planner"]
    metrics = {f"{stage}.{name}": None for stage in stages for name in ("f1", "a.b")}
    for stage in stages:
        assert stage_metrics(metrics, stage, stages) == {"f1": None, "a.b": None}
    assert stage_metrics({"plan.check.f1": 1.0}, "plan", ["plan"]) == {"check.f1": 1.0}
