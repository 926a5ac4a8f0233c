"""Names and comments of jobs that run: nobody waits for them, and they may fail."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.slurm.labels import JobLabels
from agenttts.dispatch.slurm.scheduler import SlurmScheduler
from tests.support.waiting import until

pytestmark = pytest.mark.processes


def recorded(record: Path) -> list[str]:
    return record.read_text().splitlines() if record.exists() else []


def until_at_rest() -> None:
    until(lambda: not any(t.name == "job labels" for t in threading.enumerate()), "the thread")


def test_a_job_with_another_label_is_still_found_by_its_batch(fake, tmp_path):
    record = tmp_path / "record"
    fake("scontrol", f'echo "$@" >> {record}')
    tried = SlurmScheduler(Profile(kind="slurm", trial=JobResources(time="10")), tmp_path / "jobs")
    tried.relabel("7", "r-1", 2, "i1t4-run", "agenttts run=run trials=t0004")
    until_at_rest()
    [line] = recorded(record)
    comment = "agenttts run=run trials=t0004 batch=r-1 element=2"
    assert line == f"update JobId=7 Comment={comment} Name=i1t4-run"
    fake("squeue", f"printf 'JOBID|STATE|REASON|COMMENT\\n7|RUNNING|None|{comment}\\n'")
    requests = [type("Request", (), {"trial": f"t{n}"}) for n in range(3)]
    assert tried.find("r-1", requests) == {"t2": "7"}


def test_nobody_waits_and_the_last_label_wins(fake, tmp_path):
    record, go_on = tmp_path / "record", tmp_path / "go-on"
    wait = f"while [ ! -e {go_on} ]; do sleep 0.05; done"
    fake("scontrol", f'echo "$2 $4" >> {record}; {wait}')
    labels = JobLabels()
    labels.give("7", "first", "x")
    until(lambda: recorded(record), "the first change")
    for name in ("second", "third"):
        labels.give("7", name, "x")
    labels.give("8", "other", "x")
    assert recorded(record) == ["JobId=7 Name=first"], "the queue gives no answer yet"
    go_on.touch()
    until_at_rest()
    assert recorded(record) == ["JobId=7 Name=first", "JobId=7 Name=third", "JobId=8 Name=other"]


def test_a_queue_that_refuses_is_asked_again_with_the_next_label_only(fake, tmp_path):
    record, go_on = tmp_path / "record", tmp_path / "go-on"
    wait = f"while [ ! -e {go_on} ]; do sleep 0.05; done"
    fake("scontrol", f'echo "$2" >> {record}; {wait}; echo "Access denied" >&2; exit 1')
    labels = JobLabels()
    for job in ("7", "8", "9"):
        labels.give(job, "name", "comment")
    go_on.touch()
    until_at_rest()
    assert len(recorded(record)) < 3
    before = recorded(record)
    labels.give("9", "name", "comment")
    until_at_rest()
    assert recorded(record) == [*before, "JobId=9"]
