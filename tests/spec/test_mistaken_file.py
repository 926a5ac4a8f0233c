"""Files that are given as a job spec by mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttts.errors import UserError
from agenttts.spec import load_spec

TASK = "name: sums\nmain_metric: add.number\nstages: {add: {prompt: x}}\n"
JOB = "name: j\ntask: {name: ./task.yaml}\nstages: {}\n"


def told(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_spec(path)
    return str(caught.value)


def test_a_task_names_the_job_that_uses_it(tmp_path):
    task = tmp_path / "task.yaml"
    task.write_text(TASK)
    assert f"{task} is a task, not a job spec; a job names it: 'task: {{name: ./task.yaml}}'" in told(task)  # fmt: skip
    (tmp_path / "damaged.yaml").write_text("a: [")
    (tmp_path / "job.yaml").write_text(JOB)
    assert told(task).endswith(f"did you mean '{tmp_path / 'job.yaml'}', a job with this task?")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.yaml", "kind: slurm\ntrial: {}\n", "is the profile of a cluster, not a job spec; give it beside the spec: agenttts-hpc launch SPEC --cluster"),
        ("q.jsonl", '{"a": 1}\n{"a": 2}\n', "is not a job spec but looks like data; a spec is YAML. 'agenttts-hpc init"),
        ("j.yaml", JOB, "models: this key is required but missing"),
        ("s.yaml", "- a\n", "a mapping of keys is expected"),
    ],
)  # fmt: skip
def test_each_file_is_named_for_what_it_is(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    assert words in told(tmp_path / name)
