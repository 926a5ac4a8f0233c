"""What the controller knows of workers that stay: their states, their signs, their lists."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agenttts.dispatch.base import JobStatus
from agenttts.dispatch.job_starts import JobStart, write_job_start
from agenttts.dispatch.node.mailbox import Mailbox
from agenttts.loop import workers as workers_module
from agenttts.loop.workers import Workers
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import Journal
from agenttts.run.progress import PlannedTrial, worker_name
from agenttts.run.rows import row_to_json
from agenttts.space import Allocation, Choice
from agenttts.tables.schema import TrialState
from tests.support.waiting import until
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


def workers(
    journal: Journal, tmp_path: Path, stays_for: float = 60.0, settle_seconds: float = 0.0
) -> Workers:
    directory = RunDirectory(tmp_path)
    Path(directory.worker(WORKER)).mkdir(parents=True, exist_ok=True)
    Mailbox(directory.worker(WORKER)).prepare()
    return Workers(directory, journal, stays_for, settle_seconds)


def finish(journal: Journal, *names: str) -> None:
    for name in names:
        journal.append("finished", trial=name, row=row_to_json(ROWS[0]))


def test_a_worker_is_pending_then_busy_then_idle_then_gone(journal, tmp_path):
    found = workers(journal, tmp_path)
    found.submitted(WORKER, 100.0)
    found.observe({"7": PENDING})
    [live] = found.live()
    assert (live.state, live.busy_for) == ("pending", 100.0)
    found.observe({"7": RUNNING})
    [live] = found.live()
    assert live.state == "busy"
    assert 90 < live.busy_for <= 100
    finish(journal, "t0000", "t0001")
    found.observe({"7": RUNNING})
    [live] = found.live()
    assert (live.state, live.busy_for) == ("idle", 0.0)
    found.observe({"7": replace(RUNNING, state="COMPLETING")})
    assert (found.live(), found.running()) == ([], []), "its place is free"
    assert list(found.by_job()) == ["7"]
    found.observe({"7": ENDED})
    assert list(found.by_job()) == []


def job_started(tmp_path: Path, ago: float, waited: float, number: int = 1) -> None:
    """Write the record of a start of the worker's job."""
    started = datetime.now(UTC) - timedelta(seconds=ago)
    moment = started.isoformat()
    since = (started - timedelta(seconds=waited)).isoformat()
    record = JobStart(number, "7", "n1", 1, waited_since=since, started=moment, written=moment)
    write_job_start(RunDirectory(tmp_path).worker(WORKER), record)


def test_the_times_of_a_job_are_those_that_it_recorded(journal, tmp_path):
    """A controller that was away, or is new, has not seen the job start."""
    found = workers(journal, tmp_path)
    job_started(tmp_path, ago=1000.0, waited=300.0)
    found.observe({"7": RUNNING})
    [live] = found.live()
    assert live.runs_for == pytest.approx(1000.0, abs=5)
    assert found.waits == [pytest.approx(300.0, abs=0.1)]


def test_the_wait_in_the_queue_is_taken_when_the_job_has_recorded_it(journal, tmp_path):
    """The queue says that a job runs seconds before its program has written anything."""
    found = workers(journal, tmp_path)
    found.submitted(WORKER, 10.0)
    found.observe({"7": PENDING})
    found.observe({"7": RUNNING})
    assert found.waits == []
    job_started(tmp_path, ago=0.0, waited=7200.0)
    found.observe({"7": RUNNING})
    found.observe({"7": RUNNING})
    assert found.waits == [pytest.approx(7200.0, abs=0.1)], "once"


@pytest.mark.parametrize("new", [False, True], ids=["same", "new"])
def test_the_record_of_a_start_that_was_killed_is_not_that_of_the_next(journal, tmp_path, new):
    """Its node died, so its record has no end; the controller may be a new one."""
    found = workers(journal, tmp_path)
    found.submitted(WORKER, 10.0)
    job_started(tmp_path, ago=3 * 3600.0, waited=100.0)
    found.observe({"7": RUNNING})
    found = workers(journal, tmp_path) if new else found
    found.observe({"7": PENDING})
    found.observe({"7": RUNNING})
    [live] = found.live()
    assert live.runs_for < 5.0
    job_started(tmp_path, ago=0.0, waited=60.0, number=2)
    found.observe({"7": RUNNING})
    assert found.live()[0].runs_for < 5.0
    assert found.waits == [pytest.approx(seconds, abs=0.1) for seconds in [100.0, 60.0][new:]]


def test_a_list_that_takes_longer_than_expected_is_not_expected_to_end_at_once(
    journal, tmp_path, monkeypatch
):
    found = workers(journal, tmp_path)
    found.submitted(WORKER, 100.0)
    found.observe({"7": RUNNING})
    later = time.monotonic() + 500.0
    monkeypatch.setattr(time, "monotonic", lambda: later)
    [live] = found.live()
    assert live.busy_for == pytest.approx(250.0, abs=5)


