"""A trial's lock: who holds it, whether that one still can, and for how long a job waits."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.attempts import read_attempts
from agenttts.dispatch.base import JobStatus, JobTrial, QueueUnavailable
from agenttts.dispatch.node import trial_lock
from agenttts.dispatch.node.job import TrialJob
from agenttts.dispatch.node.trial_lock import (
    LOCK_FILE,
    LockHolder,
    has_patience,
    read_holder,
    why_lost,
)
from agenttts.dispatch.run_jobs import user_name
from agenttts.tables.schema import TrialState

WORD = st.from_regex(r"[A-Za-z0-9_.+-]+", fullmatch=True)
HOLDERS = st.builds(LockHolder, WORD, WORD, WORD, st.booleans()) | st.builds(
    LockHolder, WORD, WORD, WORD, st.booleans(), WORD, WORD
)
ME = LockHolder("8_1", "gpu2", "2026-01-01T00:00:00+00:00", True)


@given(HOLDERS)
def test_a_holder_is_read_as_it_was_written(holder):
    assert read_holder(f"{holder}\n") == holder


@given(st.text())
def test_whatever_else_is_in_a_lock_names_nobody_or_somebody(text):
    holder = read_holder(text)
    assert holder is None or str(holder) == text.strip()


@pytest.mark.parametrize(
    ("holder", "state", "lost"),
    [
        (None, None, None),
        (replace(ME, job="7_0"), JobStatus("RUNNING", False), None),
        (replace(ME, job="7_0"), JobStatus("COMPLETING", False), None),
        (replace(ME, job="7_0"), JobStatus("PENDING", False), None),  # requeued: it may come back
        (replace(ME, job="7_0"), JobStatus("NODE_FAIL", True), "that job has ended (NODE_FAIL)"),
        (replace(ME, job="7_0"), JobStatus("UNKNOWN", True), "that job has ended (UNKNOWN)"),
        (replace(ME, job="7_0"), None, None),  # the queue is silent
        (replace(ME, host="gpu1"), None, "an earlier start of this job"),
        (ME, None, None),
        (replace(ME, job="4242", queued=False), None, None),
    ],
)
def test_a_lock_is_lost_where_its_job_cannot_be_at_work(holder, state, lost):
    def states(jobs: Iterable[str]) -> Mapping[str, JobStatus]:
        if state is None:
            raise QueueUnavailable("squeue did not answer", fix="wait")
        return dict.fromkeys(jobs, state)

    assert why_lost(holder, ME, states) == lost
    local = replace(ME, queued=False)
    assert why_lost(holder, local, states) is None


@pytest.mark.parametrize("job", [ME.job, "7_0"])
@pytest.mark.parametrize(
    ("there", "here", "tells"),
    [("alpha", "beta", False), ("alpha", "alpha", True), ("", "beta", True), ("alpha", "", True)],
)
def test_a_number_of_another_cluster_says_nothing(job, there, here, tells):
    holder = replace(ME, job=job, host="gpu1", cluster=there, user="u")
    ended = {job: JobStatus("COMPLETED", True)}
    lost = why_lost(holder, replace(ME, cluster=here, user="u"), lambda jobs: ended)
    assert (lost is not None) is tells


def test_a_holder_of_an_older_version_is_read():
    text = "Slurm job 7_0 on gpu1 since 2026-01-01T00:00:00+00:00"
    assert read_holder(text) == LockHolder("7_0", "gpu1", "2026-01-01T00:00:00+00:00", True)


def test_the_queue_is_asked_for_the_jobs_of_the_holder_s_user(held, fake, tmp_path, monkeypatch):
    fake("squeue", f"echo $@ >> {tmp_path}/asked; echo '7_0 gpu1|RUNNING|None|x'")
    holder = replace(ME, job="7_0", host="gpu1", cluster="alpha", user="daemon")
    wait = trial_lock._Wait(tmp_path / LOCK_FILE, ME, print, trial_lock.Waits())
    assert not wait.is_lost(str(holder))
    time.sleep(0.4)
    assert not wait.is_lost(str(holder))
    assert "-u root,daemon" in (tmp_path / "asked").read_text().replace(user_name(), "root")


def test_only_a_wait_among_processes_of_one_host_costs_nothing():
    local = LockHolder("1", "here", "now", False)
    assert has_patience(replace(local, job="2"), local)
    assert has_patience(None, local)
    assert not has_patience(replace(local, host="there"), local)
    assert not has_patience(replace(local, job="2"), ME)
    assert not has_patience(None, ME)


HOLD = """
import fcntl, sys, time
stream = open(sys.argv[1], "a+")
fcntl.flock(stream, fcntl.LOCK_EX)
stream.write(sys.argv[2]); stream.flush()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def held(tmp_path, monkeypatch) -> Iterator:
    """Have another process hold the trial's lock; this one is job 8_1 on gpu2."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURMD_NODENAME", "gpu2")
    monkeypatch.setattr(trial_lock, "_PATIENCE_S", 1.0)
    monkeypatch.setattr(trial_lock, "_QUESTION_S", 0.2)
    monkeypatch.setattr(trial_lock, "_IDLE_S", 0.3)
    monkeypatch.setattr(trial_lock, "_SETTLED_S", 0.3)
    children = []

    def hold(holder: str, trial: str = "") -> None:
        command = [sys.executable, "-c", HOLD, str(tmp_path / trial / LOCK_FILE), holder]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout
        assert child.stdout.readline() == "held\n"

    yield hold
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def run(directory: Path) -> str:
    return TrialJob(directory, ("sh", "-c", "exit 7"), {}, 0, 10_000, 5, 1)()


HOLDER = "Slurm job 7_0 on gpu1 since 2026-01-01T00:00:00+00:00"
QUEUE = "echo 'JOBID NODELIST|STATE|REASON|COMMENT'; echo '7_0 gpu1|{}|None|x'"


@pytest.mark.parametrize("text", [HOLDER, "", "what an older version wrote"])
def test_a_job_that_lives_is_waited_for_and_then_reported(held, tmp_path, fake, text, capfd):
    fake("squeue", QUEUE.format("RUNNING"))
    held(text)
    begun = time.monotonic()
    assert run(tmp_path) == TrialState.INFRA_FAILED
    assert time.monotonic() - begun >= 1.0
    [attempt] = read_attempts(tmp_path)
    assert (attempt.state, attempt.retry, attempt.node_fault) == ("INFRA_FAILED", True, False)
    who = text if text == HOLDER else "another job"
    assert f"{who} has held the trial's lock" in attempt.error
    assert f"remove {tmp_path / LOCK_FILE}" in attempt.error
    said = capfd.readouterr().err
    assert said.count(f"waiting for its lock, which {who} holds") == 1


@pytest.mark.parametrize("queue", [QUEUE.format("NODE_FAIL"), QUEUE.format("CANCELLED"), "echo 'JOBID NODELIST|STATE|REASON|COMMENT'"])  # fmt: skip
def test_the_lock_of_a_job_that_has_ended_is_taken_from_its_dead_host(
    held, tmp_path, fake, queue, capfd
):
    fake("squeue", queue)
    fake("sacct", "echo 'JobID|State|NodeList|Submit'; echo '7_0|RUNNING|gpu1|2026-01-01T00:00:00'")
    held(HOLDER)
    assert run(tmp_path) == TrialState.INFRA_FAILED
    [attempt] = read_attempts(tmp_path)
    assert "exit code 7" in attempt.error, "its own command ran"
    assert "taking over its lock from" in capfd.readouterr().err
    holder = read_holder((tmp_path / LOCK_FILE).read_text())
    assert holder is not None
    assert (holder.job, holder.host) == ("8_1", "gpu2")


def test_a_requeued_job_takes_the_lock_of_its_earlier_start(held, tmp_path, fake):
    fake("squeue", "exit 1")
    held("Slurm job 8_1 on gpu1 since 2026-01-01T00:00:00+00:00")
    run(tmp_path)
    [attempt] = read_attempts(tmp_path)
    assert "exit code 7" in attempt.error


def test_a_lock_that_changed_hands_is_not_taken_for_what_its_last_holder_wrote(
    held, tmp_path, fake
):
    """A new holder has the lock before it has written its name."""
    fake("squeue", QUEUE.format("NODE_FAIL"))
    me = replace(ME, since="now")
    wait = trial_lock._Wait(tmp_path / LOCK_FILE, me, print, trial_lock.Waits())
    assert not wait.is_lost(HOLDER)
    assert not wait.is_lost("Slurm job 6 on gpu3 since now")
    assert not wait.is_lost(HOLDER)
    time.sleep(0.4)
    assert wait.is_lost(HOLDER)


def waited(holder: LockHolder, states: list[tuple[float, str]], monkeypatch) -> tuple[float, str]:
    """Wait for a lock whose holder is in these states, each from a moment on.

    Returns:
        The seconds, and what ended the wait: a lost lock or the error.
    """
    clock, said = [1000.0], list[str]()

    def ask(jobs: Iterable[str]) -> Mapping[str, JobStatus]:
        state = [state for begins, state in states if clock[0] - 1000 >= begins][-1]
        return dict.fromkeys(jobs, JobStatus(state, False, stuck=state == "REQUEUE_HOLD"))

    monkeypatch.setattr(trial_lock, "job_states", ask)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    wait = trial_lock._Wait(Path("t0/lock"), ME, said.append, trial_lock.Waits())
    try:
        while not wait.is_lost(str(holder)):
            clock[0] += 1
    except trial_lock.LockHeld as error:
        said.append(str(error))
    return clock[0] - 1000, said[-1]


@pytest.mark.parametrize(
    ("states", "seconds", "end"),
    [
        # The clean-up of its node does not end, or it is not started again.
        ([(0, "RUNNING"), (60, "COMPLETING")], 601, "no process of that job runs (COMPLETING)"),
        ([(0, "COMPLETING"), (90, "PENDING")], 601, "no process of that job runs (PENDING)"),
        ([(0, "REQUEUE_HOLD")], 601, "no process of that job runs (REQUEUE_HOLD)"),
        # It has just ended, and its node will release the lock.
        ([(0, "RUNNING"), (590, "COMPLETING")], 661, "no process of that job runs (COMPLETING)"),
        # It runs, or runs again.
        ([(0, "RUNNING")], 601, "has held the trial's lock"),
        ([(0, "PENDING"), (580, "RUNNING")], 601, "has held the trial's lock"),
        ([(0, "RUNNING"), (590, "COMPLETING"), (620, "RUNNING")], 631, "has held the trial's lock"),
    ],
)
def test_a_job_without_a_process_loses_its_lock_when_the_patience_has_passed(
    monkeypatch, states, seconds, end
):
    found, said = waited(replace(ME, job="7_0", host="gpu1"), states, monkeypatch)
    assert found == seconds
    assert end in said


def test_a_process_on_this_node_keeps_its_lock(monkeypatch):
    _, said = waited(replace(ME, job="7_0"), [(0, "COMPLETING")], monkeypatch)
    assert "has held the trial's lock" in said


def test_the_holder_of_several_trials_is_waited_for_once(held, tmp_path, fake, monkeypatch):
    """Of the others it is only made sure that they have the same holder: for 0.3 of 1.0 s."""
    looks: dict[str, list[float]] = {"t0": [], "t1": [], "t2": []}
    is_lost = trial_lock._Wait.is_lost

    def counted(wait: trial_lock._Wait, text: str) -> bool:
        looks[wait._trial].append(time.monotonic())
        return is_lost(wait, text)

    monkeypatch.setattr(trial_lock._Wait, "is_lost", counted)
    fake("squeue", QUEUE.format("RUNNING"))
    trials = [JobTrial(tmp_path / name) for name in ("t0", "t1", "t2")]
    for trial in trials:
        trial.directory.mkdir()
        held(HOLDER, trial.directory.name)
    job = TrialJob(tmp_path, ("true",), {}, 0, 10_000, 5, 1, trials=tuple(trials))
    assert job() == TrialState.INFRA_FAILED
    # At least 0.1 s is between two looks, however slow the machine is.
    assert max(len(looks["t1"]), len(looks["t2"])) <= 5, looks
    assert looks["t1"][0] - looks["t0"][0] > 1.0, "the first one is waited for the whole time"
    for trial in trials:
        [attempt] = read_attempts(trial.directory)
        assert "has held the trial's lock" in attempt.error
