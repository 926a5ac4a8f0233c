"""SRDD's file, other shapes, splits, and what is said about malformed ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from agenttts.errors import UserError
from agenttts.tasks.chatdev.data import load_requirements

EXCERPT = Path(__file__).parents[3].parent / "shared" / "data" / "srdd.excerpt.json"


def write(path: Path, content: object, indent: int | None = None) -> str:
    path.write_text(json.dumps(content, indent=indent))
    return str(path)


def test_the_published_file():
    if not EXCERPT.exists():
        pytest.skip(f"{EXCERPT} is not here")
    examples = load_requirements(str(EXCERPT))
    raw = json.loads(EXCERPT.read_text())
    assert len(examples) == len(raw["names"]) == 6
    for found in examples:
        position = raw["names"].index(found.id)
        assert found.data == {"name": found.id, "requirement": raw["tasks"][position]}


def test_splits_share_nothing_and_follow_the_seed():
    search = load_requirements("", examples=8, seed=3)
    test = load_requirements("", split="test", search_examples=8, seed=3)
    assert len(search) == 8
    assert len(test) == 4
    assert not {e.id for e in search} & {e.id for e in test}
    assert load_requirements("", examples=8, seed=3) == search
    assert load_requirements("", examples=8, seed=4) != search


@pytest.mark.parametrize("indent", [None, 1])
def test_other_shapes_give_the_same(tmp_path, indent):
    columns = {"names": ["A", "B"], "tasks": ["do a", "do  b"]}
    rows = [{"name": "A", "task": "do a"}, {"name": "B", "task": "do  b"}]
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "e.json.gz").write_bytes(gzip.compress(json.dumps(columns).encode()))
    places = [
        write(tmp_path / "c.json", columns, indent),
        write(tmp_path / "r.json", rows, indent),
        str(tmp_path / "d.jsonl"),
        str(tmp_path / "e.json.gz"),
    ]
    wanted = load_requirements(places[0])
    assert {e.id: e.data["requirement"] for e in wanted} == {"A": "do a", "B": "do b"}
    assert all(load_requirements(place) == wanted for place in places)


def test_equal_names_are_told_apart(tmp_path):
    data = write(tmp_path / "d.json", {"names": ["A", "A", "B"], "tasks": ["x", "y", "z"]})
    assert sorted(e.id for e in load_requirements(data)) == ["A#0", "A#1", "B"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"names": ["A"], "task": ["x"]}, ["'tasks' is missing", "'task'"]),
        ({"names": ["A", "B"], "tasks": ["x"]}, ["one length", "2 and 1"]),
        ({"names": ["A", "B"], "tasks": ["x", 7]}, ["d.json:8", "number 2", "7"]),
        ({"names": ["A", "B"], "tasks": ["x", "  "]}, ["d.json:8", "number 2"]),
        ({"names": ["A"], "tasks": {}}, ["d.json:5", "must be a list"]),
        ([{"name": "A", "task": 3}], ["d.json:2", "task"]),
    ],
)
def test_malformed_data_are_named(tmp_path, content, words):
    with pytest.raises(UserError) as caught:
        load_requirements(write(tmp_path / "d.json", content, indent=1))
    for word in words:
        assert word in str(caught.value)


def test_absent_unknown_and_too_few(tmp_path):
    write(tmp_path / "srdd.json", {"names": ["A"], "tasks": ["x"]})
    with pytest.raises(UserError, match=r"srdd\.json"):
        load_requirements(str(tmp_path / "srd.json"))
    with pytest.raises(UserError, match="small_programs"):
        load_requirements("builtin:small_program")
    with pytest.raises(UserError, match="at most 12"):
        load_requirements("", examples=13)
    with pytest.raises(UserError, match="did you mean 'search'"):
        load_requirements("", split="serch")
    with pytest.raises(UserError, match="did you mean 'search'"):
        load_requirements(str(tmp_path / "srdd.json"), split="serch")
    (tmp_path / "bad.json").write_text('{"names": [\n"A"\n')
    with pytest.raises(UserError, match=r"bad\.json:3"):
        load_requirements(str(tmp_path / "bad.json"))
