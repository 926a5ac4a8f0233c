"""A controller that is a process here and cannot be started: one paragraph, and nothing that
looks as if it ran.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from agenttts.dispatch import local
from agenttts.errors import MissingRequirement
from agenttts.launch import controller
from agenttts.run.directory import RunDirectory
from agenttts.run.starts import ControllerHandle, read_handle, write_handle
from tests.support.processes import processes_with
from tests.support.runs import controller_pids
from tests.support.waiting import until

TRACEBACK = "Traceback (most recent call last):\n  File x\nBlockingIOError: [Errno 11] Resource temporarily unavailable"  # fmt: skip


@pytest.fixture
def starter(tmp_path, monkeypatch):
    """What is run in place of the starting program."""

    def make(script: str) -> None:
        program = tmp_path / "starter"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(local.sys, "executable", str(program))

    return make


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.scheduler_logs.mkdir(parents=True)
    record = {
        "schema_number": 1,
        "token": "abcd",
        "version": "0.1.0",
        "models": {},
        "samples": "samples",
    }
    record |= dict.fromkeys(("container", "image_sha256", "compile_cache", "agent"))
    run.record_file.write_text(json.dumps(record | {"skip_bad": 0, "data": [], "examples": {}}))
    run.profile_file.write_text("kind: slurm\ncontroller: {where: here}\n")
    return run


def local_controllers(run: RunDirectory) -> list[str]:
    folder = str(run.scheduler_logs / "controller")
    return [
        str(pid)
        for pid in processes_with(folder)
        if "submitit.local._local" in Path(f"/proc/{pid}/cmdline").read_text()
    ]


SCRIPTS = [
    (f"printf '{TRACEBACK}\\n' >&2; exit 1", "BlockingIOError: [Errno 11] Resource temporarily unavailable"),
    ("echo 'no room'; echo; exit 3", "no room"),
    ("exit 7", "exit code 7"),
    ("kill -9 $$", "exit code -9"),
    (r"printf 'caf\351 \377'; exit 1", "caf\ufffd \ufffd"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "said"), SCRIPTS)
@pytest.mark.parametrize("earlier", [True, False])
def test_the_last_that_was_said_is_the_error(run, starter, script, said, earlier):
    (run.scheduler_logs / "start.log").write_text("OSError: of an earlier start\n")
    before = ControllerHandle("local", "1", host="login1")
    if earlier:
        write_handle(run, before)
    starter(script)
    with pytest.raises(MissingRequirement) as caught:
        controller.start_controller(run)
    assert f"controller could not be started here: {said}. Fix: " in str(caught.value)
    if earlier:
        assert read_handle(run) == before, "the earlier start is the one that counts"


def test_no_program_at_all_and_no_log(run, monkeypatch):
    monkeypatch.setattr(local.sys, "executable", "/nonexistent/python")
    with pytest.raises(MissingRequirement, match="/nonexistent/python: No such file or directory"):
        controller.start_controller(run)
    (run.scheduler_logs / "start.log").unlink()
    (run.scheduler_logs / "start.log").mkdir()
    with pytest.raises(MissingRequirement, match=r"start\.log: Is a directory"):
        controller.start_controller(run)


def test_the_program_itself_failing(run):
    """submitit in the child cannot make its folder."""
    (run.scheduler_logs / "controller").write_text("in the way")
    with pytest.raises(MissingRequirement, match="could not be started here: .*File exists"):
        controller.start_controller(run)


def test_a_controller_that_was_started_all_the_same_is_left_to_run(run, starter):
    """The starting program dies after the controller has begun, on writing down its pid for
    instance.
    """
    marks = f"submitit.local._local {run.scheduler_logs / 'controller'}"
    # The shell's child has the shell's command line until it becomes the program.
    begun = "until grep -qa submitit.local /proc/$!/cmdline; do :; done"
    starter(f"{sys.executable} -c 'import time; time.sleep(60)' {marks} & {begun}; exit 1")
    write_handle(run, ControllerHandle("local", "1", host="login1"))
    try:
        controller.start_controller(run)
        handle = read_handle(run)
        assert handle is not None
        assert handle.job_id in local_controllers(run)
        started = controller.started_controller(run)
        assert started is not None
        assert not controller.controller_state(started).ended
    finally:
        for pid in local_controllers(run):
            os.kill(int(pid), 9)


@pytest.mark.processes
def test_a_launch_leaves_nothing_behind_and_a_resume_goes_on_later(cli, scripted_spec, starter, tmp_path, monkeypatch):  # fmt: skip
    real = sys.executable
    starter("echo 'no room' >&2; exit 1")
    done = cli("launch", scripted_spec(search__iterations=0, cluster="local"))
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (3, 1), done.stderr
    assert "could not be started here: no room" in done.stderr
    assert not (tmp_path / "results").exists()
    monkeypatch.setattr(local.sys, "executable", real)
    assert (
        cli("launch", scripted_spec(search__iterations=0, cluster="local"), "--wait").returncode
        == 0
    )
    # The controller's process may still be ending when it has written that the run is over.
    until(lambda: not controller_pids(tmp_path / "results/small"), seconds=60)
    journal = Path(tmp_path / "results/small/journal.jsonl")
    kept = [line for line in journal.read_text().splitlines(keepends=True) if json.loads(line)["event"] != "ended"]  # fmt: skip
    journal.write_text("".join(kept))
    starter("echo 'no room' >&2; exit 1")
    done = cli("resume", "small")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (3, 1), done.stderr
    assert "no room" in done.stderr
    monkeypatch.setattr(local.sys, "executable", real)
    assert cli("resume", "small", "--wait").returncode == 0
