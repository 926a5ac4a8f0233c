"""The terminal's table and the page show the same things."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agenttts.loop.reports import report_of
from agenttts.report import build_report, render, write_plain_page
from agenttts.report.contents import comparison, duration, number, run_contents
from agenttts.report.figures.best import progress_figure
from agenttts.report.figures.choice import insight_figures, pareto_figures, progress_figures
from agenttts.report.figures.drawing import svg
from agenttts.report.render_html import render_html
from agenttts.report.render_table import sparkline, tables_text
from agenttts.run.directory import RunDirectory
from agenttts.space import Allocation, Choice
from agenttts.tables.cost import AloneCost, CostSeconds, JobCost, RunCost, ServedCost
from agenttts.tables.forecast import Forecast, Span
from agenttts.tables.schema import TrialRow
from tests.support.written_runs import START

MakeRun = Callable[..., Path]
MakeTrial = Callable[..., TrialRow]
VOID = {"meta", "link", "img"}


class Nesting(HTMLParser):
    """Fails on a tag that closes what is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_table_shows_what_was_found(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    report = build_report([path := make_run()], guidelines={path: ["[b]few[/b] samples"]})
    render(report, "table")
    text = capsys.readouterr().out
    for expected in (
        "done; task retrieval_qa, search agenttts, budget 1,000, seed 7",
        "5 trials: 4 COMPLETED, 1 FAILED",
        "best allocation: t0005, score 0.5000 [",
        "em 0.5000",
        "Pareto front: score against GPU-seconds",
        "qwen-7b×3 → llama[3b]×6",
        "ValueError: <b>no such [/red] thing</b>",
        "- [b]few[/b] samples",
    ):
        assert expected in text
    assert "\x1b" not in text


def test_many_runs_are_compared(make_run: MakeRun, trial: Callable[..., TrialRow]) -> None:
    better = make_run("better", rows=[trial(1, 0.75, 10.0)])
    report = build_report([make_run(), better, make_run("fresh", rows=None)])
    for text in (tables_text(report), render_html(report)):
        assert "better *" in text
        assert "no trial has finished yet" in text


def test_runs_of_one_name_are_told_apart_by_path(make_run: MakeRun, tmp_path: Path) -> None:
    one, two = make_run(), make_run("../elsewhere/demo")
    text = render_html(build_report([one, two]))
    assert str(one) in text
    assert str(two) in text


def test_runs_of_one_name_keep_what_is_theirs(make_run: MakeRun, trial: MakeTrial) -> None:
    def events(number: int) -> list[dict[str, object]]:
        records = trial(number, 0.5, 1.0).allocation.to_records()
        told = {"iteration": 1, "guidelines": [f"of {number}"], "recommended": records}
        return [{"event": "started", "time": "2026-01-02"}, {"event": "told", **told}]

    paths = make_run(events=events(1)), make_run("../elsewhere/demo", events=events(2))
    report = report_of([RunDirectory(path) for path in paths])
    assert [run.guidelines for run in report.runs] == [("of 1",), ("of 2",)]
    assert [run.recommended and run.recommended[0]["samples"] for run in report.runs] == [1, 2]


def test_the_page_stands_alone_and_escapes(make_run: MakeRun) -> None:
    page = render_html(
        build_report([path := make_run()], guidelines={path: ["<script>x</script>"]})
    )
    own, end = page.split('<script id="library">')
    own += end.split("</script>", 1)[1]  # the library has addresses in its texts
    assert not re.search(r"https?:|//[a-z]|src=|href=\"(?!#|data:,)|url\((?!#)|@import", own)
    assert "<script>x" not in page
    assert "&lt;b&gt;no such [/red] thing" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    parser = Nesting()
    parser.feed(page)
    assert parser.open == []
    assert {"svg", "table", "figure", "section"} <= parser.seen
    specs = json.loads(re.findall(r'id="specs">(.*?)</script>', page)[0])
    assert set(specs) == set(re.findall(r'<figure id="([^"]+)"', page)) != set()
    ids = re.findall(r' id="([^"]+)"', own)
    assert len(ids) == len(set(ids)), "figures on a page do not share the ids of their parts"


def test_the_page_shows_the_numbers_and_names_of_its_figures(
    make_run: MakeRun, trial: MakeTrial
) -> None:
    rows = [
        trial(i, 0.6 + i / 250, 10.0 * i, allocation=Allocation((Choice("a", model, i),)))
        for i, model in enumerate(('gemma-1.0625 >id="b', "url(#1.23456789)", "c") * 3, 1)
    ]
    report = build_report([make_run(rows=rows)])
    [run] = report.runs
    page = re.sub(r"<script.*?</script>", "", render_html(report), flags=re.S)
    shown = re.findall(r"<text[^>]*>(.*?)</text>", page)
    figures = [*progress_figures([run], [run.run]), *pareto_figures(run), *insight_figures(run)]
    drawn = [text for each in figures for text in re.findall(r"<text[^>]*>(.*?)</text>", svg(each))]
    assert {"0.605", "0.610"} < set(drawn)
    assert any("gemma-1.0625" in text for text in drawn)
    assert set(drawn) <= set(shown)
    assert not re.search(r' transform="[^"]*\.\d{3}', page), "coordinates are short"


def test_the_answer_comes_first_and_sections_follow(make_run: MakeRun) -> None:
    page = render_html(build_report([path := make_run()], guidelines={path: ["few samples"]}))
    names = re.findall(r"<h3>(.*?)</h3>", page)
    assert names == [
        *("Answer", "Best score so far", "Score against cost", "What models and samples bring"),
        *("The search", "Failures", "All trials"),
    ]
    assert '<table class="sortable">' in page


def test_times_are_sorted_by_their_seconds(make_run: MakeRun, trial: MakeTrial) -> None:
    minutes = [1 / 60, 59 / 60, 4, 59.5, 60, 125]
    rows = [
        trial(n, 0.5, 1.0, finished=START + timedelta(minutes=m)) for n, m in enumerate(minutes)
    ]
    rows.append(trial(9, None, 1.0, started=None, finished=None))
    page = render_html(build_report([make_run(rows=rows)]))
    cells = re.findall(r'<td[^>]* data-sort="([^"]*)">(.*?)</td>', page)
    assert [float(key) for key, _ in cells] == [1, 59, 240, 3570, 3600, 7500]
    assert [text for _, text in cells][1:] == ["59.0 s", "4 min 00 s", "59 min 30 s", "1 h 00 min", "2 h 05 min"]  # fmt: skip


def test_a_page_of_many_trials_or_runs_stays_small(make_run: MakeRun, trial: MakeTrial) -> None:
    rows = [
        trial(i, (i * 37 % 101) / 101, 10.0 + i % 90, score_stderr=0.02) for i in range(1, 3001)
    ]
    page = render_html(build_report([make_run(rows=rows, examples=False)]))
    assert len(page.encode()) < 5_000_000
    assert "The 2,000 best of 3,000 trials" in page
    runs = [make_run(f"run{i}", rows=rows[:60], examples=False) for i in range(13)]
    page = render_html(build_report(runs))
    assert len(page.encode()) < 5_000_000
    assert "More than 12 runs" in page


@pytest.mark.parametrize("rows", [None, []], ids=["no table", "no rows"])
@pytest.mark.parametrize("form", ["table", "html"])
def test_a_run_is_shown_before_its_first_trial_has_ended(
    make_run: MakeRun, rows: list[TrialRow] | None, form: str, tmp_path: Path
) -> None:
    path = make_run(rows=rows)
    some = Span(1.0, 2.0)
    seconds = CostSeconds(queue=50.0)
    job = JobCost("j", ("1",), ("n",), 1, 1, 0, 0, seconds, seconds, 0)
    forecast = Forecast(some, some, some, some, some)
    cost = RunCost([job], 0, forecast=forecast)
    out = tmp_path / "out"
    render(build_report([path], costs={path: cost}), form, out)
    assert "expected at launch" in out.read_text()


@pytest.mark.parametrize(("gpus", "hours"), [(1, "1.5 GPU-hours"), (0, "0 GPU-hours")])
def test_the_report_says_what_a_served_model_used(make_run: MakeRun, gpus: int, hours: str) -> None:
    path = make_run()
    seconds = CostSeconds(generate=3600.0)
    job = JobCost("j", ("1",), ("n",), gpus, 1, 1, 1, seconds, seconds.times(gpus), 0)
    served = ServedCost(5400.0, 5400.0 * gpus)
    alone = AloneCost(1, 2, 7200.0, 7200.0 * gpus)
    cost = RunCost([job], 0, alone, served=served)
    text = tables_text(build_report([path], costs={path: cost}), width=1000)
    assert f"without the search's own model ({hours} in 1 h 30 min of jobs)" in text
    assert "this run took " + ("1 GPU-hours and 1" if gpus else "1 h 00 min and 1") in text
    assert " and 1 engine start, without the search's own model (estimated" in text
    waited = replace(cost, served=replace(served, queue=600.0))
    text = tables_text(build_report([path], costs={path: waited}), width=1000)
    assert "1 h 30 min of jobs, which waited 10 min 00 s)" in text
    text = tables_text(build_report([path], costs={path: replace(cost, served=ServedCost())}))
    assert "own model" not in text


def test_a_report_has_one_number_of_gpu_hours(make_run: MakeRun) -> None:
    paths = [make_run(), make_run("other")]
    seconds = CostSeconds(queue=7.0, start=100.0, generate=700.0, idle=800.0)
    job = JobCost("j", ("1",), ("n",), 4, 1, 1, 1, seconds, seconds.times(4), 0)
    some = Span(1.0, 2.0)
    cost = RunCost(
        [job], 0, AloneCost(1, 2, 7200.0, 7200.0), Forecast(some, some, some, some, some)
    )
    report = build_report(paths, costs=dict.fromkeys(paths, cost))
    assert report.runs[0].totals["gpu_hours"] != pytest.approx(report.runs[0].gpu_hours)
    contents = run_contents(report.runs[0], "")
    [line] = [line for line in contents.lines if " wall time" in line]
    assert ", 1.78 GPU-hours, " in line
    assert any("this run took 1.78 GPU-hours" in line for line in contents.lines)
    expected = next(grid for grid in contents.costs if "expected at launch" in grid.columns)
    assert expected.rows[0][2] == "1.78"
    table = comparison(report)
    column = table.columns.index("GPU-hours")
    assert [row[column] for row in table.rows] == ["1.78", "1.78"]
    # With a served model, the run's total has its GPU-hours too.
    served = replace(cost, served=ServedCost(3600.0, 3600.0))
    report = build_report(paths, costs=dict.fromkeys(paths, served))
    assert comparison(report).rows[0][column] == "2.78"


def test_a_run_without_records_of_jobs_has_the_gpu_hours_of_its_trials(make_run: MakeRun) -> None:
    [run] = build_report([make_run()]).runs
    assert run.gpu_hours == run.totals["gpu_hours"] > 0


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.5]) == "▁"
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█" or sparkline([0.0, 0.5, 1.0]) == "▁▄█"
    long = sparkline([float(i) for i in range(1000)])
    assert len(long) == 60
    assert long[-1] == "█"


