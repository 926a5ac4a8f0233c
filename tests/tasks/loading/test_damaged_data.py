"""Damaged data files: one clear error or sound examples, never a traceback and never a record
that is not in the file.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agenttts import tasks
from agenttts.errors import UserError
from agenttts.tasks.base import Example, TaskConfig
from agenttts.tasks.loading.report import LoadReport

pytestmark = pytest.mark.timeout(300)
FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])  # fmt: skip


def record(n: int) -> dict[str, Any]:
    return {
        "id": f"q{n}",
        "question": f'Who is "{n}", then?',
        "answers": [f"Ann {n}", "Ånn"],
        "ctxs_candidate": [f"one of {n}", "two,\nin two lines", "three"],
        "ctxs_gt": ["three", f"one of {n}"],
    }


ROWS = [record(n) for n in range(6)]


def table(separator: str) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=separator)
    writer.writerow(ROWS[0])
    writer.writerows([v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in ROWS)  # fmt: skip
    return stream.getvalue().encode()


def parquet() -> bytes:
    stream = io.BytesIO()
    pl.DataFrame(ROWS).write_parquet(stream)
    return stream.getvalue()


FILES = {
    "list.json": json.dumps(ROWS, ensure_ascii=False).encode(),
    "pretty.json": json.dumps(ROWS, indent=1).encode(),
    "lines.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode(),
    "lines.json": "\n".join(map(json.dumps, ROWS)).encode(),
    "document.json": json.dumps({"version": 1, "data": ROWS}, indent=1).encode(),
    "table.csv": table(","),
    "table.tsv": table("\t"),
    "table.parquet": parquet(),
    "list.json.gz": gzip.compress(json.dumps(ROWS).encode(), mtime=0),
}


def load(task: str, path: Path, skip_bad: int) -> tuple[list[Example], LoadReport]:
    report = LoadReport(skip_bad)
    return tasks.create(task).load(TaskConfig(str(path), report=report)), report


def load_bytes(task: str, name: str, content: bytes, skip_bad: int) -> tuple[list[Example], LoadReport] | str:  # fmt: skip
    """What is loaded, or the error, which must be one that a user can use."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        Path(folder, "tool_desc.json").write_text(TOOLS)
        try:
            return load(task, path, skip_bad)
        except UserError as error:
            message = str(error)
            assert str(path) in message, message
            assert "Traceback" not in message
            return message


TOOLS = json.dumps({"nodes": [{"id": "ping", "desc": "Pings", "parameters": [{"name": "host"}]}]})


def check_retrieval(example: Example) -> None:
    data = example.data
    assert data["question"].strip()
    assert data["answers"]
    assert all(isinstance(a, str) and a.strip() for a in data["answers"])
    assert data["candidates"]
    assert all(isinstance(c, str) for c in data["candidates"])
    assert all(1 <= n <= len(data["candidates"]) for n in data["gold_ids"])
    text = json.dumps({"id": example.id, "data": data}, ensure_ascii=False, allow_nan=False)
    text.encode()  # no half characters: it can be frozen into a run


