"""``run.json``: what is written is what is read, and damage is told by file and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agenttts.dispatch.apptainer import Container
from agenttts.dispatch.node.scratch import CompileCache
from agenttts.errors import UserError
from agenttts.inference.base import ModelConfig
from agenttts.replies import Thinking
from agenttts.run.record import AgentRecord, RunRecord, read_record, write_record
from agenttts.search.llm.task_description import TaskDescription
from agenttts.tasks.loading.report import SourceReport

MODEL = ModelConfig("m", "/models/m", gpus=2, options={"dtype": "half", "x": [1, {"y": None}]}, thinking=Thinking(("<a>",), ("</a>",)), weights="abc", rules=2)  # fmt: skip
RECORD = RunRecord(
    schema_number=1,
    token="t2",
    earlier_tokens=("t0", "t1"),
    version="1.0",
    models={"m": MODEL, "n": ModelConfig("n", "owner/n", thinking=None)},
    container=Container(Path("/images/a.sif"), nv=False, binds=("/data",)),
    image_sha256="12ab",
    compile_cache=Path("cache"),
    samples=Path("samples"),
    agent=AgentRecord(
        gpus=1,
        thinking=Thinking(("<b>",), ("</b>",)),
        opening="<b>",
        merges_system=True,
        fields={"n": 1},
        task_description=TaskDescription("qa", "Answer.", {"answer": "One word."}, "answer.em", 50),
    ),
    skip_bad=3,
    data=(SourceReport("a.jsonl", 10, skipped=1, reasons=("bad",)),),
    examples={"examples.jsonl": "9f"},
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    write_record(path, RECORD)
    return path


def test_what_is_written_is_what_is_read(file: Path) -> None:
    assert read_record(file) == RECORD
    bare = RECORD.model_copy(update={"container": None, "image_sha256": None, "compile_cache": None, "agent": None})  # fmt: skip
    write_record(file, bare)
    assert read_record(file) == bare
    assert bare.cache(file.parent) is None


def test_it_does_not_change() -> None:
    with pytest.raises(ValidationError):
        RECORD.token = "other"


def test_tokens_and_directories_are_of_the_run_where_it_lies_now() -> None:
    assert RECORD.tokens("small") == ("small-t2", "small-t0", "small-t1")
    assert RECORD.cache(Path("/here")) == CompileCache(Path("/here/cache"), "12ab")
    shared = RECORD.model_copy(update={"compile_cache": Path("/shared/cache")})
    assert shared.cache(Path("/here")) == CompileCache(Path("/shared/cache"), "12ab")


def test_keys_of_a_later_version_are_left_out(file: Path) -> None:
    document = json.loads(file.read_text())
    document["news"] = document["agent"]["news"] = 1
    file.write_text(json.dumps(document))
    assert read_record(file) == RECORD


def test_an_odd_file_name_does_not_spoil_the_record(file: Path) -> None:
    odd = SourceReport("odd\udcff.jsonl", 1)
    write_record(file, RECORD.model_copy(update={"data": (odd,)}))
    assert read_record(file).data[0].source == "odd?.jsonl"


DAMAGE: dict[str, tuple[list[str], Any, str]] = {
    "token": (["token"], None, "'token': Input should be a valid string"),
    "model": (["models", "m", "gpus"], "two", "'models.m.gpus': Input should be a valid integer"),
    "image": (["container", "image"], 7, "'container.image': Input is not a valid path"),
    "data": (["data"], [{}], "'data.0.source': Field required"),
    "place": (["samples"], "a\0b", "'samples': Value error, a path cannot hold a null character"),
    "model's place": (["models", "m", "path"], "\0", "'models': Value error, a path cannot hold"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_by_file_and_key(file: Path, damage: str) -> None:
    keys, value, said = DAMAGE[damage]
    document = json.loads(file.read_text())
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    file.write_text(json.dumps(document))
    with pytest.raises(UserError) as caught:
        read_record(file)
    assert str(caught.value).startswith(f"{file}: {said}")
    assert "restore it from a copy, or launch the spec under another --name" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "Invalid JSON: EOF"), ("[]", "should be an object"), ("[" * 100_000, "Invalid JSON: recursion limit")],
)  # fmt: skip
def test_what_is_not_a_record_is_refused(file: Path, content: str, said: str) -> None:
    file.write_text(content)
    with pytest.raises(UserError, match=said):
        read_record(file)


def test_a_record_of_another_version_is_refused_with_what_to_do(file: Path) -> None:
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "schema_number": 2, "token": 1}))
    with pytest.raises(
        UserError, match=r"'schema_number': .*reads up to 1: use the version that launched"
    ):
        read_record(file)
    file.unlink()
    with pytest.raises(UserError, match=r"run\.json: the file does not exist"):
        read_record(file)
    file.with_name("origin.json").write_text("{}")
    with pytest.raises(UserError, match=r"launched by an older version.*under another --name"):
        read_record(file)