def test_quantities() -> None:
    assert [number(v) for v in (None, 0.0, 2.84, 12.34, 1234567.0)] == [
        *("-", "0", "2.84", "12.3", "1,234,567")
    ]
    assert [duration(v) for v in (None, 5.0, 61.0, 7260.0)] == [
        *("-", "5.0 s", "1 min 01 s", "2 h 01 min")
    ]


def test_half_a_character_in_a_guideline_is_a_question_mark(
    make_run: MakeRun, tmp_path: Path
) -> None:
    report = build_report([path := make_run()], guidelines={path: ["few \ud83d samples"]})
    write_plain_page(report, tmp_path / "report.html")
    assert "few ? samples" in (tmp_path / "report.html").read_text()


def test_the_latest_guidelines_come_first_with_their_iteration(make_run: MakeRun) -> None:
    told = ("pursue small", "pursue large", "few samples")
    [run] = build_report([path := make_run()], guidelines={path: told}).runs
    assert run_contents(run, "demo").guidelines == told, "of an old journal"
    dated = replace(run, guidelines_from={"pursue small": -1, "pursue large": 3, "few samples": 0})
    assert run_contents(dated, "demo").guidelines == (
        "after iteration 3: pursue large",
        "after iteration 0: few samples",
        "before iteration 0 was over: pursue small",
    )


def test_lines_of_runs_that_coincide_are_told_apart(make_run: MakeRun) -> None:
    runs = build_report([make_run("a"), make_run("b")]).runs
    for shown, dashed in ((runs, True), (runs[:1], False)):
        figure = progress_figure(shown, [run.run for run in shown], "trials", "best")
        assert figure is not None
        [line] = [part for part in figure.spec["layer"] if part["mark"].get("type") == "line"]
        assert ("strokeDash" in line["encoding"]) is dashed
        if dashed:
            first, second = line["encoding"]["strokeDash"]["scale"]["range"]
            assert first != second
