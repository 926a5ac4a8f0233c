"""The terminal's table and the page show the same things."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agenttts.report import build_report, render
from agenttts.report.contents import duration, number
from agenttts.report.render_html import render_html
from agenttts.report.render_table import sparkline, tables_text
from agenttts.tables.schema import TrialRow

MakeRun = Callable[..., Path]
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
    report = build_report([make_run()], guidelines={"demo": ["[b]few[/b] samples"]})
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


def test_the_page_stands_alone_and_escapes(make_run: MakeRun) -> None:
    page = render_html(build_report([make_run()], guidelines={"demo": ["<script>x</script>"]}))
    assert not re.search(r"https?:|//|src=|href=|url\((?!#)|@import|<script", page)
    assert "&lt;b&gt;no such [/red] thing" in page
    assert "prefers-color-scheme: dark" in page
    parser = Nesting()
    parser.feed(page)
    assert parser.open == []
    assert {"svg", "table", "figure"} <= parser.seen


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
