"""What is the in-process scheduler's own: trials as threads, those that are not, time limits
and the controller.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agenttts.dispatch import in_process
from agenttts.dispatch.attempts import read_attempts
from agenttts.dispatch.base import JobRequest
from agenttts.dispatch.in_process import InProcessScheduler
from agenttts.dispatch.node.scratch import CompileCache
from agenttts.dispatch.node.trial_lock import LOCK_FILE, read_holder
from agenttts.dispatch.node.trial_log import LOG_FILE
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.inference.base import Engine
from agenttts.inference.engine_process import create_engine
from agenttts.tables.schema import TrialState
from agenttts.trial.command import MODULE
from agenttts.trial.result import read_result
from agenttts.trial.spec import SPEC_FILE, TrialSpec
from tests.support.processes import has_pending, is_stopped
from tests.support.runs import journal_events, table
from tests.support.waiting import until, until_ended


@pytest.fixture
def scheduler(tmp_path):
    def make(**settings: object) -> InProcessScheduler:
        profile = {"kind": "in_process", "max_running": 4, "grace_seconds": 5, **settings}
        return InProcessScheduler(Profile(**profile), tmp_path / "jobs")

    return make


def request(spec: TrialSpec, **changes: object) -> JobRequest:
    directory = Path(spec.directory)
    command = (sys.executable, *MODULE, str(directory / SPEC_FILE))
    values = {"env": {}, "gpus": 0, "name": "i0t0-run", "comment": "", **changes}
    return JobRequest(trial=spec.trial, directory=directory, command=command, **values)


@pytest.mark.parametrize("kind", ["thread", "child", "child with a cache"])
def test_a_trial_ends_the_same_as_a_thread_and_as_a_child(scheduler, make_trial, tmp_path, kind):
    spec = make_trial("t0000", ("weak", 2), ("strong", 1))
    here = scheduler()
    cache = CompileCache(tmp_path / "cache", "")
    changes = {"thread": {}, "child": {"env": {"MINE": "1"}}, "child with a cache": {"cache": cache}}[kind]  # fmt: skip
    ids = here.submit("b0", [request(spec, **changes)])
    until_ended(here, ids.values())
    directory = Path(spec.directory)
    result = read_result(directory)
    assert result is not None
    assert (directory / LOG_FILE).read_text() == f"t0000: score {result.score:.4f}\n"
    [attempt] = read_attempts(directory)
    assert (attempt.state, attempt.job_id) == ("COMPLETED", ids["t0000"])


def test_in_a_job_of_the_user_s_its_jobs_are_no_jobs_of_the_queue(
    scheduler, make_trial, tmp_path, monkeypatch
):
    """The queue would be asked for a job that it does not know, and the lock be taken over."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    held: list[str] = []

    def look(*arguments: object) -> None:
        held.extend(lock.read_text() for lock in tmp_path.rglob(LOCK_FILE))

    monkeypatch.setattr(in_process._ThreadJob, "_execute", look)
    here = scheduler()
    ids = here.submit("b0", [request(make_trial("t0000", ("weak", 1), ("weak", 1)))])
    until_ended(here, ids.values())
    [holder] = map(read_holder, held)
    assert holder is not None
    assert (holder.job, holder.queued) == (ids["t0000"], False)


def test_trials_run_side_by_side_in_this_process(scheduler, make_trial, monkeypatch):
    """No engine is made before all three trials want one; one after the other they would wait
    in vain.
    """
    together = threading.Barrier(3)

    def meet_then_create(*arguments: object) -> Engine:
        together.wait(timeout=60)
        return create_engine(*arguments)

    monkeypatch.setattr("agenttts.dispatch.in_process.create_engine", meet_then_create)
    specs = [make_trial(f"t000{n}", ("weak", 2 + n), ("weak", 1)) for n in range(3)]
    here = scheduler()
    ids = here.submit("b0", [request(spec) for spec in specs])
    until_ended(here, ids.values())
    assert all(read_result(Path(spec.directory)) for spec in specs)
    assert {job.partition(".")[0] for job in ids.values()} == {str(os.getpid())}


def test_a_fault_of_the_trial_is_its_state(scheduler, make_trial):
    spec = make_trial("t0000", ("strong", 1), ("weak", 1), options={"weak": {"fail": "OOM"}})
    here = scheduler()
    until_ended(here, here.submit("b0", [request(spec)]).values())
    [attempt] = read_attempts(Path(spec.directory))
    assert attempt.state == TrialState.OOM
    assert "fail: OOM" in attempt.error


