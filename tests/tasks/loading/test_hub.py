"""Hub ids, and data sets in the hub's formats in a local directory."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from agenttts import tasks
from agenttts.errors import MissingRequirement, UserError
from agenttts.tasks.base import Example, TaskConfig
from agenttts.tasks.loading.hub import HubId, hub_id

needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None,
    reason="the Python package 'datasets' (extra 'hub') is not installed",
)


def load(task: str, data: object, **options: object) -> list[Example]:
    return tasks.create(task).load(TaskConfig(str(data), options=options))


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
    with pytest.raises(UserError, match="is not a valid data set id; valid: hf:NAME"):
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
def hub_cache(tmp_path, monkeypatch):
    """Where the library keeps what it has read; it asks nobody."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    # Read when the library is imported, once for all tests.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def hub_folder(tmp_path, hub_cache):
    """A data set of the hub's layout with the splits train (6 records) and validation (4)."""
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


def hub_hotpot(record: dict[str, Any]) -> dict[str, Any]:
    """A published HotpotQA record as the hub's tables hold it: columns instead of pairs, and
    another name of the id.
    """
    columns = {
        field: {first: [p[0] for p in record[field]], second: [p[1] for p in record[field]]}
        for field, first, second in (
            ("context", "title", "sentences"),
            ("supporting_facts", "title", "sent_id"),
        )
    }
    return {"id": record["_id"], **{k: v for k, v in record.items() if k != "_id"}, **columns}


@needs_datasets
def test_hotpotqa_as_the_hub_has_it_is_the_published_file(excerpt, tmp_path, hub_cache):
    import datasets

    published = json.loads(Path(excerpt("hotpotqa.excerpt.json")).read_text())
    table = datasets.Dataset.from_list([hub_hotpot(record) for record in published])
    (tmp_path / "hotpot").mkdir()
    table.to_parquet(tmp_path / "hotpot" / "validation.parquet")
    found = load("retrieval_qa", f"hf:{tmp_path / 'hotpot'}")
    assert found == load("retrieval_qa", excerpt("hotpotqa.excerpt.json"))


@needs_datasets
@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("retrieval_qa", "2wiki.excerpt.json"),
        ("kgqa", "cwq.excerpt.json"),
        ("chatdev", "srdd.excerpt.json"),
    ],
)
def test_published_files_in_a_hub_data_set_are_read_alike(excerpt, tmp_path, hub_cache, task, file):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.json").write_text(Path(excerpt(file)).read_text())
    found = load(task, f"hf:{tmp_path / 'set'}")
    assert found
    assert found == load(task, excerpt(file))


@needs_datasets
def test_taskbench_in_a_hub_data_set_is_read_alike(excerpt, tmp_path, hub_cache):
    """The hub's tables hold lists as JSON text, since the arguments have no one type."""
    file = excerpt("taskbench_dailylifeapis.excerpt.jsonl")
    tools = excerpt("taskbench_dailylifeapis_tool_desc.excerpt.json")
    rows = [json.loads(line) for line in Path(file).read_text().splitlines() if line.strip()]
    texts = [
        {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows
    ]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "test.jsonl").write_text("\n".join(map(json.dumps, texts)))
    found = load("taskbench", f"hf:{tmp_path / 'set'}", tools=tools)
    assert found == load("taskbench", file, tools=tools)


@needs_datasets
def test_requirements_of_a_hub_table(tmp_path, hub_cache):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text(
        "name,task\nClock,Show the time.\nDice,Roll dice.\n"
    )
    found = load("chatdev", f"hf:{tmp_path / 'set'}")
    assert {e.id: e.data["requirement"] for e in found} == {"Clock": "Show the time.", "Dice": "Roll dice."}  # fmt: skip
    (tmp_path / "set" / "train.csv").unlink()
    (tmp_path / "set" / "train.json").write_text(json.dumps({"names": ["a", "b"], "tasks": ["c"]}))
    with pytest.raises(UserError, match=r"record 1: field 'names' must have as many texts"):
        load("chatdev", f"hf:{tmp_path / 'set'}")


@needs_datasets
def test_a_data_set_that_cannot_be_had_is_a_missing_requirement(hub_cache, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingRequirement, match=r"owner/no-such-set.*run: python -c"):
        load("kgqa", "owner/no-such-set")
