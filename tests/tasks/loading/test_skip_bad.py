"""Bad records: up to ``skip_bad`` of them are left out and reported, more are an error."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from agenttts import tasks
from agenttts.errors import UserError
from agenttts.tasks.base import Example, TaskConfig
from agenttts.tasks.loading.report import LoadReport, SourceReport
from agenttts.tasks.user_code import load_task


def record(n: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"q{n}",
        "question": f"Who is {n}?",
        "answers": ["Ann"],
        "ctxs_candidate": ["a", "b"],
        "ctxs_gt": ["b"],
        **changes,
    }


def load(path: object, skip_bad: int, task: str = "retrieval_qa", **options: Any) -> tuple[list[Example], list[SourceReport]]:  # fmt: skip
    report = LoadReport(skip_bad)
    found = tasks.create(task).load(TaskConfig(str(path), options=options, report=report))
    return found, list(report.sources.values())


ROWS = [
    record(0),
    record(1, answers=[]),
    record(2),
    record(0),  # an id that another has
    record(4, ctxs_gt=["z"]),
    record(5),
]
BAD = ["field 'answers' must be", "id 'q0' is also the id of", "field 'ctxs_gt' must hold"]


def write(path, form: str):
    text = {
        "lines": "\n".join(map(json.dumps, ROWS)),
        "list": json.dumps(ROWS, indent=1),
        "document": json.dumps({"data": ROWS}, indent=1),
    }[form]
    path.write_text(text)
    return path


@pytest.mark.parametrize("form", ["lines", "list", "document"])
def test_bad_records_are_left_out_and_told(tmp_path, form):
    path = write(tmp_path / "d.json", form)
    found, [source] = load(path, 3)
    assert sorted(e.id for e in found) == ["q0", "q2", "q5"]
    assert (source.records, source.skipped) == (6, 3)
    for reason, expected in zip(source.reasons, BAD, strict=True):
        assert str(path) in reason
        assert expected in reason
    good, _ = load(path, 9)
    assert good == found, "how many may be skipped changes nothing else"


@pytest.mark.parametrize("skip_bad", [0, 1, 2])
def test_more_bad_records_are_an_error_that_names_the_key(tmp_path, skip_bad):
    path = write(tmp_path / "d.json", "lines")
    with pytest.raises(UserError) as caught:
        load(path, skip_bad)
    assert str(caught.value).startswith(f"{path}:2: {BAD[0]}")
    assert str(caught.value).endswith(f"(bad records: 3 of 6; skip_bad, now {skip_bad}, is how many may be skipped)")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("d.jsonl", b"%s\n{bad\n%s", "d.jsonl:2: not a JSON object"),
        ("d.json", b'%s\n{"id": \n%s', "d.json:2: not a JSON object"),
        ("d.jsonl", b'%s\n{"id": "\xff"}\n%s', "d.jsonl:2: not UTF-8 text"),
        ("d.jsonl", b"{cut}\n%s\n%s", "d.jsonl:1: not a JSON object"),
        ("d.json", b"{cut}\n%s\n%s", "d.json:1: not a JSON object"),
        ("d.jsonl", b"%s\n[1]\n%s", "d.jsonl:2: must be a JSON object"),
        ("d.json", b"[%s,\n null,\n%s]", "d.json:2 (record 2): must be a JSON object, not null"),
    ],
)
def test_damaged_lines_are_bad_records(tmp_path, name, content, reason):
    good = [json.dumps(record(n)).encode() for n in (1, 2)]
    path = tmp_path / name
    path.write_bytes(content.replace(b"%s", good[0], 1).replace(b"%s", good[1]))
    found, [source] = load(path, 1)
    assert sorted(e.id for e in found) == ["q1", "q2"]
    assert (source.records, source.skipped) == (3, 1)
    assert reason in source.reasons[0]
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert load(packed, 1)[0] == found
    with pytest.raises(UserError, match=r"bad records: 1 of 3; skip_bad, now 0"):
        load(path, 0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.json", b'[{"id": 1}, {"id": '),  # which records are lost cannot be told
        ("d.json.gz", gzip.compress(b"[{}]" * 99, mtime=0)[:-8]),
        ("d.csv", b'question,answers\nWho?,"Ann\nWho?,Bo\nWho?,Cy\n'),
        ("d.parquet", b"PAR1...."),
        ("d.jsonl", b"\n\n"),
    ],
)
def test_damage_that_hides_records_is_never_skipped(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(tmp_path / name, 1000)
    assert name in str(caught.value)
    assert "skip" not in str(caught.value)


def test_not_every_record_is_skipped(tmp_path):
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps({"text": n}) for n in range(4)))
    with pytest.raises(
        UserError, match=r"d.jsonl:1: field .* \(bad records: all 4; none is left\)"
    ):
        load(tmp_path / "d.jsonl", 4)


def test_only_the_first_reasons_are_kept(tmp_path):
    rows = [record(n, question="" if n % 2 else "Who?") for n in range(2000)]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    _, [source] = load(tmp_path / "d.json", 1000)
    assert (source.skipped, len(source.reasons)) == (1000, 3)
    assert "(record 6)" in source.reasons[2]


def triples(n: int, **changes: Any) -> dict[str, Any]:
    one = [["a", "b", f"c{n}"]]
    return {"ID": f"q{n}", "question": "Who?", "answer": ["Ann"], "crucial_triples": one, "gt_triples": one, "2hop_triples": one, **changes}  # fmt: skip


def plan(n: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"q{n}", "instruction": "Ping.", "task_steps": ["a"], "task_nodes": [{"task": "ping", "arguments": []}], **changes}  # fmt: skip


TASKS = {
    "kgqa": ([triples(0), triples(1, answer=None), triples(2)], "field 'answer'"),
    "taskbench": ([plan(0), plan(1, task_nodes=[]), plan(2)], "field 'task_nodes'"),
    "chatdev": ([{"name": "A", "task": "a"}, {"name": "B", "task": " "}, {"name": "C", "task": "c"}], "field 'task'"),
    "own": ([{"text": "a", "gold": "x"}, {"text": "b"}, {"text": "c", "gold": "z"}], "field 'gold' is missing"),
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_every_task_skips(tmp_path, task):
    rows, reason = TASKS[task]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "tool_desc.json").write_text(json.dumps({"nodes": [{"id": "ping", "desc": "Pings", "parameters": []}]}))  # fmt: skip
    (tmp_path / "own.yaml").write_text(
        "name: own\nmain_metric: a.exact_match\nstages:\n  a: {prompt: '{{ text }}', metrics: {exact_match: gold}}\n"
    )
    name = str(tmp_path / "own.yaml") if task == "own" else task
    found, [source] = load(tmp_path / "d.jsonl", 1, name)
    assert len(found) == 2
    assert (source.skipped, source.records) == (1, 3)
    assert f"d.jsonl:2: {reason}" in source.reasons[0]
    with pytest.raises(UserError, match="bad records: 1 of 3; skip_bad, now 0"):
        load(tmp_path / "d.jsonl", 0, name)


def test_the_two_lists_of_srdd(tmp_path):
    lists = {"names": ["A", 7, "C", "D"], "tasks": ["a", "b", None, "d"]}
    (tmp_path / "d.json").write_text(json.dumps(lists, indent=1))
    found, [source] = load(tmp_path / "d.json", 2, "chatdev")
    assert sorted(e.id for e in found) == ["A", "D"]
    assert "d.json:4 (number 2 of 'names'): field 'name' must be a text" in source.reasons[0]
    assert "d.json:11 (number 3 of 'tasks'): field 'task' must be a text" in source.reasons[1]


def test_a_source_read_again_is_reported_once(tmp_path):
    path = write(tmp_path / "d.json", "list")
    report = LoadReport(3)
    task = tasks.create("retrieval_qa")
    for split in ("search", "test"):
        task.load(TaskConfig(str(path), split=split, report=report))
    assert [s.skipped for s in report.sources.values()] == [3]
    assert json.loads(json.dumps(report.to_json())) == report.to_json()


OWN = """
from agenttts.tasks.base import Example, StageDefinition, Task
from agenttts.tasks.loading.report import convert
from agenttts.tasks.loading.source import read_data, read_source


