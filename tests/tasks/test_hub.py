"""Hub ids, and data sets in the hub's formats in a local directory."""

from __future__ import annotations

import importlib.util
import json

import pytest

from agenttts import tasks
from agenttts.errors import MissingRequirement, UserError
from agenttts.tasks.base import TaskConfig
from agenttts.tasks.hub import HubId, hub_id

needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None,
    reason="the Python package 'datasets' (extra 'hub') is not installed",
)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("owner/name", HubId("owner/name")),
        ("owner/name:config@abc123", HubId("owner/name", "config", "abc123")),
        ("hf:name", HubId("name")),
        ("hf:./folder", HubId("./folder")),
        ("./data/x.json", None),
        ("owner/name.jsonl", None),
        ("name", None),
        ("/tmp/name", None),
    ],
)
def test_what_is_a_hub_id(data, expected):
    assert hub_id(data) == expected


def test_a_path_beside_a_directory_that_exists_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert hub_id("data/twowiki") is None
    assert hub_id("hf:data/twowiki") == HubId("data/twowiki")
    with pytest.raises(UserError, match="is no data set id; valid: hf:NAME"):
        hub_id("hf:a:b:c@")


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="'datasets' is here")
def test_without_the_library_the_install_command_is_named():
    with pytest.raises(
        MissingRequirement, match=r"takes the Python package 'datasets'.*pip install"
    ):
        tasks.create("kgqa").load(TaskConfig("owner/name"))


def kg_record(n: int) -> dict[str, object]:
    return {
        "ID": f"q{n}",
        "question": f"Who is {n}?",
        "answer": ["Ann"],
        "crucial_triples": [[f"h{n}", "is", "Ann"]],
        "gt_triples": [[f"h{n}", "is", "Ann"]],
        "2hop_triples": [["a", "b", "c"]],
    }


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """A data set of the hub's layout with the splits train (6 records) and validation (4)."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "kg"
    folder.mkdir()
    for name, numbers in (("train", range(6)), ("validation", range(10, 14))):
        lines = [json.dumps(kg_record(n)) for n in numbers]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@needs_datasets
def test_splits_of_a_hub_data_set(hub_folder):
    task = tasks.create("kgqa")

    def ids(split: str, **options: object) -> set[str]:
        found = task.load(TaskConfig(f"hf:{hub_folder}", split=split, options=options))
        return {example.id for example in found}

    assert ids("search") == {f"q{n}" for n in range(10, 14)}, "validation is what search draws from"
    assert ids("search", hub_split="train") == {f"q{n}" for n in range(6)}
    assert ids("train") == {f"q{n}" for n in range(6)}
    test = ids("test", hub_split="train", search_examples=4)
    assert len(test) == 2
    with pytest.raises(UserError, match=r"no split 'trian'.*did you mean 'train'"):
        ids("trian")


@needs_datasets
def test_a_malformed_record_of_the_hub_names_split_and_record(hub_folder):
    lines = [json.dumps(kg_record(n)) for n in range(2)]
    lines.append(json.dumps(kg_record(2) | {"answer": []}))
    (hub_folder / "validation.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"split 'validation', record 3: field 'answer'"):
        tasks.create("kgqa").load(TaskConfig(f"hf:{hub_folder}"))


@needs_datasets
def test_plans_from_a_hub_data_set_take_the_tools_from_a_file(tmp_path, hub_folder):
    (hub_folder / "train.jsonl").unlink()
    record = {
        "id": "1",
        "instruction": "Ping.",
        "tool_steps": json.dumps(["Step 1: Ping"]),
        "tool_nodes": json.dumps([{"task": "ping", "arguments": []}]),
    }
    (hub_folder / "validation.jsonl").write_text(json.dumps(record))
    tools = tmp_path / "tool_desc.json"
    tools.write_text(json.dumps({"nodes": [{"id": "ping", "desc": "Pings", "parameters": []}]}))
    config = TaskConfig(f"hf:{hub_folder}", options={"tools": str(tools)})
    [found] = tasks.create("taskbench").load(config)
    assert found.data["calls"] == [["ping", []]]