@st.composite
def damage(draw: st.DrawFn, content: bytes) -> bytes:
    """A file some of whose bytes were lost, doubled, changed or cut off."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        end = min(len(content), start + draw(st.integers(0, 40)))
        kind = draw(st.sampled_from(["lose", "double", "change", "cut", "insert"]))
        part = draw(st.binary(min_size=1, max_size=4) | st.sampled_from([b'"', b"\n", b",", b"}", b"]", b"{", b"[", b"\\", b"\x00", b"\xff"]))  # fmt: skip
        content = {
            "lose": content[:start] + content[end:],
            "double": content[:end] + content[start:],
            "change": content[:start] + part + content[start + len(part) :],
            "cut": content[:start],
            "insert": content[:start] + part + content[start:],
        }[kind]
    return content


@pytest.mark.parametrize("name", FILES)
@given(data=st.data(), skip_bad=st.integers(0, 6))
@FUZZ
def test_damaged_bytes(name, data, skip_bad):
    found = load_bytes("retrieval_qa", name, data.draw(damage(FILES[name])), skip_bad)
    if isinstance(found, str):
        return
    examples, report = found
    [source] = report.sources.values()
    assert source.skipped <= skip_bad
    assert len(examples) == source.records - source.skipped > 0
    assert len(source.reasons) == min(3, source.skipped)
    for example in examples:
        check_retrieval(example)


@pytest.mark.parametrize("name", ["lines.jsonl", "lines.json"])
@given(data=st.data())
@FUZZ
def test_damage_of_one_line_costs_one_record(name, data):
    """The others stay what they are, whichever line it is and whatever became of it."""
    lines = FILES[name].split(b"\n")
    position = data.draw(st.integers(0, len(lines) - 1))
    cut = data.draw(st.integers(1, len(lines[position]) - 1))
    lines[position] = lines[position][:cut] + data.draw(st.sampled_from([b"", b"\xff", b"\x00", b"garbage"]))  # fmt: skip
    found = load_bytes("retrieval_qa", name, b"\n".join(lines), 1)
    assert not isinstance(found, str), found
    examples, report = found
    whole, _ = load_bytes("retrieval_qa", name, FILES[name], 0)  # type: ignore[misc]
    kept = {e.id: e for e in examples}
    assert kept == {e.id: e for e in whole if e.id != f"q{position}"}
    [source] = report.sources.values()
    assert f"{name}:{position + 1}: " in source.reasons[0]
    refused = load_bytes("retrieval_qa", name, b"\n".join(lines), 0)
    assert isinstance(refused, str)
    assert f"{name}:{position + 1}: " in refused
    assert "skip_bad" in refused


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
KEYS = ["answer", "aliases", "value", "EntityName", "AnswerArgument", "Answers", "title", "task", "arguments", "name"]  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=10,
)
# A sound record of each task: fields are replaced in it, left out, and added.
SOUND: dict[str, dict[str, Any]] = {
    "retrieval_qa": record(0),
    "kgqa": {
        "ID": "a",
        "question": "Who?",
        "answer": [{"answer": "Ann", "aliases": ["A"]}],
        "Parses": [{"Answers": [{"AnswerArgument": "m.1", "EntityName": "Ann"}]}],
        "crucial_triples": [["a", "b", "c"]],
        "gt_triples": [["a", "b", "c"]],
        "2hop_triples": [["d", "e", "f"]],
    },
    "taskbench": {
        "id": "1",
        "instruction": "Ping.",
        "task_steps": ["Step 1: Ping"],
        "task_nodes": [{"task": "ping", "arguments": [{"name": "host", "value": "a"}]}],
    },
    "chatdev": {"Name": "A", "Description": "Do a.", "names": ["B"], "tasks": ["Do b."]},
}


@st.composite
def rows(draw: st.DrawFn, task: str) -> list[Any]:
    fields = st.sampled_from(sorted(SOUND[task])) | st.sampled_from(["context", "answers", "supporting_facts", "answer_id"])  # fmt: skip
    found: list[Any] = []
    for _ in range(draw(st.integers(1, 4))):
        changed = {**SOUND[task], **draw(st.dictionaries(fields, VALUES, max_size=2))}
        for name in draw(st.lists(fields, max_size=1)):
            changed.pop(name, None)
        found.append(draw(st.just(changed) | VALUES) if draw(st.booleans()) else changed)
    return found


def as_file(kind: str, found: list[Any]) -> bytes:
    if kind == "d.json":
        return json.dumps(found).encode()
    if kind == "w.json":
        return json.dumps({"about": "x", "data": found}).encode()
    if kind == "d.jsonl":
        return "\n".join(map(json.dumps, found)).encode()
    stream = io.StringIO(newline="")
    objects = [row for row in found if isinstance(row, dict)] or [{"a": 1}]
    names = list(dict.fromkeys(name for row in objects for name in row))
    writer = csv.writer(stream)
    writer.writerow(names)
    for row in objects:
        writer.writerow([v if isinstance(v := row.get(name), str) else repr(v) for name in names])
    return stream.getvalue().encode("utf-8", "replace")


@pytest.mark.parametrize("task", SOUND)
@given(data=st.data(), kind=st.sampled_from(["d.json", "w.json", "d.jsonl", "d.csv"]), skip_bad=st.integers(0, 4))  # fmt: skip
@FUZZ
def test_records_of_odd_values(task, data, kind, skip_bad):
    found = load_bytes(task, kind, as_file(kind, data.draw(rows(task))), skip_bad)
    if isinstance(found, str):
        return
    examples, report = found
    [source] = report.sources.values()
    assert source.skipped <= skip_bad
    assert len({e.id for e in examples}) == len(examples) > 0
    for example in examples:
        if task in ("retrieval_qa", "kgqa"):
            check_retrieval(example)
        elif task == "chatdev":
            assert example.data["requirement"].strip()
        else:
            assert example.data["instruction"].strip()
            assert example.data["calls"]


@given(value=VALUES, key=st.sampled_from(["", "data", "a.b", "."]))
@FUZZ
def test_any_json_document(value, key):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "d.json")
        path.write_text(json.dumps(value))
        options = {"records_key": key} if key else {}
        with pytest.raises(UserError, match=r"d\.json"):
            tasks.create("retrieval_qa").load(TaskConfig(str(path), options=options))
