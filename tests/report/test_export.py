"""Every format, on standard output and in a file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest

from agenttts.errors import UserError
from agenttts.replay.table import load_table
from agenttts.report import build_report, render
from agenttts.report.export import ReportFormat, flat_table, format_of
from agenttts.space import Allocation, Choice, Model, SearchSpace, Stage
from agenttts.tables.schema import TrialRow, trials_frame

MakeRun = Callable[..., Path]
MakeTrial = Callable[..., TrialRow]
FORMATS: tuple[Any, ...] = get_args(ReportFormat)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rows", [None, (), "some"], ids=["no table", "no rows", "rows"])
def test_every_format_to_a_file(form: Any, rows: Any, make_run: MakeRun, tmp_path: Path) -> None:
    path = make_run() if rows == "some" else make_run(rows=rows)
    out = tmp_path / "out"
    render(build_report([path]), form, out)
    assert out.stat().st_size > 0
    if rows != "some" and form in ("table", "html"):
        assert "no trial has finished yet" in out.read_text(encoding="utf-8")


def test_json_on_standard_output_is_one_document(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    report = build_report([make_run()])
    render(report, "json")
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(report.as_dict()))


def test_csv_has_a_row_a_trial_and_flat_columns(make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "trials.csv"
    render(build_report([make_run()]), "csv", out)
    table = pl.read_csv(out)
    assert table.columns == [
        *("run", "trial", "iteration", "source", "state", "score", "score_stderr", "budget"),
        *("retrieval.model", "retrieval.samples", "answer.model", "answer.samples"),
        *("retrieval.f1", "answer.em", "started", "finished", "gpu_seconds"),
        *("prompt_tokens", "decode_tokens", "reused_tokens", "job_id", "attempts", "error"),
        *("cut_share", "worker", "engine_starts", "examples", "seconds.queue", "seconds.start"),
        *("seconds.load", "seconds.generate", "seconds.lost"),
        *("cut_share.retrieval", "cut_share.answer"),
        *("metrics_stderr.retrieval.f1", "metrics_stderr.answer.em"),
    ]
    assert table["score"].to_list() == [0.25, None, 0.5, 0.0, 0.5]
    assert table["answer.samples"].to_list() == [2, 4, 6, 8, 10]
    assert table["started"][0] == "2026-01-02T03:04:05.678901Z"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_replay_takes_the_table(form: Any, make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / f"trials.{form}"
    render(build_report([make_run()]), form, out)
    counts = tuple(range(1, 21))
    space = SearchSpace(
        (
            Stage("retrieval", (Model("qwen-7b", 7e9),), 100, 10, counts),
            Stage("answer", (Model("llama[3b]", 3e9),), 100, 10, counts),
        ),
        1000.0,
    )
    recorded = load_table(out, space)
    result = recorded.trial(space, space.allocation(("qwen-7b", 3), ("llama[3b]", 6)))
    assert (result.score, set(result.metrics)) == (0.5, {"retrieval.f1", "answer.em"})
    failed = recorded.trial(space, space.allocation(("qwen-7b", 2), ("llama[3b]", 4)))
    assert failed.score is None


def test_runs_with_other_stages_and_metrics_share_one_table(
    make_run: MakeRun, trial: MakeTrial
) -> None:
    one = make_run("one", rows=[trial(1, 0.5, 1.0)])
    two = make_run("two", rows=[trial(1, 0.7, 1.0, metrics={"c.z": 0.7})], metrics=["c.z"])
    table = flat_table(build_report([one, two]).trials)
    assert table["run"].to_list() == ["one", "two"]
    assert table["c.z"].to_list() == [None, 0.7]
    assert table["answer.em"].to_list() == [0.5, None]


def test_rows_of_runs_of_one_name_have_their_paths(make_run: MakeRun, tmp_path: Path) -> None:
    one, two = make_run(), make_run("../elsewhere/demo")
    out = tmp_path / "trials.csv"
    render(build_report([one, two, make_run("other")]), "csv", out)
    runs = pl.read_csv(out, glob=False)["run"].unique(maintain_order=True)
    assert runs.to_list() == [str(one), str(two), "other"]


def test_a_metric_called_like_a_column_keeps_apart(trial: MakeTrial) -> None:
    names = ["score", "answer.model", "seconds.load", "cut_share.answer"]
    rows = [trial(1, 0.5, 1.0, metrics=dict.fromkeys(names, 0.25))]
    table = flat_table(trials_frame(rows, names))
    assert (table["score"][0], table["metrics.score"][0]) == (0.5, 0.25)
    assert (table["answer.model"][0], table["metrics.answer.model"][0]) == ("llama[3b]", 0.25)
    assert {"seconds.load", "metrics.seconds.load", "cut_share.answer"} <= {*table.columns}


def test_a_stage_called_like_a_column_keeps_apart(trial: MakeTrial) -> None:
    stages = ("cut_share", "model", "metrics_stderr")
    allocation = Allocation(tuple(Choice(stage, "m", 3) for stage in stages))
    cut = [{"stage": stage, "cut": 1, "samples": 4} for stage in stages]
    names = ["metrics_stderr.model"]
    rows = [trial(1, 0.5, 1.0, allocation=allocation, cut_samples=cut, metrics={names[0]: 0.5})]
    table = flat_table(trials_frame(rows, names))
    assert (table["cut_share.model"][0], table["trial.cut_share.model"][0]) == ("m", 0.25)
    assert table["metrics_stderr.model"][0] == "m"
    assert table["metrics_stderr.metrics_stderr.model"][0] is None


def test_what_cannot_be_written_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    report = build_report([make_run()])
    for out in (tmp_path / "no" / "report.json", tmp_path):
        with pytest.raises(UserError, match="the report cannot be written") as caught:
            render(report, "json", out)
        assert str(out) in str(caught.value)
    with pytest.raises(UserError, match="unknown format 'jsn'; valid: table, json"):
        render(report, "jsn", None)  # type: ignore[arg-type]


def test_a_device_is_written_to_not_replaced(make_run: MakeRun) -> None:
    render(build_report([make_run()]), "csv", Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


def test_parquet_wants_a_file_or_a_pipe(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    report = build_report([make_run()])
    render(report, "parquet")
    assert pl.read_parquet(io.BytesIO(capfdbinary.readouterr().out)).height == 5
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(UserError, match="--out"):
        render(report, "parquet")


@pytest.mark.parametrize(
    ("out", "form"),
    [(None, "table"), ("x", "table"), ("x.txt", "table"), ("x.csv", "csv"), ("X.HTML", "html"), ("x.htm", "html"), ("x.parquet", "parquet"), ("x.json", "json")],
)  # fmt: skip
def test_the_name_of_the_file_tells_the_format(out: str | None, form: str) -> None:
    assert format_of(Path(out) if out else None) == form


@pytest.mark.parametrize(
    ("out", "words"),
    [("x.pdf", "--figures DIR"), ("x.xlsx", "give one with --format; valid: table")],
)
def test_a_name_without_a_format_says_how_it_is_given(out: str, words: str) -> None:
    with pytest.raises(UserError, match=f"--out {out}: .*{words}"):
        format_of(Path(out))