def test_a_stopped_trial_keeps_its_samples_and_goes_on_from_them(scheduler, make_trial):
    slow = {"weak": {"seconds_per_sample": 0.05}}
    spec = make_trial("t0000", ("strong", 6), ("weak", 2), options=slow)
    here = scheduler()
    ids = here.submit("b0", [request(spec)])
    until(lambda: list(Path(spec.samples).glob("*.parquet")))
    here.cancel(ids.values())
    until_ended(here, ids.values())
    assert read_attempts(Path(spec.directory))[-1].state == TrialState.CANCELLED
    assert read_result(Path(spec.directory)) is None
    until_ended(here, here.submit("b1", [request(spec)]).values())
    assert read_result(Path(spec.directory)).reused_tokens > 0


def test_a_trial_over_its_time_limit_is_run_again_as_often_as_the_profile_says(
    scheduler, make_trial, monkeypatch
):
    monkeypatch.setattr("agenttts.dispatch.node.job.minutes", lambda time: 0.005)  # 0.3 s
    here = scheduler(trial=JobResources(time="1"), max_timeouts=2)
    spec = make_trial("t0000", ("weak", 1), ("weak", 1))
    directory = Path(spec.directory)
    endless = JobRequest("t0000", directory, ("sleep", "600"), {}, 0, "n", "c")
    until_ended(here, here.submit("b0", [endless]).values())
    assert [attempt.state for attempt in read_attempts(directory)] == ["TIMEOUT"] * 3


def test_jobs_of_a_process_that_is_gone_have_ended(scheduler):
    [status] = scheduler().poll(["999999.0"]).values()
    assert status.ended
    assert status.verdict is TrialState.INFRA_FAILED
    assert "process" in status.detail


# A launch that stops itself (SIGSTOP) once its first trial has been submitted. The run is then under
# way for as long as the processes take that look at it.
STOPS = """
import os, signal, sys
from agenttts.cli import main
from agenttts.run import journal

write = journal.Journal.append

def append(self, event, **values):
    write(self, event, **values)
    if event == "submitted":
        journal.Journal.append = write
        os.kill(os.getpid(), signal.SIGSTOP)

journal.Journal.append = append
main(sys.argv[1:])
"""


@pytest.mark.processes
@pytest.mark.parametrize("interrupted", [False, True])
def test_another_process_sees_the_run_and_can_cancel_it(cli, scripted_spec, tmp_path, interrupted):
    """The launch sees that it has to end, or is interrupted by `cancel` before it has seen it."""
    slow = {"seconds_per_sample": 0.1}
    changes = {"search__iterations": 0, "task__examples": 2}
    spec = scripted_spec(models__weak__options=slow, models__strong__options=slow, **changes)
    command = [sys.executable, "-c", STOPS, "launch", str(spec)]
    launching = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    run = tmp_path / "results/small"
    try:
        until(lambda: is_stopped(launching.pid), "the launch to stop itself")
        status = json.loads(cli("status", "small", "--json").stdout)
        assert status["controller"]["alive"]
        assert status["controller"]["job_id"] == str(launching.pid)
        assert {job["state"] for job in status["jobs"]} == {"RUNNING"}
        assert set(status["trials"]) == {"RUNNING"}
        with ThreadPoolExecutor() as pool:
            cancelling = pool.submit(cli, "cancel", "small", "--json")
            until(lambda: json.loads((run / "controller.json").read_text())["cancelled"])
            if interrupted:
                until(lambda: has_pending(launching.pid, signal.SIGINT), "the interrupt")
            launching.send_signal(signal.SIGCONT)
            cancelled = json.loads(cancelling.result().stdout)
        _, error = launching.communicate(timeout=60)
    finally:
        launching.kill()
    assert launching.returncode == 4
    assert error.endswith("small ended: cancelled\n")
    assert len(error.strip().splitlines()) == 1, error
    assert cancelled["outcome"] == "cancelled"
    assert not cancelled["controller"]["alive"]
    done = cli("resume", "small", "--wait")
    assert done.returncode == 0, done.stderr
    assert set(table(run)["state"]) == {"COMPLETED"}


@pytest.mark.processes
def test_a_launch_that_was_killed_is_resumed(cli, scripted_spec, tmp_path):
    slow = {"seconds_per_sample": 0.02}
    spec = scripted_spec(models__weak__options=slow, models__strong__options=slow)
    command = [sys.executable, "-m", "agenttts.cli", "launch", str(spec)]
    launching = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    run = tmp_path / "results/small"
    until(lambda: (run / "journal.jsonl").exists() and journal_events(run, "finished"))
    launching.send_signal(signal.SIGKILL)
    launching.wait()
    assert not json.loads(cli("status", "small", "--json").stdout)["controller"]["alive"]
    done = cli("resume", "small", "--wait")
    assert done.returncode == 0, done.stderr
    assert set(table(run)["state"]) == {"COMPLETED"}
    ends = [event["trial"] for event in journal_events(run, "finished")]
    assert len(ends) == len(set(ends))
