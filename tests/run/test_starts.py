"""Launch, resume and cancel of one run at the same time, and a controller's start that is
cancelled or superseded.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agenttts.dispatch.base import QueueUnavailable
from agenttts.errors import MissingRequirement, RunFailed
from agenttts.launch import controller, launch
from agenttts.launch.controller import controller_state, started_controller
from agenttts.loop import controller_job as process
from agenttts.run import starts
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.starts import (
    ControllerHandle,
    ControllerSign,
    RunCancelled,
    RunRemoved,
    StartCheck,
    StartSuperseded,
    one_command,
    read_handle,
    write_handle,
)
from tests.support.runs import controller_pids, journal_events, table
from tests.support.waiting import until


@pytest.fixture
def run(unstarted_run) -> RunDirectory:
    """A run whose controller was never started."""
    return unstarted_run(search__iterations=0)


def test_a_start_goes_on_while_it_is_the_last_one_and_not_cancelled(run):
    first, second = ControllerHandle("local", "1"), ControllerHandle("local", "2")
    assert first.start != second.start
    check = StartCheck(run, first.start)
    check()
    write_handle(run, first)
    check()
    write_handle(run, replace(first, cancelled=True))
    with pytest.raises(RunCancelled):
        check()
    write_handle(run, second)
    with pytest.raises(StartSuperseded, match="a newer controller.*job 2"):
        check()
    write_handle(run, replace(second, cancelled=True))
    with pytest.raises(StartSuperseded):
        check()
    StartCheck(run, "")()  # of an older version, or a test's


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"kind": "local"}'])
def test_a_file_that_cannot_be_read_for_now_ends_no_run(run, content, caplog):
    if content is not None:
        run.controller_file.write_text(content)
    check = StartCheck(run, "1")
    check()
    check()
    assert len(caplog.records) == (content is not None), "said once"


def test_a_handle_of_an_older_version_is_read(run):
    run.controller_file.write_text('{"kind": "slurm", "job_id": 7, "later": 1}')
    assert read_handle(run) == ControllerHandle("slurm", "7", start="", host="")


def test_commands_wait_for_each_other(run, monkeypatch):
    order = []

    def other() -> None:
        with one_command(run, "cancel"):
            order.append("second")

    with one_command(run, "resume"):
        thread = threading.Thread(target=other)
        thread.start()
        with monkeypatch.context() as patched:
            patched.setattr(starts, "_COMMAND_PATIENCE_S", 0.0)
            expected = (
                r"another command.*\(resume on .*, process \d+, since 20.*no longer exists, "
                rf"remove {run.command_lock_file} first"
            )
            with pytest.raises(RunFailed, match=expected), one_command(run, "cancel"):
                raise AssertionError
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_a_run_that_is_gone_is_said(run, tmp_path):
    run.path.rename(tmp_path / "elsewhere")
    with pytest.raises(RunRemoved, match="removed or moved"):
        launch.resume(run)
    with pytest.raises(RunRemoved):
        launch.cancel(run)


def test_a_start_that_was_cancelled_before_it_began_ends_the_run(run):
    """As a job that Slurm starts although it was cancelled while slurmctld was down, or
    requeues.
    """
    handle = ControllerHandle("local", "1", cancelled=True)
    write_handle(run, handle)
    process.run_controller(run, handle.start)
    assert [e["event"] for e in journal_events(run.path)] == ["ended"]
    assert read_state(run.journal_file).finished == "cancelled"


def test_a_start_that_was_superseded_touches_nothing(run):
    write_handle(run, ControllerHandle("local", "2"))
    process.run_controller(run, "0000")
    assert not run.journal_file.exists()


@pytest.mark.parametrize("when", ["submit", "poll"])
def test_a_controller_that_is_cancelled_while_it_runs_ends_the_run_in_order(run, monkeypatch, when):
    from agenttts.dispatch.in_process import InProcessScheduler

    handle = ControllerHandle("local", "1")
    write_handle(run, handle)

    class Cancelling(InProcessScheduler):
        def __getattribute__(self, name):
            if name == when:
                write_handle(run, replace(handle, cancelled=True))
            return super().__getattribute__(name)

    monkeypatch.setattr(process, "trial_scheduler", lambda run, profile: Cancelling(profile, run.scheduler_logs / "trials"))  # fmt: skip
    process.run_controller(run, handle.start)
    state = read_state(run.journal_file)
    assert state.finished == "cancelled"
    assert state.trials
    assert not state.unfinished()
    assert journal_events(run.path, "ended")[-1]["outcome"] == "cancelled"


# Slurm as the login node sees it: squeue shows the file `queue`, sbatch notes what it is given.
SBATCH = 'cat "$1" >> {0}/sbatched; [ -e {0}/down ] || exec echo Submitted batch job 7; echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1'  # fmt: skip
SQUEUE = 'if [ -e {0}/down ]; then echo "Unable to contact slurm controller" >&2; exit 1; fi; echo "JOBID|STATE|REASON|COMMENT"; cat {0}/queue'  # fmt: skip
SCANCEL = 'echo "$@" >> {0}/scancelled; : > {0}/queue'


@pytest.fixture
def on_slurm(run, fake, tmp_path) -> RunDirectory:
    """`run`, its profile changed to one of a cluster of fake commands."""
    run.profile_file.write_text("kind: slurm\npoll_seconds: 0.05\n")
    (tmp_path / "queue").touch()
    for name, script in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        fake(name, script.format(tmp_path))
    return run


def comments(tmp_path: Path) -> list[str]:
    """The comments of the jobs that sbatch was given."""
    lines = (tmp_path / "sbatched").read_text().splitlines()
    return [line.partition("=")[2].strip("'") for line in lines if "--comment=" in line]


def test_a_controller_that_sbatch_gave_no_answer_to_is_not_submitted_twice(on_slurm, tmp_path):
    (tmp_path / "down").touch()
    with pytest.raises(QueueUnavailable):
        launch.resume(on_slurm)
    handle = read_handle(on_slurm)
    assert handle.job_id is None
    (tmp_path / "down").unlink()
    [comment] = comments(tmp_path)
    assert f"start={handle.start}" in comment.split()
    state = controller_state(started_controller(on_slurm))
    assert state.ended
    assert "sbatch did not answer" in state.detail
    (tmp_path / "queue").write_text(f"7|PENDING|Priority|{comment}\n")
    for _ in range(2):
        launch.resume(on_slurm)
    assert read_handle(on_slurm) == replace(handle, job_id="7")
    assert len(comments(tmp_path)) == 1


def test_a_cancel_ends_every_controller_of_the_run_and_no_other(on_slurm, tmp_path):
    launch.resume(on_slurm)
    [comment] = comments(tmp_path)
    mark = next(word for word in comment.split() if word.startswith("batch="))
    (tmp_path / "queue").write_text(
        f"7|RUNNING|None|{comment}\n5|PENDING|Dependency|agenttts run=small controller {mark} start=0000\n"
        "8|RUNNING|None|agenttts run=small controller batch=small-00000000-controller start=1111\n"
    )
    launch.cancel(on_slurm)
    assert sorted((tmp_path / "scancelled").read_text().split()) == ["5", "7"]
    assert read_handle(on_slurm).cancelled
    assert read_state(on_slurm.journal_file).finished == "cancelled"


def test_a_cancel_is_not_lost_while_slurmctld_is_down(on_slurm, tmp_path):
    launch.resume(on_slurm)
    (tmp_path / "queue").write_text("7|PENDING|Priority|x\n")
    (tmp_path / "down").touch()
    with pytest.raises(QueueUnavailable):
        launch.cancel(on_slurm)
    assert read_state(on_slurm.journal_file).finished is None
    (tmp_path / "down").unlink()
    process.run_controller(on_slurm, read_handle(on_slurm).start)  # Slurm starts it after all
    assert read_state(on_slurm.journal_file).finished == "cancelled"


def test_a_resume_after_a_cancel_is_another_start(on_slurm, tmp_path):
    launch.resume(on_slurm)
    before = read_handle(on_slurm)
    launch.cancel(on_slurm)
    launch.resume(on_slurm)
    after = read_handle(on_slurm)
    assert not after.cancelled
    assert after.start != before.start
    with pytest.raises(StartSuperseded):
        StartCheck(on_slurm, before.start)()


def test_a_controller_that_only_sacct_calls_alive_is_over(on_slurm, tmp_path, fake, monkeypatch):
    """slurmdbd was never told of its end: squeue does not know the job."""
    launch.resume(on_slurm)
    before = read_handle(on_slurm)
    (tmp_path / "queue").write_text("")
    fake("sacct", f"echo '{before.job_id}|RUNNING|login1|2026-01-01T00:00:00'")
    state = controller_state(started_controller(on_slurm))
    assert state.ended
    assert "runawayjobs" in state.detail
    launch.resume(on_slurm)
    assert read_handle(on_slurm).start != before.start, "another controller"
    (tmp_path / "queue").write_text("")
    monkeypatch.setattr(controller, "_STOP_PATIENCE_S", 0.1)
    launch.cancel(on_slurm)
    assert read_state(on_slurm.journal_file).finished == "cancelled"


def test_a_resume_that_sbatch_refuses_leaves_the_earlier_start(on_slurm, fake):
    launch.resume(on_slurm)
    before = read_handle(on_slurm)
    fake("sbatch", "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1")
    fake("sacct", "echo '7|CANCELLED'")
    with pytest.raises(MissingRequirement, match="refused"):
        launch.resume(on_slurm)
    assert read_handle(on_slurm) == before


def test_status_says_why_controller_and_served_model_wait_and_following_has_patience(
    on_slurm, tmp_path, cli
):
    launch.resume(on_slurm)
    rows = "7|PENDING|PartitionTimeLimit|x\n9|PENDING|JobHeldUser|agenttts agent\n"
    (tmp_path / "queue").write_text(rows)
    on_slurm.agent.mkdir()
    (on_slurm.agent / "job.json").write_text('{"job_id": "9"}')
    shown = " ".join(cli("status", "small").stdout.split())
    assert "controller 7 waiting (PartitionTimeLimit: its time limit is above the partition's limit; lower the key time" in shown  # fmt: skip
    assert "served model: job 9 waiting (JobHeldUser: it is held by you; 'scontrol release 9' releases it)" in shown  # fmt: skip
    document = json.loads(cli("status", "small", "--json").stdout)
    assert document["controller"]["stuck"]
    assert document["served"]["stuck"]
    profile = on_slurm.profile_file.read_text()
    on_slurm.profile_file.write_text(profile + "never_patience_minutes: 0\n")
    done = cli("status", "small", "--watch")
    assert done.returncode == 4
    assert "cannot start: PartitionTimeLimit: " in done.stderr
    assert f"'agenttts-hpc cancel {on_slurm.path}' removes it" in done.stderr
    assert not (tmp_path / "scancelled").exists(), "watching changes nothing"


@pytest.mark.parametrize("job", ['{"job_id": "9"}', "{", "[]", "{}", None])
def test_a_served_model_s_job_that_is_over_or_not_known_is_not_shown(on_slurm, tmp_path, cli, job):
    launch.resume(on_slurm)
    (tmp_path / "queue").write_text("9|COMPLETED|None|x\n")
    if job is not None:
        on_slurm.agent.mkdir()
        (on_slurm.agent / "job.json").write_text(job)
    assert json.loads(cli("status", "small", "--json").stdout)["served"] is None


SLOW = {"models__strong__options": {"seconds_per_sample": 0.05}, "models__weak__options": {"seconds_per_sample": 0.05}}  # fmt: skip


def at_once(tmp_path: Path, *commands: tuple[object, ...]) -> list[str]:
    """Run these command lines at the same time; what each said on standard error."""
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "agenttts.cli", *map(str, command)],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for command in commands
    ]  # fmt: skip
    said = [program.communicate(timeout=240)[1] for program in programs]
    assert [program.returncode for program in programs] == [0] * len(programs), said
    return said


@pytest.mark.processes
def test_launches_resumes_and_cancels_at_once_leave_one_controller_or_none(
    cli, scripted_spec, tmp_path
):
    spec = scripted_spec(cluster="local", search__iterations=1, **SLOW)
    path = tmp_path / "results" / "small"
    at_once(tmp_path, ("launch", spec), ("launch", spec))
    until(lambda: controller_pids(path), "a controller")
    at_once(tmp_path, ("cancel", "small"), ("resume", "small"), ("resume", "small"), ("cancel", "small"))  # fmt: skip
    # Whatever came last: a cancel leaves nothing, a resume one controller that is not cancelled.
    run = RunDirectory(path)
    handle = read_handle(run)
    assert bool(controller_pids(path)) == (not handle.cancelled)
    if handle.cancelled:
        assert read_state(run.journal_file).finished == "cancelled"
    done = cli("cancel", "small", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "cancelled"
    assert not controller_pids(path)
    frame = table(path)
    assert frame["trial"].n_unique() == frame.height
    assert not read_state(run.journal_file).unfinished()


def test_a_cancel_does_not_wait_for_a_node_that_never_cleans_up(
    on_slurm, tmp_path, fake, monkeypatch
):
    launch.resume(on_slurm)
    fake("scancel", "exit 0")
    [comment] = comments(tmp_path)
    monkeypatch.setattr(controller, "_STOP_PATIENCE_S", 0.3)
    (tmp_path / "queue").write_text(f"7|COMPLETING|None|{comment}\n")
    again = rf"has not ended within.*; 'agenttts-hpc cancel {on_slurm.path}' waits again"
    with starts.only_controller(on_slurm), pytest.raises(RunFailed, match=again):
        launch.cancel(on_slurm)
    launch.cancel(on_slurm)
    assert read_state(on_slurm.journal_file).finished == "cancelled"


def test_a_lock_that_is_held_says_by_whom_and_the_way_out(run, monkeypatch):
    monkeypatch.setattr(starts, "_CONTROLLER_PATIENCE_S", 0.2)
    with starts.only_controller(run):
        with pytest.raises(RunFailed) as caught, starts.only_controller(run):
            pass
        assert f"(process {os.getpid()} on {socket.gethostname()}, since " in str(caught.value)
        assert f"remove {run.lock_file}" in str(caught.value)


def test_a_requeued_controller_takes_the_lock_of_its_earlier_start(run, monkeypatch):
    monkeypatch.setattr(starts, "_CONTROLLER_PATIENCE_S", 0.2)
    with run.lock_file.open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write("job 7 on node1, since 2026-01-01T00:00:00+00:00")
        stream.flush()
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        with pytest.raises(RunFailed, match="job 7 on node1"), starts.only_controller(run):
            pass  # a process that merely runs in that job
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
        monkeypatch.setenv("SLURM_JOB_ID", "77")
        with pytest.raises(RunFailed, match="job 7 on node1"), starts.only_controller(run):
            pass
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        with starts.only_controller(run):
            assert run.lock_file.read_text().startswith(f"job 7 on {socket.gethostname()},")


def test_a_job_of_this_number_on_another_cluster_is_not_its_earlier_start(run, monkeypatch):
    monkeypatch.setattr(starts, "_CONTROLLER_PATIENCE_S", 0.2)
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "alpha"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with starts.only_controller(run):
        written = run.lock_file.read_text()
    assert written.endswith(", cluster alpha")
    with run.lock_file.open("r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(written.replace(socket.gethostname(), "node1"))
        stream.flush()
        with monkeypatch.context() as patched:
            patched.setenv("SLURM_CLUSTER_NAME", "beta")
            with pytest.raises(RunFailed, match="cluster alpha"), starts.only_controller(run):
                pass
        with starts.only_controller(run):
            pass


def test_a_controller_gives_a_sign_which_the_next_one_finds(run, monkeypatch):
    sign = ControllerSign(run)
    assert sign.last() is None
    with sign.given():
        first = until(sign.last)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(first)).total_seconds()) < 60
    old = "1970-01-01T00:00:00+00:00"
    with sign.given():
        until(lambda: sign.last() > first)
        os.utime(run.sign_file, (0, 0))
        time.sleep(0.1)
        assert sign.last() == old, "a recent sign is not repeated"
    monkeypatch.setattr(starts, "_SIGN_S", 0.01)
    with sign.given():  # this thread does something else meanwhile
        until(lambda: sign.last() >= first)
        os.utime(run.sign_file, (0, 0))
        until(lambda: sign.last() >= first)
        run.path.rename(run.path.with_name("moved"))
        time.sleep(0.05)
    assert not run.path.exists()


def test_a_controller_that_has_ended_gives_no_sign(run, monkeypatch):
    monkeypatch.setattr(starts, "_SIGN_S", 0.01)
    sign = ControllerSign(run)
    with sign.given():
        until(sign.last)
    os.utime(run.sign_file, (0, 0))
    time.sleep(0.05)
    assert sign.last() == "1970-01-01T00:00:00+00:00"
