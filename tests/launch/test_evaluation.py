"""``evaluate``: one allocation as a run of its own."""

from __future__ import annotations

import json

import pytest

from agenttts.run.directory import RunDirectory
from tests.support.runs import table

OWN = "retrieval=weak x3, answer=strong x2"


def test_one_allocation_is_evaluated_and_nothing_else(cli, scripted_spec, tmp_path):
    path = scripted_spec(
        search__finalists={"examples": 9, "top": 2}, search__test_split={"examples": 1}
    )
    done = cli("evaluate", path, "--allocation", OWN, "--name", "mine", "--wait")
    assert done.returncode == 0, done.stderr
    [row] = table(tmp_path / "results/mine").iter_rows(named=True)
    assert [(c["model"], c["samples"]) for c in row["allocation"]] == [("weak", 3), ("strong", 2)]
    assert (row["source"], row["state"], row["examples"]) == ("first", "COMPLETED", 8)
    [*_, last] = done.stdout.strip().splitlines()
    assert last.startswith(f"weak×3 → strong×2: score {row['score']:.4f} [")
    report = json.loads(cli("report", "mine", "--format", "json").stdout)
    assert report["best"]["score"] == row["score"]


@pytest.mark.parametrize("text", ["answer = strong×2 ,retrieval=weak x3", "retrieval=weak X3,answer=strong x 2"])  # fmt: skip
def test_spaces_and_order_do_not_matter_and_the_same_run_is_continued(
    cli, scripted_spec, tmp_path, text
):
    for given in (OWN, text):
        done = cli("evaluate", scripted_spec(), "--allocation", given, "--json", "--wait")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["created"] == (given == OWN)
    [run] = (tmp_path / "results").iterdir()
    assert run.name.startswith("small-eval-")
    assert table(run).height == 1


def test_the_examples_are_the_user_s(cli, scripted_spec, tmp_path):
    done = cli("evaluate", scripted_spec(), "--allocation", OWN, "--examples", "5", "--name", "five", "--wait")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert table(tmp_path / "results/five")["examples"].to_list() == [5]


def test_an_allocation_over_the_budget_is_evaluated_all_the_same(cli, scripted_spec, tmp_path):
    own = "retrieval=strong x40, answer=strong x40"
    done = cli("evaluate", scripted_spec(), "--allocation", own, "--name", "dear", "--wait")
    assert done.returncode == 0, done.stderr
    assert table(tmp_path / "results/dear")["budget"][0] > 80


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("retrieval=weak x3", "no choice for answer"),
        ("retrieval=weak x3, answer=string x2", "did you mean 'strong'?"),
        ("retrieval=weak x3, ansver=strong x2", "did you mean 'answer'?"),
        ("retrieval=weak x3, answer=strong x999", "stage 'answer' does not allow 999 samples"),
        ("retrieval=weak x3, answer=strong", "'strong' is not a model and a number of samples"),
        ("retrieval=weak x3, answer=strong x0", "stage 'answer'"),
        ("retrieval=weak x3, retrieval=weak x2, answer=strong x1", "given twice"),
        ("weak x3", "'weak x3' is not the choice of a stage"),
        ("", "is not the choice of a stage"),
        (",", "is not the choice of a stage"),
    ],
)
def test_a_wrong_allocation_is_one_sentence(cli, scripted_spec, tmp_path, given, said):
    done = cli("evaluate", scripted_spec(), "--allocation", given)
    assert done.returncode == 2
    assert "--allocation: " in done.stderr
    assert said in " ".join(done.stderr.split())
    assert not (tmp_path / "results").exists()


def test_it_needs_an_allocation_and_a_spec(cli, scripted_spec):
    assert cli("evaluate", scripted_spec()).returncode == 2
    assert cli("evaluate", "nowhere.yaml", "--allocation", OWN).returncode == 2
    assert cli("evaluate", scripted_spec(), "--allocation", OWN, "--examples", "0").returncode == 2


@pytest.mark.parametrize(
    ("setting", "key", "said"),
    [
        ("search.iterations=9", "search.iterations", "evaluate takes budget and seed"),
        ("search.method=grid", "search.method", "would have no effect; leave it out"),
        ("search.stored=true", "search.stored", "would have no effect"),
        ("search.examples=4", "search.examples", "--examples N gives"),
        ("search.examples.first=4", "search.examples.first", "--examples N gives"),
        ("search.finalists.examples=9", "search.finalists.examples", "would have no effect"),
        ("search.test_split=test", "search.test_split", "--set task.split=test takes"),
        ("search.first[0].answer=weak x1", "search.first[0].answer", "would have no effect"),
        ("search={budget: 70, batch_size: 2}", "search.batch_size", "would have no effect"),
        ("agent={kind: scripted, replies: r.json}", "agent", "asks no language model"),
    ],
)
def test_a_setting_without_effect_is_refused(cli, scripted_spec, tmp_path, setting, key, said):
    path = scripted_spec(search__first=[{"retrieval": "weak x1", "answer": "weak x2"}])
    done = cli("evaluate", path, "--allocation", OWN, "--set", setting)
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert f": {key}: " in told
    assert said in told
    assert not (tmp_path / "results").exists()


def test_two_numbers_of_examples_are_refused(cli, scripted_spec, tmp_path):
    given = ("evaluate", scripted_spec(), "--allocation", OWN, "--set", "task.examples=6")
    done = cli(*given, "--examples", "5")
    assert done.returncode == 2
    assert "task.examples: --examples gives another number" in " ".join(done.stderr.split())
    assert cli(*given, "--examples", "6", "--name", "six", "--wait").returncode == 0
    assert table(tmp_path / "results/six")["examples"].to_list() == [6]


def test_settings_with_an_effect_are_taken(cli, scripted_spec, tmp_path):
    settings = ("search={budget: 70, seed: 5}", "task.examples=4", "search.iterations=0", "agent=none")  # fmt: skip
    words = [word for setting in settings for word in ("--set", setting)]
    done = cli("evaluate", scripted_spec(), "--allocation", OWN, "--name", "set", "--wait", *words)
    assert done.returncode == 0, done.stderr
    [row] = table(tmp_path / "results/set").iter_rows(named=True)
    assert row["examples"] == 4
    assert RunDirectory(tmp_path / "results/set").spec().search.seed == 5


def test_one_example_has_no_interval(cli, scripted_spec):
    done = cli("evaluate", scripted_spec(), "--allocation", OWN, "--examples", "1", "--wait")
    [*_, last] = done.stdout.strip().splitlines()
    assert " (over 1 example of retrieval_qa), budget" in last
    assert "interval" not in last
