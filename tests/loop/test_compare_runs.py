"""``compare`` on finished runs: verdicts, what differs, and what cannot be compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml

from agenttts.tables.schema import read_examples
from tests.support.runs import table


@pytest.fixture
def launched(finished_run):
    """A run that is over: ``launched("a", search__seed=2)`` returns its directory."""

    def make(name: str, **changes: object) -> Path:
        settings = {"task__examples": 12, "search__iterations": 1} | changes
        run: Path = finished_run(name, **settings)
        return run

    return make


@pytest.fixture
def compared(cli):
    def make(*arguments: str) -> dict[str, Any]:
        done = cli("compare", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    return make


def test_runs_that_differ_only_in_the_seed_are_not_to_be_told(launched, compared, cli):
    launched("one", task__examples=40)
    launched("two", task__examples=40, search__seed=2)
    found = compared("one", "two")
    assert found["score"]["verdict"] == "not to be told"
    # The seed also draws the examples, and 27 of the 40 are common.
    assert (found["score"]["paired"], found["score"]["examples"]) == (True, 27)
    assert [part["key"] for part in found["settings"]] == ["search.seed"]
    text = cli("compare", "one", "two").stdout
    assert text.startswith("one against two: not to be told apart\n")
    assert "setting: search.seed: 1 against 2" in text
    assert "GPU-hours" in text


def test_a_larger_budget_is_better_by_the_difference_of_the_means(launched, compared, cli):
    large = launched("large", task__examples=40)
    small = launched("small", task__examples=40, search__budget=6)
    found = compared("large", "small")
    score = found["score"]
    assert score["verdict"] == "better"
    assert 0 < score["low"] < score["difference"] < score["high"]
    scores = [
        dict(table(run).select("trial", "score").iter_rows())[found[side]["trial"]]
        for run, side in ((large, "first"), (small, "second"))
    ]
    assert score["difference"] == pytest.approx(scores[0] - scores[1])
    assert found["first"]["budget"] > found["second"]["budget"]
    assert found["tokens"]["verdict"] == "worse", "it takes more tokens"
    assert found["tokens"]["difference"] == pytest.approx(
        found["first"]["tokens_per_example"] - found["second"]["tokens_per_example"]
    )
    assert compared("small", "large")["score"]["verdict"] == "worse"
    assert (found["same_allocation"], found["only_chance"]) == (False, False)
    assert "search.budget" in [part["key"] for part in found["settings"]]
    assert "difference +" in cli("compare", "large", "small").stdout


def test_a_run_and_its_copy_have_the_same_allocation(launched, compared, cli):
    run = launched("one")
    shutil.copytree(run, run.parent / "copy")
    found = compared("one", "copy")
    assert found["same_allocation"]
    assert found["only_chance"]
    assert found["score"]["difference"] == 0
    assert found["score"]["more_examples"] is None
    text = cli("compare", "one", "copy").stdout
    assert "both have the same allocation: " in text
    assert "a difference of their scores is chance" in text
    assert "more examples" not in text, "none would tell"


def test_trials_on_parts_of_the_examples_are_compared_on_common_ones(launched, compared):
    parts = launched("parts", search__examples={"first": 4, "most": 8})
    whole = launched("whole")
    found = compared("parts", "whole")
    one, two = (
        dict(zip(rows["example"], rows["metrics"].struct.field("em"), strict=True))
        for run, side in ((parts, "first"), (whole, "second"))
        for trial in [found[side]["trial"]]
        for rows in [
            read_examples(run / "trials" / trial / "examples.parquet").filter(stage="answer")
        ]
    )
    assert len(one) < len(two) == 12
    assert (found["score"]["paired"], found["score"]["examples"]) == (True, len(one))
    expected = fmean(one[example] - two[example] for example in one)
    assert found["score"]["difference"] == pytest.approx(expected)


def test_fewer_examples_are_compared_where_they_are_common(launched, compared):
    launched("many")
    launched("few", task__examples=8)
    found = compared("many", "few")
    assert (found["score"]["paired"], found["score"]["examples"]) == (True, 8)
    assert any("only the 8 common examples" in warning for warning in found["warnings"])


def test_other_examples_are_not_compared_in_pairs(launched, compared):
    launched("one")
    run = launched("two")
    file = run / "examples.jsonl"
    file.write_text(file.read_text().replace('"id": "', '"id": "other-'))
    found = compared("one", "two")
    assert not found["score"]["paired"]
    assert any("0 common examples" in warning for warning in found["warnings"])


def test_a_final_test_is_compared_where_both_have_one(launched, compared):
    changes: dict[str, object] = {"search__test_split": {"examples": 6}}
    launched("one", **changes)
    launched("two", search__budget=70, **changes)
    found = compared("one", "two")
    assert (found["first"]["of"], found["kind"]) == ("recommended", "test")
    assert found["score"]["examples"] == 6
    assert not any("too high" in warning for warning in found["warnings"])


def test_the_best_finalist_is_the_result_that_is_tested_and_compared(launched, compared, cli):
    """Its recommendation is made another one, as where finalists disagree with the search."""
    changes: dict[str, object] = {
        "search__finalists": {"examples": 18, "top": 2},
        "search__test_split": {"examples": 6},
        "search__first": [{"retrieval": "weak x1", "answer": "weak x1", "baseline": True}],
    }
    run = launched("one", **changes)
    [report] = json.loads(cli("report", "one", "--format", "json").stdout)["runs"]
    best = report["finalists"][0]["allocation"]
    other = next(row["allocation"] for row in report["trials"] if row["allocation"] != best)
    journal = run / "journal.jsonl"
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    for event in events:
        if event.get("recommended"):
            event["recommended"] = other
    journal.write_text("".join(f"{json.dumps(event)}\n" for event in events))

    found = compared("one", "one")
    assert (found["first"]["of"], found["kind"]) == ("best", "test")
    assert found["first"]["allocation"] == best
    [report] = json.loads(cli("report", "one", "--format", "json").stdout)["runs"]
    assert report["recommended"]["allocation"] == best
    assert report["baseline"]["of"] == "best"
    page = cli("report", "one", "--format", "html").stdout
    assert "<p>Best finalist</p>" in page
    assert "recommended by the search" in page
    assert "was chosen on these examples" in page


def test_other_model_files_are_warned_of(launched, compared, scripted_spec):
    launched("one")
    run = launched("two")
    record = json.loads((run / "run.json").read_text())
    record["models"]["weak"]["path"] += "-other"
    record["contents"]["weak"] = "12ab"
    record["models"]["third"] = record["models"].pop("strong")
    (run / "run.json").write_text(json.dumps(record))
    warnings = compared("one", "two")["warnings"]
    assert any("other files or options for the same models: weak" in w for w in warnings)
    assert any("only one of the runs has these models: strong, third" in w for w in warnings)


def test_copies_of_a_model_are_the_same_model(launched, compared):
    """Whether files hold the same is not known of a run of an older version."""
    launched("one")
    run = launched("two")
    record = json.loads((run / "run.json").read_text())
    record["models"]["weak"] |= {"path": "/copy/of/weak", "gpus": 3}
    (run / "run.json").write_text(json.dumps(record))
    spec = yaml.safe_load((run / "spec.yaml").read_text())
    spec["models"]["weak"]["path"] = "/copy/of/weak"
    (run / "spec.yaml").write_text(yaml.safe_dump(spec))
    found = compared("one", "two")
    assert [part["key"] for part in found["settings"]] == ["models.weak.path"]
    assert not any("models" in warning for warning in found["warnings"])
    assert found["only_chance"]
    del record["contents"]
    (run / "run.json").write_text(json.dumps(record))
    found = compared("one", "two")
    assert any("not known, because an older version" in w and w.endswith(": weak") for w in found["warnings"])  # fmt: skip
    assert not found["only_chance"]


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"options": {"base_url": "http://b/v1"}}, True),
        ({"options": {"base_url": "http://a/v1/"}}, False),
        ({"options": {"base_url": "http://b/v1"}, "revision": "8b"}, False),
        ({"options": {"base_url": "http://a/v1", "max_concurrent": 2}}, False),
    ],
)
def test_a_model_on_two_servers_is_one_if_its_revision_says_so(launched, compared, changes, warned):
    runs = launched("one"), launched("two")
    for run, more in zip(runs, ({"revision": changes.get("revision")}, changes), strict=True):
        record = json.loads((run / "run.json").read_text())
        server = {"engine": "endpoint", "path": "m", "options": {"base_url": "http://a/v1"}}
        record["models"]["weak"] |= {**server, **more}
        del record["contents"]["weak"]
        (run / "run.json").write_text(json.dumps(record))
    said = [w for w in compared("one", "two")["warnings"] if "weak" in w]
    assert len(said) == warned
    assert all("different servers" in warning for warning in said)


def test_other_tasks_and_metrics_are_errors(launched, cli):
    launched("one")
    run = launched("two")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "main_metric": "answer.f1"}))
    done = cli("compare", "one", "two")
    assert done.returncode == 2
    assert "and the score of run 'two' is answer.f1" in done.stderr
    (run / "run.json").write_text(json.dumps(record))
    spec = yaml.safe_load((run / "spec.yaml").read_text())
    spec["task"]["name"] = "chatdev"
    (run / "spec.yaml").write_text(yaml.safe_dump(spec))
    done = cli("compare", "one", "two")
    assert done.returncode == 2
    assert "has the task 'retrieval_qa' and run 'two' has 'chatdev'" in done.stderr


def test_what_has_no_scores_is_an_error_with_what_to_do(launched, cli):
    launched("one")
    run = launched("two")
    for file in run.glob("trials/*/examples.parquet"):
        file.unlink()
    done = cli("compare", "one", "two")
    assert done.returncode == 2
    assert "run 'two' has no scores by example" in done.stderr
    (run / "trials.parquet").unlink()
    done = cli("compare", "one", "two")
    assert (done.returncode, "no trial with a score yet" in done.stderr) == (2, True)


def test_a_run_that_is_not_over_is_compared_with_a_warning(launched, compared):
    launched("one")
    run = launched("two")
    journal = run / "journal.jsonl"
    lines = journal.read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["event"] != "ended"]
    journal.write_text("".join(f"{line}\n" for line in kept))
    assert any("'two' is not over" in warning for warning in compared("one", "two")["warnings"])


def test_the_best_allocation_is_compared_where_asked_or_where_none_is_recommended(
    launched, compared
):
    run = launched("one")
    asked = compared("one", "one", "--of", "best")
    rows = table(run).sort("score", "budget", descending=[True, False])
    assert asked["first"]["trial"] == rows["trial"][0]
    journal = run / "journal.jsonl"
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    for event in events:
        event.pop("recommended", None)
    journal.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    found = compared("one", "one")
    assert found["first"]["of"] == "best"
    assert any("no recommended allocation with a score" in w for w in found["warnings"])


@pytest.mark.parametrize("runs", [("one",), ("one", "two", "three")])
def test_it_takes_two_runs(cli, runs):
    done = cli("compare", *runs)
    assert done.returncode == 2
    assert f"compare takes two runs, not {len(runs)}" in done.stderr


def test_one_task_in_two_places_is_one_and_an_edited_one_is_told(launched, compared, cli):
    for run, folder, text in (("one", "/a", "x: 1\n"), ("two", "/b", "x:   1  # the same\n")):
        path = launched(run)
        spec = yaml.safe_load((path / "spec.yaml").read_text())
        spec["task"]["name"] = f"{folder}/task.yaml"
        (path / "spec.yaml").write_text(yaml.safe_dump(spec))
        (path / "task").mkdir()
        (path / "task" / "task.yaml").write_text(text)
    assert not any("task" in warning for warning in compared("one", "two")["warnings"])
    assert "different tasks" not in cli("report", "one", "two").stdout
    (path / "task" / "task.yaml").write_text("x: 2\n")
    assert "their scores are not comparable" in cli("compare", "one", "two").stderr
    assert (
        "different tasks, so their scores cannot be compared" in cli("report", "one", "two").stdout
    )
    spec["task"]["name"] = "/a/task.yaml"
    (path / "spec.yaml").write_text(yaml.safe_dump(spec))
    [warning] = [w for w in compared("one", "two")["warnings"] if "source of the task" in w]
    assert "was changed between the launches" in warning


@pytest.mark.parametrize("made", ["__pycache__/task.cpython-312.pyc", ".nfs0000a1", "own/x.pyc"])
def test_files_that_were_made_beside_a_task_do_not_make_it_another_one(launched, compared, made):
    """Trials that import a task in Python leave its bytecode in the run."""
    for run in ("one", "two"):
        path = launched(run)
        (path / "task" / "own").mkdir(parents=True)
        (path / "task" / "own" / "task.py").write_text("x = 1\n")
        file = path / "task" / made
        file.parent.mkdir(exist_ok=True)
        file.write_text(run)
    assert not any("task" in warning for warning in compared("one", "two")["warnings"])
    (path / "task" / "own" / "task.py").write_text("x = 2\n")
    assert any("source of the task" in warning for warning in compared("one", "two")["warnings"])


def test_settings_are_shown_as_in_a_spec(launched, compared, cli):
    launched("one")
    launched("two", search__examples={"first": 4})
    compared("one", "two")
    assert 'setting: search.examples: not set against {"first": 4, "most": null}' in cli("compare", "one", "two").stdout  # fmt: skip
