"""What the controller knows of workers that stay: their states, their signs, their lists."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from agenttts.dispatch.base import JobStatus
from agenttts.dispatch.node.mailbox import Mailbox
from agenttts.loop.workers import Workers
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import Journal, PlannedTrial, worker_name
from agenttts.run.rows import row_to_json
from agenttts.space import Allocation, Choice
from agenttts.tables.schema import TrialState
from tests.support.written_runs import ROWS

PENDING = JobStatus("PENDING", ended=False)
RUNNING = JobStatus("RUNNING", ended=False)
ENDED = JobStatus("COMPLETED", ended=True, verdict=TrialState.COMPLETED)


@pytest.fixture
def journal(tmp_path):
    """A run with one submitted worker, ``7``, that has the trials t0000 and t0001."""
    journal = Journal(tmp_path / "journal.jsonl")
    planned = [
        PlannedTrial(f"t{n:04}", 0, Allocation((Choice("answer", "weak", n + 1),)), "x", "", 1.0)
        for n in range(3)
    ]
    journal.propose(planned)
    names = ["t0000", "t0001"]
    journal.append("submitting", batch="small-a-0", trials=names, lists=[names], stays=True, gpus=1)
    journal.append("submitted", batch="small-a-0", jobs=dict.fromkeys(names, "7"))
    yield journal
    journal.close()


WORKER = worker_name("small-a-0", 0)


def workers(journal: Journal, tmp_path: Path, stays_for: float = 60.0) -> Workers:
    directory = RunDirectory(tmp_path)
    Path(directory.worker(WORKER)).mkdir(parents=True, exist_ok=True)
    Mailbox(directory.worker(WORKER)).prepare()
    return Workers(directory, journal, stays_for)


def finish(journal: Journal, *names: str) -> None:
    for name in names:
        journal.append("finished", trial=name, row=row_to_json(ROWS[0]))


def test_a_worker_is_pending_then_busy_then_idle_then_gone(journal, tmp_path):
    found = workers(journal, tmp_path)
    found.submitted(WORKER, 100.0)
    found.observe({"7": PENDING})
    [live] = found.live()
    assert live.state == "pending"
    assert 90 < live.busy_until <= 100
    found.observe({"7": RUNNING})
    assert [live.state for live in found.live()] == ["busy"]
    assert len(found.waits) == 1, "it was seen to start"
    finish(journal, "t0000", "t0001")
    found.observe({"7": RUNNING})
    [live] = found.live()
    assert (live.state, live.busy_until) == ("idle", 0.0)
    found.observe({"7": replace(RUNNING, state="COMPLETING")})
    assert (found.live(), found.running()) == ([], []), "its place is free"
    assert "7" in found.by_job()
    found.observe({"7": ENDED})
    assert "7" not in found.by_job()


def test_a_new_controller_does_not_overestimate_the_time_that_is_left(journal, tmp_path):
    """When the job started is not known: at the earliest when it was submitted."""
    time.sleep(0.05)
    found = workers(journal, tmp_path)
    found.observe({"7": RUNNING})
    [live] = found.live()
    assert live.runs_for >= 0.05
    assert found.waits == [], "nor is its wait in the queue known"


def test_a_worker_that_is_requeued_is_pending_again(journal, tmp_path):
    found = workers(journal, tmp_path)
    found.submitted(WORKER, 0.0)
    found.observe({"7": RUNNING})
    found.observe({"7": PENDING})
    assert [live.state for live in found.live()] == ["pending"]
    found.observe({"7": RUNNING})
    [live] = found.live()
    assert live.runs_for < 1.0, "its time limit begins again"


def test_a_worker_that_waits_gets_signs_and_a_busy_one_none(journal, tmp_path):
    found = workers(journal, tmp_path)
    mailbox = Mailbox(RunDirectory(tmp_path).worker(WORKER))
    found.observe({"7": RUNNING})
    found.give_signs()
    assert mailbox.sign == ""
    finish(journal, "t0000", "t0001")
    found.observe({"7": RUNNING})
    found.give_signs()
    first = mailbox.sign
    assert first
    found.give_signs()
    assert mailbox.sign == first, "not at every look"


def test_a_worker_that_may_be_leaving_is_retired(journal, tmp_path, monkeypatch):
    """The controller was away for nearly as long as the worker stays."""
    found = workers(journal, tmp_path, stays_for=60.0)
    finish(journal, "t0000", "t0001")
    found.observe({"7": RUNNING})
    found.give_signs()
    away = time.monotonic() + 50.0
    monkeypatch.setattr(time, "monotonic", lambda: away)
    found.give_signs()
    assert found.live() == []
    assert Mailbox(RunDirectory(tmp_path).worker(WORKER)).is_retired


def test_a_list_is_in_the_journal_before_it_is_in_the_mailbox(journal, tmp_path):
    found = workers(journal, tmp_path)
    finish(journal, "t0000", "t0001")
    found.observe({"7": RUNNING})
    mailbox = Mailbox(RunDirectory(tmp_path).worker(WORKER))
    trial = journal.state.trials["t0002"]
    found.give(journal.state.workers[WORKER], [trial], seconds=12.34, ends_in=20.0)
    given = mailbox.read(1)
    assert given is not None
    assert [place.directory.name for place in given.trials] == ["t0002"]
    assert given.seconds == 12.3
    assert trial.job_id == "7"
    [live] = found.live()
    assert live.state == "busy"
    assert 19 < live.busy_until <= 20

    # A controller that died between the two writes the list after all.
    (tmp_path / "workers" / WORKER / "lists" / "0001.json").unlink()
    workers(journal, tmp_path).write_lists()
    assert mailbox.read(1) == given
