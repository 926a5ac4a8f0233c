"""The built-in data sets: what their generators make, and questions that can be answered."""

from __future__ import annotations

import json
import sys

import pytest

from agenttts import tasks
from agenttts.tasks.base import TaskConfig
from agenttts.tasks.loading.source import DATA_FOLDER
from benchmarks.built_in_data import make_requests, make_smallkg, make_twohop


def lines(name: str) -> list[object]:
    return [json.loads(line) for line in (DATA_FOLDER / name).read_text("utf-8").splitlines()]


def test_the_files_are_what_their_generators_make():
    assert lines("twohop.jsonl") == make_twohop.questions(make_twohop.SEED)
    assert lines("errands.jsonl") == make_requests.errands(make_requests.SEED)
    assert lines("studio.jsonl") == make_requests.studio(make_requests.SEED)
    made = make_smallkg.records(make_smallkg.SEED)
    assert json.loads((DATA_FOLDER / "smallkg.json").read_text("utf-8")) == made


def test_several_worlds_are_other_questions_after_those_of_the_built_in_file(tmp_path, monkeypatch):
    out = tmp_path / "new" / "worlds.jsonl"
    monkeypatch.setattr(sys, "argv", ["make_twohop", "--worlds", "2", "--out", str(out)])
    make_twohop.main()
    made = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    first = lines("twohop.jsonl")
    assert made[: len(first)] == first
    assert len(made) == 2 * len(first)
    assert len({json.dumps(question) for question in made}) == len(made)


@pytest.mark.parametrize("name", ["errands", "studio"])
def test_requests_differ_and_name_known_tools_and_arguments(name):
    found = tasks.create("taskbench").load(TaskConfig(f"builtin:{name}"))
    assert len({example.data["instruction"] for example in found}) == len(found) >= 30
    for example in found:
        tools = {tool["id"]: tool for tool in example.data["tools"]}
        assert len(example.data["steps"]) == len(example.data["calls"])
        for tool, arguments in example.data["calls"]:
            assert tool in tools
            for argument, value in arguments:
                assert (
                    (argument in tools[tool]["parameters"]) if name == "errands" else not argument
                )
                assert value in example.data["instruction"] or value.startswith("<node-")


def test_small_knowledge_graph_questions_have_one_way_to_the_answer():
    found = tasks.create("kgqa").load(TaskConfig("builtin:smallkg"))
    assert len(found) == 36
    for example in found:
        candidates = example.data["candidates"]
        first, second = (candidates[n - 1].strip("()").split(", ") for n in example.data["gold_ids"])  # fmt: skip
        assert first[0] in example.data["question"]
        assert first[2] == second[0]
        assert [second[2]] == example.data["answers"]
        assert len(set(candidates)) == len(candidates) >= 10
        # Nothing else says the answer: without the gold triples the question cannot be answered.
        others = [c for n, c in enumerate(candidates, 1) if n not in example.data["gold_ids"]]
        assert not any(second[2] in other.strip("()").split(", ") for other in others)
