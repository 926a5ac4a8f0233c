"""What a report holds, and its JSON document."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agenttts.errors import UserError
from agenttts.loop.reports import report_of
from agenttts.report import build_report
from agenttts.report.story import trials_grid
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.record import RUN_FILE
from agenttts.tables.aggregate import bootstrap_interval
from agenttts.tables.cost import RunCost
from agenttts.tables.schema import TrialRow, TrialState, read_examples
from agenttts.trial.result import EXAMPLES_FILE
from tests.support.written_runs import START

MakeRun = Callable[..., Path]
MakeTrial = Callable[..., TrialRow]


def document(*runs: Path, **options: Any) -> dict[str, Any]:
    """The report's document, through JSON and back."""
    text = json.dumps(build_report(runs, **options).as_dict(), allow_nan=False)
    return json.loads(text)  # type: ignore[no-any-return]


def test_a_finished_run(make_run: MakeRun) -> None:
    path = make_run()
    found = document(path, guidelines={path: ["more samples"], Path("other"): ["none"]})
    (run,) = found["runs"]
    assert (run["run"], run["path"], run["finished"]) == ("demo", str(path), True)
    assert run["states"] == {"COMPLETED": 4, "FAILED": 1}
    assert run["guidelines"] == ["more samples"]
    assert run["totals"]["trials"] == 5
    assert run["totals"]["gpu_hours"] == pytest.approx(0.15)
    assert run["totals"]["wall_seconds"] == 300.0

    # Of the two scores of 0.5 the lower budget is better, though it came later.
    assert run["best"]["trial"] == "t0005"
    assert run["best"]["confidence"]["low"] < 0.5 < run["best"]["confidence"]["high"]
    assert found["best"] == run["best"]

    assert [t["best_so_far"] for t in run["trace"]] == [0.25, 0.5, 0.5, 0.5]
    assert [t["trial"] for t in run["trace"]] == ["t0001", "t0003", "t0004", "t0005"]
    assert [p["trial"] for p in run["pareto"]["budget"]] == ["t0004", "t0001", "t0005"]
    assert set(run["pareto"]) == {"budget", "tokens", "gpu_seconds"}

    first, failed = run["trials"][:2]
    assert first["started"] == "2026-01-02T03:04:05.678901Z"
    assert first["metrics"] == {"retrieval.f1": 0.5, "answer.em": 0.25}
    assert first["allocation"][0] == {"stage": "retrieval", "model": "qwen-7b", "samples": 1}
    assert (failed["state"], failed["score"]) == ("FAILED", None)
    assert failed["metrics"] == {"retrieval.f1": None, "answer.em": None}


def test_a_run_without_a_table_yet(make_run: MakeRun) -> None:
    found = document(make_run(rows=None, events=[{"event": "started"}]))
    (run,) = found["runs"]
    assert (run["finished"], run["states"], run["trials"]) == (False, {}, [])
    assert (run["best"], run["trace"], found["best"]) == (None, [], None)
    assert run["pareto"] == {"budget": [], "tokens": [], "gpu_seconds": []}
    assert (run["totals"]["trials"], run["totals"]["wall_seconds"]) == (0, None)


REOPENED: list[dict[str, object]] = [
    {"event": "started", "time": "2026-01-02T03:04:05+00:00"},
    {"event": "resumed"},
    {"event": "retried", "earlier": {}},
    {"event": "extended", "sections": {}, "record": {}, "changes": {}, "trials": 0},
]


@pytest.mark.parametrize("event", REOPENED, ids=lambda event: event["event"])
def test_a_run_that_goes_on_after_its_end_is_not_over(make_run: MakeRun, event) -> None:
    path = make_run(rows=None, events=[{"event": "ended", "outcome": "cancelled"}, event])
    assert read_state(path / "journal.jsonl").finished is None
    assert document(path)["runs"][0]["finished"] is False


