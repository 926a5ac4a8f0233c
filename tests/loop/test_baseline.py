"""The user's baseline: one of the own allocations, which all is compared with."""

from __future__ import annotations

import json
from statistics import fmean

import pytest

from agenttts.spec import load_spec
from agenttts.tables.schema import read_examples
from tests.support.runs import table

POOR = {"retrieval": "weak x1", "answer": "weak x1"}
OTHER = {"retrieval": "weak x2", "answer": "weak x3"}


@pytest.fixture
def launched(finished_run):
    def make(name="small", **changes):
        return finished_run(name, **{"search__iterations": 1, "task__examples": 24} | changes)

    return make


def by_example(run, trial):
    rows = read_examples(run / "trials" / trial / "examples.parquet").filter(stage="answer")
    return dict(zip(rows["example"], rows["metrics"].struct.field("em"), strict=True))


def test_the_report_says_how_the_recommended_allocation_does_against_it(launched, cli):
    run = launched(search__first=[OTHER, {**POOR, "baseline": True}])
    [found] = json.loads(cli("report", "small", "--format", "json").stdout)["runs"]
    baseline = found["baseline"]
    assert [(c["model"], c["samples"]) for c in baseline["allocation"]] == [("weak", 1)] * 2
    assert baseline["trial"] == "t0001"
    assert not baseline["same_allocation"]
    own = by_example(run, found["recommended"]["trial"])
    other = by_example(run, "t0001")
    expected = fmean(own[example] - other[example] for example in own)
    assert baseline["score"]["difference"] == pytest.approx(expected)
    assert baseline["score"]["paired"]
    assert baseline["score"]["verdict"] == "better"
    assert baseline["tokens"]["verdict"] == "worse", "it takes more tokens"
    text = " ".join(cli("report", "small").stdout.split())
    assert "against the baseline: better than weak×1 → weak×1 (t0001) in score by +" in text
    assert "worse in tokens of one example by +" in text
    page = cli("report", "small", "--format", "html").stdout
    assert "against the baseline" in page


def test_two_runs_are_compared_by_their_baselines(launched, cli):
    launched("one", search__first=[{**POOR, "baseline": True}])
    launched("two", search__first=[{**OTHER, "baseline": True}])
    found = json.loads(cli("compare", "one", "two", "--of", "baseline", "--json").stdout)
    assert (found["first"]["of"], found["first"]["trial"]) == ("baseline", "t0000")
    assert found["second"]["allocation"][1]["samples"] == 3
    launched("three")
    done = cli("compare", "one", "three", "--of", "baseline")
    assert done.returncode == 2
    assert "run 'three' has no baseline" in done.stderr


def test_a_run_without_one_says_nothing_of_it(launched, cli):
    launched(search__first=[OTHER])
    [found] = json.loads(cli("report", "small", "--format", "json").stdout)["runs"]
    assert found["baseline"] is None
    assert "against the baseline" not in cli("report", "small").stdout


def test_the_best_allocation_may_be_the_baseline(launched, cli):
    launched(
        search__first=[{**OTHER, "baseline": True}],
        search__method="random",
        search__iterations=0,
        search__stored=False,
    )
    [found] = json.loads(cli("report", "small", "--format", "json").stdout)["runs"]
    assert found["baseline"]["same_allocation"]
    assert "is the baseline" in " ".join(cli("report", "small").stdout.split())


def test_the_mark_survives_the_run_s_own_spec(launched):
    run = launched(search__first=[OTHER, {**POOR, "baseline": True}])
    section = load_spec(run / "spec.yaml").search
    assert section.baseline == 1
    assert [set(choices) for choices in section.first] == [{"retrieval", "answer"}] * 2


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"first": [{**POOR, "baseline": True}, {**OTHER, "baseline": True}]}, "search.first[1].baseline: entry 0 is marked as the baseline too"),
        ({"first": [{**POOR, "baseline": "yes"}]}, "search.first[0].baseline: 'yes' is not valid"),
        ({"first": [POOR], "baseline": 1}, "search.baseline: 1 is not the position"),
        ({"baseline": 0}, "search.baseline: 0 is not the position"),
        ({"first": [{"baseline": True}]}, "no choice for retrieval, answer"),
    ],
)  # fmt: skip
def test_a_wrong_mark_is_one_sentence(cli, scripted_spec, search, said):
    path = scripted_spec(**{f"search__{key}": value for key, value in search.items()})
    done = cli("launch", path, "--dry-run")
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


def test_false_marks_nothing(launched, cli):
    launched(search__first=[{**OTHER, "baseline": False}])
    [found] = json.loads(cli("report", "small", "--format", "json").stdout)["runs"]
    assert found["baseline"] is None


def test_a_lost_table_of_examples_costs_only_the_comparison(launched, cli):
    run = launched(search__first=[{**POOR, "baseline": True}])
    (run / "trials" / "t0000" / "examples.parquet").unlink()
    [found] = json.loads(cli("report", "small", "--format", "json").stdout)["runs"]
    assert found["baseline"] is None
    assert table(run).height == len(found["trials"])
