"""A run whose directory is copied (``cp -r``) or moved."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from agenttts.errors import cli_command
from agenttts.launch.controller import start_controller
from agenttts.run.directory import RunDirectory
from agenttts.run.starts import ControllerHandle, read_handle, write_handle

STARTED = '{"event": "started", "time": "2026-01-02T03:04:05+00:00"}\n'


@pytest.fixture
def run(unstarted_run, fake, tmp_path) -> RunDirectory:
    """An unfinished run, whose controller is the running job 7."""
    run = unstarted_run(search__iterations=0)
    run.profile_file.write_text("kind: slurm\n")
    run.journal_file.write_text(STARTED)
    write_handle(run, ControllerHandle("slurm", "7", start="s1", path=str(run.path.resolve())))
    file = run.scheduler_logs / "controller" / "b.sh"
    file.parent.mkdir(parents=True)
    file.touch()
    name = f"small-{run.record().token}-controller"
    fake("squeue", f"echo '7 n1|RUNNING|None|agenttts run=small batch={name} start=s1 |{file}'")
    for command in ("scancel", "sbatch"):
        fake(command, f"echo {command} $@ >> {tmp_path}/calls; echo Submitted batch job 8")
    return run


@pytest.fixture
def copy(run) -> RunDirectory:
    return RunDirectory(shutil.copytree(run.path, run.path.parent / "copy"))


def contents(run: RunDirectory) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "command",
    [
        ("cancel",),
        ("resume",),
        ("finish",),
        ("extend", "--set", "search.iterations=3"),
        ("resume", "--from-tables"),
    ],
    ids=" ".join,
)
def test_a_change_of_an_unfinished_copy_names_the_original(cli, run, copy, tmp_path, command):
    before = contents(run) | contents(copy)
    done = cli(command[0], "copy", *command[1:])
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"{copy.path} is a copy of the run {run.path}" in " ".join(done.stderr.split())
    assert f"--set samples={run.path}/samples" in done.stderr
    assert contents(run) | contents(copy) == before
    assert not (tmp_path / "calls").exists()


def test_the_original_s_controller_is_not_the_copy_s(cli, run, copy, tmp_path, caplog):
    def alive(name: str) -> bool:
        return json.loads(cli("status", name, "--json").stdout)["controller"]["alive"]

    assert (alive("small"), alive("copy")) == (True, False)
    assert cli("resume", "small").returncode == 0
    # A copy of a run that an older version has started.
    handle = read_handle(copy)
    assert handle is not None
    write_handle(copy, replace(handle, path=""))
    assert cli("cancel", "copy").returncode == 0
    left = "jobs with the numbers of this run's jobs are not of this run and go on: 7: its batch file is"  # fmt: skip
    assert left in caplog.text
    assert not (tmp_path / "calls").exists(), "the original's jobs are not cancelled"


@pytest.mark.parametrize(("kind", "told"), [("slurm", True), ("local", False)])
def test_the_number_of_a_process_is_not_one_of_a_job(cli, run, fake, caplog, kind, told):
    """The queue may have any job of that number, which a cancel does not touch."""
    write_handle(run, ControllerHandle(kind, "7", path=str(run.path.resolve())))
    fake("squeue", "echo '7 n1|RUNNING|None|(null) |/tmp/other/job.sh'")
    assert cli("cancel", "small").returncode == 0
    assert ("are not of this run and go on: 7: " in caplog.text) is told


def test_a_copy_of_a_run_that_is_over_gets_a_token_of_its_own(run, copy):
    token = run.record().token
    for outcome in ("done", "cancelled"):
        copy.journal_file.write_text(STARTED + f'{{"event": "ended", "outcome": "{outcome}"}}\n')
        start_controller(copy)
        handle, record = read_handle(copy), copy.record()
        assert handle is not None
        assert handle.path == str(copy.path.resolve())
        assert record.token != token
        assert record.earlier_tokens == ()
        own = record.token
        start_controller(copy)
        assert copy.record().token == own, "it is no copy any more"
        write_handle(copy, replace(handle, path=str(run.path)))
        shutil.copy(run.record_file, copy.record_file)
    assert run.record().token == token


def test_a_copy_goes_on_after_a_cancel_of_the_original(cli, run, copy, fake):
    """A user who has copied a run to a larger disk is told so."""
    refused = cli("resume", "copy")
    assert f"Or go on in the copy after '{cli_command('cancel', run.path)}'." in " ".join(
        refused.stderr.split()
    )
    fake("squeue", "true")
    assert cli("cancel", "small").returncode == 0
    assert cli("resume", "copy").returncode == 0
    assert copy.record().token != run.record().token


def test_a_copy_goes_on_if_the_original_is_over(cli, run, copy):
    run.journal_file.write_text(STARTED + '{"event": "ended", "outcome": "failed"}\n')
    assert cli("resume", "copy").returncode == 0
    assert copy.record().token != run.record().token


def test_a_moved_run_goes_on(cli, run):
    token = run.record().token
    moved = RunDirectory(run.path.rename(run.path.parent / "moved"))
    status = json.loads(cli("status", "moved", "--json").stdout)["controller"]
    assert status["alive"] is True
    assert cli("resume", "moved").returncode == 0
    assert moved.record().token == token


def test_a_run_with_a_new_journal_is_no_copy_of_another_run_in_its_old_place(cli, run, unstarted_run):  # fmt: skip
    run.path.rename(run.path.parent / "moved")
    unstarted_run(search__iterations=0)
    assert cli("resume", "moved").returncode == 0
