"""The final test's trials and the language model in tables and reports."""

from __future__ import annotations

import json

import pytest

from agenttts.cli.status_texts import status_line
from agenttts.report import build_report, render
from agenttts.report.contents import allocation_text, comparison
from agenttts.report.render_table import tables_text
from agenttts.tables.aggregate import (  # fmt: skip
    best_so_far,
    best_trial,
    by_source,
    held_out,
    pareto_front,
    scored,
    summarise_runs,
)
from agenttts.tables.schema import TEST_SOURCE, trials_frame

METRICS = ("retrieval.f1", "answer.em")


def rows(trial):
    return [
        trial(1, 0.4, 100.0),
        trial(2, 0.6, 200.0, source="agent", iteration=1),
        trial(3, 0.5, 150.0, source="agent-repaired", iteration=1),
        # Better and cheaper than any of the search: it must not count.
        trial(4, 0.9, 200.0, source=TEST_SOURCE, iteration=2, allocation=trial(2, 0.6, 1).allocation),
        trial(5, None, 100.0, source=TEST_SOURCE, iteration=2, allocation=trial(1, 0.6, 1).allocation),
    ]  # fmt: skip


def test_no_comparison_counts_the_final_test(trial):
    frame = trials_frame(rows(trial), METRICS)
    assert best_trial(frame)["trial"] == "t0002"
    assert best_so_far(frame)["best_so_far"].to_list() == [0.4, 0.6, 0.6]
    assert pareto_front(frame, "budget")["trial"].to_list() == ["t0001", "t0003", "t0002"]
    assert scored(frame).height == 3
    totals = summarise_runs(frame).row(0, named=True)
    assert (totals["trials"], totals["scored"], totals["best"]) == (5, 3, 0.6)
    assert totals["gpu_seconds"] == 36 * 15, "what it took is part of what the run took"
    assert held_out(frame)["trial"].to_list() == ["t0004", "t0005"]
    assert by_source(frame) == {"initial": 1, "agent": 1, "agent-repaired": 1, "test": 2}


AGENT = {
    "model": "some-model", "calls": 9, "replies": 6, "failed": {"timeout": 2, "http": 1},
    "prompt_tokens": 12000, "completion_tokens": 800, "seconds": 75.0,
    "decisions": {"valid": 4, "repaired": 1, "duplicate": 3},
    "repairs": [{"allocation": [{"stage": "answer", "model": "m", "samples": 3}], "notes": ["[its] budget was over"]}],
    "fallbacks": ["timeout: no answer in 120 s"], "served": [], "damaged_lines": [],
}  # fmt: skip


def test_the_report_shows_both_scores_and_what_the_model_did(make_run, trial, tmp_path, capsys):
    report = build_report([path := make_run(rows=rows(trial))], agents={path: AGENT})
    out = tmp_path / "report"
    render(report, "json", out)
    [run] = json.loads(out.read_text())["runs"]
    assert [(t["trial"], t["search_score"], t["score"]) for t in run["test"]] == [
        ("t0004", 0.6, 0.9),
        ("t0005", 0.4, None),
    ]
    assert run["test"][0]["confidence"]["low"] <= 0.9
    assert run["agent"] == AGENT
    for form in ("table", "html"):
        render(report, form, out)
        text = " ".join(out.read_text().split())
        for part in (
            "1 agent-repaired", "9 calls (2 timeout, 1 http failed)", "4 valid, 1 repaired, 3 duplicate",
            "[its] budget was over", "1 batch without the language model: timeout", "final test on held-out examples",
            "0.6000", "0.9000",
        ):  # fmt: skip
            assert part in text, (form, part)


def test_without_model_and_final_test_nothing_is_said_of_them(make_run, tmp_path):
    out = tmp_path / "report"
    render(build_report([make_run()]), "table", out)
    assert "agent:" not in out.read_text()
    assert "final test" not in out.read_text()


def test_a_test_score_is_never_shown_as_another_allocation_s(make_run, trial):
    of = {name: trial(name, 0.5, 1).allocation for name in (1, 2)}
    searched = [trial(1, 0.6, 100.0), trial(2, 0.5, 90.0)]

    def test(number, score, name):
        return trial(number, score, 90.0, source=TEST_SOURCE, iteration=2, allocation=of[name])

    def shown(name, *tests):
        built = build_report([make_run(name, rows=[*searched, *tests])])
        grid = comparison(built)
        text = grid.rows[0][grid.columns.index("test score")]
        found = [
            {"score": row["score"], "allocation": row["allocation"]} for row in built.runs[0].tests
        ]
        document = {
            "trials": {}, "best": built.runs[0].best, "outcome": "done", "test": found,
            "iteration": 0, "iterations": 1, "finishing": False, "ended_early": False,
        }  # fmt: skip
        return text, status_line(document)

    other = allocation_text(of[2].to_records())
    text, line = shown("both", test(3, 0.3, 2), test(4, 0.7, 1))
    assert text.startswith("0.7000")
    assert other not in text
    assert "; test 0.700; over" in line
    text, line = shown("other", test(3, 0.3, 2))
    assert text.startswith("0.3000")
    assert text.endswith(f"({other})")
    assert f"; test 0.300 ({other}); over" in line


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_several_runs_fit_the_terminal_with_their_names(make_run, trial, width):
    paths = [make_run(name, rows=rows(trial)) for name in ("first-run", "second-run")]
    text = tables_text(build_report(paths), width)
    table = text.split("first-run ───")[0].splitlines()
    assert all(len(line) <= width for line in table)
    assert all(any(name in line for line in table) for name in ("first-run", "second-run"))
    words = [word for line in table for word in line.split()]
    # Numbers, intervals and allocations are whole.
    for whole in ("0.6000", "200", "6,500", "0.15", "qwen-7b×2", "llama[3b]×4"):
        assert words.count(whole) >= 2, whole
