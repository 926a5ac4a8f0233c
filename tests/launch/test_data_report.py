"""What was read of the data and which bad records were skipped: in the plan, at launch, and in
the run.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttts.errors import UserError
from agenttts.launch.description import describe_plan
from agenttts.launch.plan import make_plan
from agenttts.spec import load_spec

BUILT_IN = Path(__file__).parents[2] / "agenttts" / "tasks" / "data" / "twohop.jsonl"


@pytest.fixture
def damaged(tmp_path):
    """The built-in questions under a key of a document, four of them bad."""
    rows = [json.loads(line) for line in BUILT_IN.read_text().splitlines()]
    for position in (1, 3, 5, 7):
        rows[position]["answers"] = [" "] if position == 1 else []
    path = tmp_path / "questions.json"
    path.write_text(json.dumps({"version": 3, "questions": rows}, indent=1))
    return path, len(rows)


def test_a_run_tells_what_it_skipped(cli, scripted_spec, tmp_path, damaged):
    path, count = damaged
    spec = scripted_spec(task__data="./questions.json", task__skip_bad=4)
    planned = cli("launch", spec, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    line = f"data: {path}: {count} records under 'questions', 4 of them bad and skipped (task.skip_bad: 4)\n"
    assert line in planned.stdout
    assert planned.stdout.count("skipped: ") == 3
    assert "(record 2 of 'questions'): field 'answers' must be" in planned.stdout
    assert "and 1 more" in planned.stdout

    document = json.loads(cli("launch", spec, "--dry-run", "--json").stdout)["task"]
    [source] = document["data"]
    assert (document["skip_bad"], source["skipped"], source["records"]) == (4, 4, count)
    assert (source["source"], source["key"], source["notes"]) == (str(path), "questions", [])
    assert len(source["reasons"]) == 3

    started = cli("launch", spec, "--wait")
    assert started.returncode == 0, started.stderr
    assert line in started.stdout
    run = tmp_path / "results" / "small"
    record = json.loads((run / "run.json").read_text())
    assert (record["skip_bad"], record["data"]) == (4, [source])
    bad = {json.loads(line)["question"] for number, line in enumerate(BUILT_IN.read_text().splitlines()) if number in (1, 3, 5, 7)}  # fmt: skip
    frozen = [json.loads(line) for line in (run / "examples.jsonl").read_text().splitlines()]
    assert len(frozen) == 8
    assert not bad & {example["data"]["question"] for example in frozen}

    again = cli("launch", spec, "--json")
    assert json.loads(again.stdout)["data"] == [source]
    assert line in cli("launch", spec).stdout
    other = cli("launch", spec, "--set", "task.skip_bad=5")
    assert (other.returncode, "task.skip_bad was 4, is 5" in other.stderr) == (2, True)


def test_more_than_that_is_an_error_here_and_in_a_dry_run(cli, scripted_spec, damaged):
    path, count = damaged
    for changes in ({}, {"task__skip_bad": 3}):
        spec = scripted_spec(task__data="./questions.json", **changes)
        for arguments in ((), ("--dry-run",)):
            done = cli("launch", spec, *arguments)
            assert done.returncode == 2
            assert done.stderr.startswith(f"agenttts-hpc: {path}:")
            assert f"bad records: 4 of {count}; skip_bad, now {len(changes) * 3}, is how many" in done.stderr  # fmt: skip
            assert "Traceback" not in done.stderr
            assert done.stderr.count("\n") == 1


def test_a_sound_file_is_told_in_the_plan_alone(cli, scripted_spec):
    count = len(BUILT_IN.read_text().splitlines())
    planned = cli("launch", scripted_spec(), "--dry-run").stdout
    assert f"data: builtin:twohop: {count} records\n" in planned
    assert "skipped" not in planned


@pytest.mark.parametrize(
    ("value", "expected"),
    [("-1", "task.skip_bad: .*greater than or equal to 0, not -1"), ("true", "task.skip_bad: .*not True"), ("'2'", "task.skip_bad: .*not '2'"), ("1.5", "task.skip_bad: .*not 1.5")],
)  # fmt: skip
def test_how_many_is_a_whole_number(scripted_spec, value, expected):
    with pytest.raises(UserError, match=expected):
        load_spec(scripted_spec(), [f"task.skip_bad={value}"])
    with pytest.raises(UserError, match=r"task.skipbad: unknown key; .*did you mean 'skip_bad'"):
        load_spec(scripted_spec(), ["task.skipbad=1"])


def test_every_split_that_is_read_is_reported(tmp_path, scripted_spec):
    """A test split of its own hub split, with bad records of its own."""
    pytest.importorskip("datasets")
    import polars as pl

    rows = [json.loads(line) for line in BUILT_IN.read_text().splitlines()]
    for split, some in (("train", rows[:12]), ("validation", rows[20:40])):
        folder = tmp_path / "set" / "default" / split
        folder.mkdir(parents=True)
        some[0]["answers"] = []
        pl.DataFrame(some).write_parquet(folder / "0000.parquet")
    spec = load_spec(
        scripted_spec(
            task__data=f"hf:{tmp_path}/set@refs/convert/parquet",
            task__skip_bad=1,
            search__test_split={"split": "train", "examples": 4},
        )
    )
    plan = make_plan(spec, [tmp_path], tmp_path / "results", dry_run=True)
    sources = describe_plan(plan)["task"]["data"]
    assert [(s["source"].split("split ")[1], s["records"], s["skipped"]) for s in sources] == [("'validation'", 20, 1), ("'train'", 12, 1)]  # fmt: skip


def test_paths_of_data_and_aliases_are_taken_from_the_folder_of_the_spec(tmp_path, scripted_spec):
    (tmp_path / "a.jsonl").touch()
    for name in ("d.tsv", "d.ndjson", "d.csv", "d.parquet", "d.csv.gz"):
        spec = load_spec(scripted_spec(task__data=name, task__options={"aliases": "a.jsonl"}))
        assert spec.task.data == str(tmp_path / name)
        assert spec.task.options["aliases"] == str(tmp_path / "a.jsonl")


def test_a_test_split_that_a_search_may_have_used_says_so(cli, scripted_spec):
    spec = scripted_spec(task__split="test", task__examples=3)
    said = "  split 'test' begins after half of the records"
    assert said in cli("launch", spec, "--dry-run").stdout
    allocation = "retrieval=weak x1, answer=strong x2"
    assert said in cli("evaluate", spec, "--allocation", allocation, "--wait").stdout
    for setting in ("task.split=search", "task.options.search_examples=8"):
        planned = cli("launch", spec, "--dry-run", "--set", setting)
        assert planned.returncode == 0, planned.stderr
        assert "split 'test'" not in planned.stdout


def test_a_search_and_its_finalists_stay_out_of_the_test_split(cli, scripted_spec):
    spec = scripted_spec(task__options={"search_examples": 10}, search__finalists={"examples": 11})
    refused = cli("launch", spec, "--dry-run")
    assert refused.returncode == 2
    said = " ".join(refused.stderr.split())
    assert "search.finalists.examples: " in said
    assert "the option search_examples leaves those after 10 to split 'test'" in said
    assert cli("launch", spec, "--dry-run", "--set", "search.finalists.examples=10").returncode == 0