def test_a_run_all_of_whose_trials_failed(make_run: MakeRun, trial: MakeTrial) -> None:
    rows = [trial(i, None, 10.0, state=TrialState.OOM, error="out of memory") for i in range(3)]
    path = make_run(rows=rows, metrics=())
    (run,) = document(path)["runs"]
    assert (run["states"], run["best"]) == ({"OOM": 3}, None)
    assert run["trials"][0]["metrics"] == {}
    assert build_report([path]).runs[0].failures == [
        {"state": "OOM", "error": "out of memory", "trials": ["t0000", "t0001", "t0002"]}
    ]


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ([], None),
        (["started"], None),
        (["started", "ended"], "done"),
        (["started", "ended", "started"], None),
    ],
)
def test_a_run_is_over_when_its_journal_says_so_last(
    events: list[str], outcome: str | None, make_run: MakeRun
) -> None:
    path = make_run(events=[{"event": e, "outcome": "done"} for e in events])
    with (path / "journal.jsonl").open("a") as journal:
        journal.write('{"event": "sta')  # the controller is at it
    assert build_report([path]).runs[0].outcome == outcome


def test_runs_with_other_metrics(make_run: MakeRun, trial: MakeTrial) -> None:
    one = make_run("one")
    rows = [trial(1, 0.75, 10.0, metrics={"code.passes": 0.75})]
    two = make_run("two", rows=rows, metrics=["code.passes"], examples=False)
    found = document(one, two, make_run("three", rows=[]))
    assert [run["run"] for run in found["runs"]] == ["one", "two", "three"]
    assert found["best"]["run"] == "two"
    assert "confidence" not in found["best"]
    assert build_report([one, two]).trials["metrics"].struct.fields == [
        "retrieval.f1",
        "answer.em",
        "code.passes",
    ]


def test_the_best_of_runs_with_one_score_is_the_cheaper(
    make_run: MakeRun, trial: MakeTrial
) -> None:
    dear = make_run("dear", rows=[trial(1, 0.5, 20.0)])
    cheap = make_run("cheap", rows=[trial(2, 0.5, 10.0)])
    assert document(dear, cheap)["best"]["run"] == "cheap"


def test_scores_that_are_no_numbers_stay_out_of_json(make_run: MakeRun, trial: MakeTrial) -> None:
    (run,) = document(make_run(rows=[trial(1, float("nan"), 10.0)], examples=False))["runs"]
    assert run["trials"][0]["score"] is None
    assert run["best"] is None