class Stage(StageDefinition):
    name, temperature, description = "a", 0.5, "A stage."
    def prompt(self, example, outputs): ...
    def parse(self, text, example): return text
    def fuse(self, candidates, example): return candidates[0]
    def metrics(self, output, example): return {"m": 0.0}


class Plain(Task):
    name, description, stages, main_metric = "plain", "A task.", (Stage(),), "a.m"
    def load(self, config):
        records = read_data(config.data, {}, split=config.split)
        return [Example(str(n), {"text": r.text("text")}) for n, r in enumerate(records)]


class Skipping(Plain):
    def load(self, config):
        source = read_source(config.data, {}, split=config.split)
        make = lambda record, number: [Example(str(number), {"text": record.text("text")})]
        return convert(source, make, config.report)
"""


def test_a_task_in_python_skips_or_says_that_it_does_not(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n{bad\n{"text": "c"}')
    plain, skipping = (tasks.create(f"{tmp_path}/own.py:{name}") for name in ("Plain", "Skipping"))
    report = LoadReport(1)
    found = load_task(skipping, TaskConfig(str(tmp_path / "d.jsonl"), report=report))
    assert [e.id for e in found] == ["0", "2"]
    with pytest.raises(UserError, match=r"d.jsonl:2: not a JSON object"):
        load_task(plain, TaskConfig(str(tmp_path / "d.jsonl"), report=LoadReport(1)))
    (tmp_path / "d.jsonl").write_text('{"text": "a"}')
    assert len(load_task(plain, TaskConfig(str(tmp_path / "d.jsonl")))) == 1
    with pytest.raises(UserError, match=r"^skip_bad: task 'plain': .*own.py:17: load\(\) reads its data itself"):  # fmt: skip
        load_task(plain, TaskConfig(str(tmp_path / "d.jsonl"), report=LoadReport(1)))