def test_a_job_that_the_queue_does_not_list_for_a_moment_has_not_ended(journal, tmp_path):
    found = workers(journal, tmp_path, settle_seconds=3600.0)
    found.observe({"7": replace(ENDED, state="UNKNOWN")})
    assert found.live() == []
    assert found.running() == []
    found.observe({"7": RUNNING})
    assert [live.state for live in found.live()] == ["busy"]


def test_workers_on_nodes_that_failed_are_retired(journal, tmp_path):
    found = workers(journal, tmp_path)
    found.observe({"7": replace(RUNNING, node="n3")})
    found.retire_on(["n1"])
    assert found.live()
    found.retire_on(["n1", "n3"])
    assert found.live() == []
    assert not found.any_retiring, "its trials go on, perhaps for hours"
    finish(journal, "t0000", "t0001")
    found.observe({"7": RUNNING})
    assert found.any_retiring, "its place will soon be free"
    found.observe({"7": replace(RUNNING, state="COMPLETING")})
    assert not found.any_retiring


def test_a_new_controller_gives_nothing_to_a_worker_that_was_retired(journal, tmp_path):
    workers(journal, tmp_path).retire([WORKER])
    again = workers(journal, tmp_path)
    again.observe({"7": RUNNING})
    assert again.live() == []


def test_a_worker_that_was_requeued_while_it_was_idle_has_nothing_to_do(journal, tmp_path):
    found = workers(journal, tmp_path)
    found.observe({"7": RUNNING})
    found.observe({"7": PENDING})
    assert found.without_trials() == []
    finish(journal, "t0000", "t0001")
    assert found.without_trials() == ["7"]


