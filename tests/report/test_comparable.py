"""Warnings where the scores of several runs cannot be compared."""

from __future__ import annotations

import pytest

from agenttts.report import build_report
from agenttts.report.background import Background, Provenance
from agenttts.report.comparable import comparison_warnings
from agenttts.report.contents import comparison
from agenttts.tables.schema import FINALIST_SOURCE
from tests.support.written_runs import trial

MODEL = ("m", "vllm", "/models/m", "abc")


def made(examples="e1", model=MODEL, score="answer.em", holds="h1"):
    contents = {model[0]: holds} if holds else {}
    facts = {"score": score}
    return Background(Provenance(facts, (model,), {"examples.jsonl": examples}, contents))


def warnings_of(make_run, *backgrounds):
    names = [f"run{i}" for i in range(len(backgrounds))]
    paths = [make_run(name) for name in names]
    told = dict(zip(paths, backgrounds, strict=True))
    report = build_report(paths, backgrounds=told)
    return comparison_warnings(report.runs, names)


def test_equal_runs_have_no_warning(make_run):
    assert warnings_of(make_run, made(), made()) == []


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (made(), made(model=("m", "vllm", "/elsewhere/m", "def"))),
        # Older versions recorded names, sizes and times of the files alone.
        (made(holds=""), made(model=("m", "vllm", "/elsewhere/m", "abc"), holds="")),
        (made(), made(holds="")),
    ],
)
def test_copies_of_a_model_are_the_same_model(one, two, make_run):
    assert warnings_of(make_run, one, two) == []


def test_one_run_has_no_warning(make_run):
    assert warnings_of(make_run, made()) == []


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (made(examples="e2"), "the runs are on different examples"),
        (
            made(holds="h2"),
            "the runs have different models: run0; run1",
        ),
        (
            made(model=("m", "vllm", "/elsewhere/m", "def"), holds=""),
            "the runs have different models or copies of the same (an older version launched one",
        ),
        (made(score="answer.f1"), "different main metrics"),
    ],
)
def test_what_differs_is_named(other, says, make_run):
    [warning] = warnings_of(make_run, made(), other)
    assert says in warning
    assert warning.endswith("run0; run1")


def test_what_is_not_known_is_said(make_run):
    found = warnings_of(make_run, made(), Background())
    assert any("different examples" in w and "nothing is known of run1" in w for w in found)


def test_no_run_is_starred_where_the_best_scores_are_on_other_numbers_of_examples(make_run):
    def shown(*rows):
        paths = [make_run(f"run{len(rows)}{i}", rows=[row]) for i, row in enumerate(rows)]
        report = build_report(paths)
        warnings = comparison_warnings(report.runs, report.titles)
        return report, [w for w in warnings if w.startswith("the best scores are on")]

    many, few = trial(1, 0.9, 1.0, examples=20), trial(1, 1.0, 1.0, examples=4)
    again = trial(1, 0.8, 1.0, examples=20, source=FINALIST_SOURCE)
    report, [warning] = shown(many, few, again)
    assert "run30 (20 examples of the search); run31 (4 examples of the search)" in warning
    assert "run32 (20 examples of the finalists)" in warning
    assert report.best_run is None
    assert report.as_dict()["best"] is None
    assert [row[3] for row in comparison(report).rows] == ["20", "4", "20"]
    assert "*" not in str(comparison(report))
    report, warnings = shown(many, trial(1, 0.95, 1.0, examples=20))
    assert (report.best_run, warnings) == (report.runs[1], [])
    assert "run21 *" in str(comparison(report))
