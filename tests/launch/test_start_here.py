"""A controller that is a process here and cannot be started: one paragraph, and nothing that
looks as if it ran.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from agenttts.dispatch import local
from agenttts.errors import MissingRequirement
from agenttts.files.locks import locked
from agenttts.launch import controller, launch
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import Journal
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


@pytest.fixture
def cancelled(finished_run):
    """The directory of a run that was cancelled; ``cancelled(cluster="local")`` sets its spec."""

    def make(**settings: object) -> Path:
        path: Path = finished_run("small", search__iterations=0, **settings)
        until(lambda: not controller_pids(path), seconds=60)
        with closing(Journal(path / "journal.jsonl")) as journal:
            journal.append("ended", outcome="cancelled")
        return path

    return make


@pytest.mark.processes
@pytest.mark.parametrize(
    ("cluster", "code", "said"),
    [
        ("in_process", 2, "the run was launched without this model"),
        ("local", 4, "ended before the end of the run"),
    ],
)
def test_a_controller_that_ends_at_once_does_not_leave_the_earlier_end(
    cli, cancelled, cluster, code, said
):
    path = cancelled(cluster=cluster)
    text = (path / "spec.yaml").read_text()
    spec = yaml.safe_load(text)
    spec["models"]["other"] = spec["models"]["weak"]
    (path / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    done = cli("resume", path, "--wait")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    status = json.loads(cli("status", path, "--json").stdout)
    assert (status["outcome"], status["controller"]["alive"]) == (None, False)
    report = json.loads(cli("report", path, "--format", "json").stdout)
    assert report["runs"][0]["finished"] is False
    (path / "spec.yaml").write_text(text)
    assert cli("resume", path, "--wait").returncode == 0


@pytest.mark.processes
def test_a_run_whose_start_is_refused_keeps_its_end(cli, cancelled, starter):
    path = cancelled(cluster="local")
    starter("echo 'no room' >&2; exit 1")
    done = cli("resume", path)
    assert (done.returncode, "no room" in done.stderr) == (3, True), done.stderr
    assert json.loads(cli("status", path, "--json").stdout)["outcome"] == "cancelled"


@pytest.mark.processes
def test_a_run_goes_on_while_its_last_controller_hangs_at_its_end(cli, cancelled, monkeypatch):
    """It holds the lock. Its successor waits for it; no command has to."""
    path = cancelled(cluster="local")
    started: list[RunDirectory] = []
    monkeypatch.setattr(launch, "start_controller", started.append)
    with locked(path / "controller.lock"):
        assert cli("resume", path).returncode == 0
    assert started == [RunDirectory(path)]
    assert "resumed" not in (path / "journal.jsonl").read_text()
    assert cli("resume", path).returncode == 0
    assert "resumed" in (path / "journal.jsonl").read_text()