def test_what_is_no_run_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: the run directory does not exist"):
        build_report([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: not a run"):
        build_report([tmp_path / "empty"])
    damaged = make_run()
    (damaged / "trials.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"trials\.parquet: cannot be read"):
        build_report([damaged])
    odd = make_run("odd")
    (odd / "spec.yaml").write_text("a: [1")
    with pytest.raises(UserError, match=r"spec\.yaml: cannot be read as YAML"):
        build_report([odd])


def _at(minutes: float) -> str:
    return (START + timedelta(minutes=minutes)).isoformat()


DAY = 24 * 60


@pytest.mark.parametrize(
    ("events", "minutes"),
    [
        ([("started", 0), ("ended", 6), ("extended", DAY - 2), ("started", DAY)], 5 + 6),
        # Refused at the first try.
        (
            [
                *(("started", 0), ("ended", 6), ("resumed", 60), ("ended", 61)),
                *(("resumed", DAY - 1), ("started", DAY)),
            ],
            5 + 6,
        ),
        (
            [
                *(("started", 0), ("ended", 6), ("started", 66), ("ended", 126)),
                *(("started", DAY), ("ended", DAY + 6)),
            ],
            5 + 6 + 60,
        ),
        # A controller that another one replaced: the jobs may have run on.
        ([("started", 0), ("started", DAY)], DAY + 5),
        # No rest is after the last trial.
        ([("started", 0), ("ended", DAY + 6), ("started", 2 * DAY)], DAY + 5),
    ],
)
def test_a_run_and_its_trials_take_no_time_at_rest(
    make_run: MakeRun, trial: MakeTrial, events: list[tuple[str, float]], minutes: float
) -> None:
    late = {"started": START + timedelta(days=1), "finished": START + timedelta(days=1, minutes=5)}
    again = {**late, "started": START}
    rows = [trial(5, 0.5, 1.0), trial(6, 0.5, 1.0, **late), trial(7, 0.5, 1.0, **again)]
    written = [{"event": event, "time": _at(moment), "outcome": "done"} for event, moment in events]
    run = document(make_run(rows=rows, events=written))["runs"][0]
    assert run["totals"]["wall_seconds"] == pytest.approx(60 * minutes)
    [report] = build_report([make_run("other", rows=rows, events=written)]).runs
    grid = trials_grid(report)
    assert grid is not None
    assert grid.keys["time"] == [300.0, 300.0, pytest.approx(60 * minutes)]


@pytest.mark.parametrize(
    ("seen", "command", "spans", "minutes"),
    [
        (None, "resumed", [], DAY + 5),  # of an older version
        (6, "resumed", [], 6 + 5),
        (6, "profile_changed", [], 6 + 5),
        # An event after the last sign.
        (6, "submitted", [], DAY - 1 + 5),
        (6, "resumed", [(2, 16), (10, 26), (DAY - 4, DAY - 2)], 26 + 2 + 5),
        (6, "resumed", [(-9, -3), (2, DAY + 5)], DAY + 5),
        ("soon", "resumed", [], DAY + 5),
    ],
)
def test_the_time_after_a_controller_that_was_killed_is_a_rest_while_no_job_runs(
    make_run: MakeRun, trial: MakeTrial, seen, command, spans, minutes
) -> None:
    late = {"started": START + timedelta(days=1), "finished": START + timedelta(days=1, minutes=5)}
    rows = [trial(5, 0.5, 1.0), trial(6, 0.5, 1.0, **late)]
    started = {"event": "started", "time": _at(DAY)}
    if seen is not None:
        started["seen"] = seen if isinstance(seen, str) else _at(seen)
    before = [{"event": "started", "time": _at(0)}, {"event": "submitted", "time": _at(1)}]
    path = make_run(rows=rows, events=[*before, {"event": command, "time": _at(DAY - 1)}, started])
    moments = [tuple(START + timedelta(minutes=m) for m in span) for span in spans]
    cost = RunCost([], 0, spans=moments)
    [report] = build_report([path], costs={path: cost}).runs
    assert report.totals["wall_seconds"] == pytest.approx(60 * minutes)


@pytest.mark.parametrize("time", [None, "soon", "2026-01-02T03:04:05"])
def test_an_end_at_an_unknown_time_begins_no_rest(make_run: MakeRun, time: str | None) -> None:
    events = [{"event": "ended", "time": time}, {"event": "started", "time": _at(3)}]
    assert document(make_run(events=events))["runs"][0]["totals"]["wall_seconds"] == 300.0


def test_the_interval_is_of_the_metric_that_the_run_names(
    make_run: MakeRun, trial: MakeTrial, finished_run
) -> None:
    """Metrics with equal means are not told apart by their values."""
    run = RunDirectory(make_run(rows=[trial(1, 0.5, 1.0)], events=REOPENED[:1]))
    place = run.trial("t0001") / EXAMPLES_FILE
    record = json.loads((finished_run() / RUN_FILE).read_text())
    examples = read_examples(place)
    intervals = {m: bootstrap_interval(examples, m) for m in ("answer.em", "retrieval.f1")}
    assert intervals["answer.em"] != intervals["retrieval.f1"]
    for name, interval in intervals.items():
        run.record_file.write_text(json.dumps({**record, "main_metric": name}))
        assert report_of([run]).runs[0].interval == interval
    # Runs of versions that did not name it.
    run.record_file.write_text(json.dumps({**record, "main_metric": ""}))
    assert report_of([run]).runs[0].interval == intervals["answer.em"]
    run.record_file.unlink()
    assert report_of([run]).runs[0].interval == intervals["answer.em"]
