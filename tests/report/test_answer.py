"""The answer of a run: the allocation, how sure it is, and what an example costs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agenttts.report import build_report
from agenttts.report.answer import answer, enough_grid
from agenttts.report.background import Background
from agenttts.report.contents import run_contents
from agenttts.report.render_html import render_html
from agenttts.report.render_table import tables_text
from agenttts.report.summary import Report
from agenttts.space import Allocation, Choice
from agenttts.tables.confidence import Confidence
from agenttts.tables.insights import Expected, Rival
from agenttts.tables.schema import TrialState
from tests.support.outlooks import small_outlook
from tests.support.written_runs import trial


def run_of(make_run, rows, **told):
    path = make_run(rows=rows)
    return build_report([path], **{what: {path: value} for what, value in told.items()}).runs[0]


def test_the_recommended_allocation_with_its_score_and_cost(make_run):
    rows = [
        trial(1, 0.5, 100.0, score_stderr=0.1, examples=20, gpu_seconds=40.0),
        trial(2, 0.9, 200.0),
    ]
    records = rows[0].allocation.to_records()
    told = {
        "recommended": records,
        "backgrounds": Background(outlook=small_outlook()),
    }
    found = answer(run_of(make_run, rows, **told))
    assert found is not None
    assert (found.allocation, found.unscored) == ("qwen-7b×1 → llama[3b]×2", "")
    assert [row[:3] for row in found.stages.rows] == [("retrieval", "qwen-7b", "1"), ("answer", "llama[3b]", "2")]  # fmt: skip
    facts = dict(found.facts)
    assert facts["measured score"] == "0.5000 ± 0.196 on 20 examples (t0001)"
    assert facts["tokens of one example"] == "55, prompts included"
    assert facts["GPU time of one example"].startswith("2 s ")
    # The trial's own, too, where an earlier attempt had stored them.
    assert facts["GPU time of one example"].endswith("reused from the sample store")
    assert facts["budget of one example"] == "100 units", "the spec has no stages"
    assert "by the model of all trials" in facts["expected score"]


def test_a_large_cost_of_an_example_is_written_out(make_run):
    rows = [trial(1, 0.5, 1.23e4, examples=2, gpu_seconds=12_345.0)]
    told = {"recommended": rows[0].allocation.to_records()}
    found = answer(run_of(make_run, rows, **told))
    assert found is not None
    facts = dict(found.facts)
    assert facts["budget of one example"] == "12,300 units"
    assert facts["GPU time of one example"].startswith("6,172 s ")


def test_the_flops_are_those_of_the_tokens_of_every_stage(make_run):
    """A budget leaves out a prompt of 128 tokens for each stage."""
    row = trial(1, 0.5, 0.0)
    choices = row.allocation.to_records()
    path = make_run(rows=[row])
    settings = {
        "models": {choice["model"]: {"params": 3e9} for choice in choices},
        "stages": {
            choice["stage"]: {"prompt_tokens": 100, "decode_tokens": 16} for choice in choices
        },
    }
    (path / "spec.yaml").write_text(json.dumps(settings))
    found = answer(build_report([path]).runs[0])
    assert found is not None
    tokens = sum(100 + 16 * choice["samples"] for choice in choices)
    assert (
        dict(found.facts)["budget of one example"] == f"0 units ({6e9 * tokens / 1e12:.3g} TFLOPs)"
    )


def test_an_untried_recommendation_says_so(make_run):
    other = trial(9, 0.1, 1.0).allocation.to_records()
    found = answer(run_of(make_run, [trial(1, 0.5, 100.0)], recommended=other))
    assert found is not None
    assert found.unscored == "no trial has evaluated it"
    assert dict(found.facts) == {"measured score": "none: no trial has evaluated it"}


@pytest.mark.parametrize("state", [TrialState.OOM, TrialState.TIMEOUT])
def test_a_recommendation_whose_trial_failed_says_so(state, make_run):
    tried = trial(6, None, 100.0, state=state)
    rows = [trial(1, 0.5, 100.0), tried]
    run = run_of(make_run, rows, recommended=tried.allocation.to_records())
    found = answer(run)
    assert found is not None
    assert found.unscored == f"t0006 {state.value}, no score"
    assert dict(found.facts) == {"measured score": f"none: {found.unscored}"}
    assert f"Recommended allocation ({found.unscored})" in render_html(Report((run,)))
    assert f"llama[3b]×12 ({found.unscored})" in tables_text(Report((run,)))
    document = run.as_dict()["recommended"]
    assert (document["trial"], document["score"]) == ("t0006", None)


def test_a_recommendation_that_failed_once_has_its_score(make_run):
    failed, scored = trial(6, None, 100.0), trial(7, 0.4, 100.0)
    scored = replace(scored, allocation=failed.allocation)
    run = run_of(make_run, [scored, failed], recommended=failed.allocation.to_records())
    found = answer(run)
    assert found is not None
    assert found.unscored == ""
    assert run.as_dict()["recommended"]["trial"] == "t0007"


def finals(*numbers: int):
    """A search whose trials are those of finalists again, the best one being another than in it."""
    first, second = trial(1, 0.9, 100.0), trial(2, 0.8, 200.0)
    rows = [first, second]
    for number, row in ((3, first), (4, second)):
        score = 0.1 * numbers[number - 3]
        rows.append(replace(row, trial=f"t{number:04d}", score=score, source="finalist"))
    return rows


SURE = Confidence(0.02, 0.9, 0.01)


def test_the_best_finalist_is_what_is_recommended_everywhere(make_run):
    rows = finals(5, 7)
    told = {"recommended": rows[0].allocation.to_records(), "confidences": SURE}
    run = run_of(make_run, rows, **told)
    assert run.best is not None
    assert run.best["trial"] == "t0004"
    document = run.as_dict()["recommended"]
    assert (document["trial"], document["score"]) == ("t0004", pytest.approx(0.7))
    assert document["allocation"] == run.best["allocation"] == rows[1].allocation.to_records()
    assert document["confidence"] is None, "what the search is sure of is another allocation"
    text = " ".join(tables_text(Report((run,))).split())
    assert "recommended: qwen-7b×2 → llama[3b]×4 (t0004, score 0.7000): the best finalist" in text
    assert "the search recommended qwen-7b×1 → llama[3b]×2 (t0001, score 0.9000) before" in text
    assert f"by the search's scores, its recommendation is {SURE}" in text
    assert run.result_trial is not None
    assert run.result_trial["trial"] == "t0002", "where the Pareto figure has its diamond"


def test_a_finalist_that_the_search_recommends_too_is_named_once(make_run):
    rows = finals(7, 5)
    run = run_of(make_run, rows, recommended=rows[0].allocation.to_records(), confidences=SURE)
    document = run.as_dict()["recommended"]
    assert (document["trial"], document["confidence"]["probability"]) == ("t0003", 0.9)
    text = " ".join(tables_text(Report((run,))).split())
    assert "recommended: qwen-7b×1 → llama[3b]×2 (t0003, score 0.7000): the best finalist" in text
    assert f"the recommended allocation is {SURE}" in text
    assert "the search recommended" not in text


def test_the_best_finalist_of_a_search_that_recommends_nothing(make_run):
    document = run_of(make_run, finals(7, 5)).as_dict()["recommended"]
    assert (document["trial"], document["confidence"]) == ("t0003", None)


def test_without_a_recommendation_the_best_trial_answers(make_run):
    found = answer(run_of(make_run, [trial(1, 0.5, 100.0), trial(2, 0.9, 200.0)]))
    assert found is not None
    assert found.allocation == "qwen-7b×2 → llama[3b]×4"


def test_without_a_score_there_is_no_answer(make_run):
    assert answer(run_of(make_run, [trial(1, None, 100.0)])) is None


@pytest.mark.parametrize(
    ("ahead", "says"),
    [
        (Expected(0.1, 0.01), "better by 0.1000 [0.0804, 0.1196] than m×1"),
        (Expected(-0.1, 0.01), "worse by 0.1000 [0.0804, 0.1196] than m×1"),
        (Expected(-0.0006, 0.01), "not to be told apart: worse by 0.0006 [-0.0190, 0.0202]"),
        (Expected(0.1, 0.2), "not to be told apart: better by 0.1000"),
    ],
)
def test_the_verdict_follows_from_the_interval(ahead, says, make_run):
    outlook = replace(small_outlook(), rival=Rival("m×1", ahead))
    run = run_of(make_run, [trial(1, 0.5, 100.0)], backgrounds=Background(outlook=outlook))
    found = answer(run)
    assert found is not None
    assert dict(found.facts)["against the best other"].startswith(says)


def test_the_saturation_table_has_a_row_for_each_stage_and_model():
    outlook = small_outlook()
    grid = enough_grid(outlook)
    assert [row[:2] for row in grid.rows] == [(c.stage, c.model) for c in outlook.curves]
    assert [row[4] for row in grid.rows] == [str(c.enough) for c in outlook.curves]
    assert [row[2] for row in grid.rows] == ["2", "3", "3", "2"], "the trials of each model"
    fewer = replace(outlook, curves=[replace(c, trials=c.trials * 2) for c in outlook.curves])
    assert enough_grid(fewer) == grid, "whatever points are beside the curves"


def test_the_metrics_of_stages_whose_names_begin_alike(make_run):
    records = Allocation((Choice("plan", "m", 1), Choice("plan.check", "m", 2)))
    metrics = {"plan.f1": 0.25, "plan.check.em": 0.5}
    rows = [trial(1, 0.5, 100.0, allocation=records, metrics=metrics)]
    run = build_report([make_run(rows=rows, metrics=list(metrics))]).runs[0]
    found = answer(run)
    assert found is not None
    assert [row[3] for row in found.stages.rows] == ["f1 0.2500", "em 0.5000"]
    best = run_contents(run, "any").best
    assert best is not None
    assert [row[3] for row in best.rows] == ["f1 0.2500", "em 0.5000"]