def test_signs_go_on_while_the_controller_is_busy(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(workers_module, "_SIGN_S", 0.02)
    found = workers(journal, tmp_path)
    finish(journal, "t0000", "t0001")
    found.observe({"7": RUNNING})
    mailbox = Mailbox(RunDirectory(tmp_path).worker(WORKER))
    with found.signs_meanwhile():
        until(lambda: mailbox.sign, "a sign")
        first = mailbox.sign
        until(lambda: mailbox.sign != first, "another sign")


@pytest.mark.parametrize("how", ["meanwhile", "pause"])
def test_a_worker_that_stays_for_a_short_time_gets_its_signs_in_it(
    journal, tmp_path, monkeypatch, how
):
    """Also where it stays for less than the time between two looks at the queue."""
    found = workers(journal, tmp_path, stays_for=0.4)
    finish(journal, "t0000", "t0001")
    found.observe({"7": RUNNING})
    given = threading.Event()
    monkeypatch.setattr(Mailbox, "give_sign", lambda _: given.set())
    if how == "meanwhile":
        with found.signs_meanwhile():
            given.wait(60)
    else:
        monkeypatch.setattr(time, "sleep", lambda _: given.wait(60))
        found.pause(5.0)
    assert given.is_set()


def test_workers_with_trials_get_signs_too_while_the_controller_is_busy(
    journal, tmp_path, monkeypatch
):
    monkeypatch.setattr(workers_module, "_SIGN_S", 0.02)
    found = workers(journal, tmp_path)
    found.observe({"7": RUNNING})
    with found.signs_meanwhile():
        until(lambda: Mailbox(RunDirectory(tmp_path).worker(WORKER)).sign, "a sign")


def test_a_worker_that_may_have_ended_its_trials_unseen_gets_signs(journal, tmp_path, monkeypatch):
    """The queue does not answer, or the search proposes."""
    found = workers(journal, tmp_path, stays_for=600.0)
    found.observe({"7": RUNNING})
    mailbox = Mailbox(RunDirectory(tmp_path).worker(WORKER))
    found.give_signs(unseen=True)
    first = mailbox.sign
    assert first
    found.give_signs(unseen=True)
    assert mailbox.sign == first, "not at every look"
    later = time.monotonic() + 500.0
    monkeypatch.setattr(time, "monotonic", lambda: later)
    found.give_signs(unseen=True)
    assert mailbox.sign != first
    finish(journal, "t0000", "t0001")
    found.observe({"7": RUNNING})
    found.give_signs()
    assert [live.state for live in found.live()] == ["idle"], "it was never silent"


def test_a_disk_that_takes_no_sign_for_long_is_said_once(journal, tmp_path, monkeypatch, caplog):
    found = workers(journal, tmp_path, stays_for=600.0)
    found.observe({"7": RUNNING})

    def full(mailbox: Mailbox) -> None:
        raise OSError(28, "No space left on device")

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(Mailbox, "give_sign", full)
            for _ in range(5):
                found.give_signs(unseen=True)
        found.give_signs(unseen=True)
        found._sight(journal.state.workers[WORKER]).signed = None
    assert caplog.text.count("no keep-alive sign") == 2, "once for each trouble"


def test_a_long_list_does_not_count_as_silence(journal, tmp_path, monkeypatch):
    """The worker heard nothing while it was busy, which is as it should be."""
    found = workers(journal, tmp_path, stays_for=60.0)
    finish(journal, "t0000", "t0001")
    found.observe({"7": RUNNING})
    found.give_signs()
    found.give(journal.state.workers[WORKER], [journal.state.trials["t0002"]])
    later = time.monotonic() + 500.0
    monkeypatch.setattr(time, "monotonic", lambda: later)
    found.observe({"7": RUNNING})
    finish(journal, "t0002")
    found.observe({"7": RUNNING})
    found.give_signs()
    assert [live.state for live in found.live()] == ["idle"]


def test_a_worker_that_is_requeued_is_pending_again(journal, tmp_path):
    found = workers(journal, tmp_path)
    found.submitted(WORKER, 0.0)
    found.observe({"7": RUNNING})
    found.observe({"7": PENDING})
    assert [live.state for live in found.live()] == ["pending"]
    found.observe({"7": RUNNING})
    [live] = found.live()
    assert live.runs_for < 1.0, "its time limit begins again"


@pytest.mark.parametrize(
    "paused", [JobStatus("SUSPENDED", ended=False), JobStatus("REQUEUE_HOLD", False, stuck=True)]
)
def test_a_worker_that_is_suspended_or_held_gets_signs_and_no_list(journal, tmp_path, paused):
    found = workers(journal, tmp_path)
    found.observe({"7": RUNNING})
    found.observe({"7": paused})
    assert [live.state for live in found.live()] == ["busy"]
    finish(journal, "t0000", "t0001")
    found.observe({"7": paused})
    assert found.live() == []
    found.give_signs()
    assert Mailbox(RunDirectory(tmp_path).worker(WORKER)).sign, "it may be continued"
    found.observe({"7": RUNNING})
    assert [live.state for live in found.live()] == ["idle"]


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


def test_a_sign_that_cannot_be_written_is_given_later(journal, tmp_path, monkeypatch, caplog):
    def refuse(mailbox):
        raise OSError(28, "No space left on device")

    found = workers(journal, tmp_path)
    finish(journal, "t0000", "t0001")
    found.observe({"7": RUNNING})
    mailbox = Mailbox(RunDirectory(tmp_path).worker(WORKER))
    with monkeypatch.context() as full:
        full.setattr(Mailbox, "give_sign", refuse)
        found.give_signs()
    assert "no keep-alive sign could be given to workers: [Errno 28]" in caplog.text
    assert [live.state for live in found.live()] == ["idle"]
    found.give_signs()
    assert mailbox.sign, "at the next look, not after a pause"
    with monkeypatch.context() as full:
        full.setattr(Mailbox, "retire", refuse)
        with pytest.raises(OSError, match="No space left"):
            found.retire([WORKER])
    assert found.live(), "it has not been told"
    found.retire([WORKER])
    assert mailbox.is_retired


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
    found.give(journal.state.workers[WORKER], [trial], seconds=12.34)
    given = mailbox.read(1)
    assert given is not None
    assert [place.directory.name for place in given.trials] == ["t0002"]
    assert given.seconds == 12.3
    assert trial.job_id == "7"
    [live] = found.live()
    assert live.state == "busy"
    assert 11 < live.busy_for <= 12.34

    # A controller that died between the two writes the list after all.
    (tmp_path / "workers" / WORKER / "lists" / "0001.json").unlink()
    workers(journal, tmp_path).write_lists()
    assert mailbox.read(1) == given


def test_a_list_says_which_trials_are_due_in_part_for_a_new_controller_too(journal, tmp_path):
    found = workers(journal, tmp_path)
    finish(journal, "t0000", "t0001")
    found.observe({"7": RUNNING})
    trial = journal.state.trials["t0002"]
    found.give(journal.state.workers[WORKER], [trial], upto={"t0002": 1})
    mailbox = Mailbox(RunDirectory(tmp_path).worker(WORKER))
    given = mailbox.read(1)
    assert given is not None
    assert [place.upto for place in given.trials] == [1]
    (tmp_path / "workers" / WORKER / "lists" / "0001.json").unlink()
    replayed = Journal(tmp_path / "journal.jsonl")
    workers(replayed, tmp_path).write_lists()
    assert mailbox.read(1) == given


def test_a_worker_that_has_handed_over_its_trials_is_idle(journal, tmp_path):
    found = workers(journal, tmp_path)
    finish(journal, "t0000", "t0001")
    found.observe({"7": RUNNING})
    found.give(journal.state.workers[WORKER], [journal.state.trials["t0002"]], upto={"t0002": 1})
    found.observe({"7": RUNNING})
    assert [live.state for live in found.live()] == ["busy"]
    journal.append("handed_over", trials={"t0002": 1})
    found.observe({"7": RUNNING})
    assert [live.state for live in found.live()] == ["idle"]
