"""A run's directory that is removed, moved or replaced while a command or the controller uses
it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from types import SimpleNamespace

import pytest

from agenttts.run.directory import RunDirectory, RunGone, in_use
from agenttts.run.journal import read_state
from tests.support.runs import table

LOST = {
    "removed": ("rm -rf {run}", "was removed or moved"),
    "moved": ("mv {run} {run}.moved", "was removed or moved"),
    "replaced": ("{python} {folder}/replace.py {run}", "was replaced by another run"),
}  # fmt: skip
# In one step: a controller that looked between two would find the run removed, and say so.
REPLACE = """
import ctypes, pathlib, shutil, sys
run = pathlib.Path(sys.argv[1])
other = run.with_name("other")
shutil.copytree(run, other)
record = other / "run.json"
record.write_text(record.read_text().replace('"token": "', '"token": "0'))
here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
assert ctypes.CDLL(None).renameat2(here, bytes(run), here, bytes(other), exchange) == 0
"""


@pytest.mark.processes
@pytest.mark.parametrize("how", LOST)
def test_the_controller_of_a_run_that_is_gone_ends_and_makes_nothing_of_it_anew(
    cli, scripted_spec, tmp_path, how
):
    """The first trial's own job takes the run away, before the trial begins."""
    command, said = LOST[how]
    run = tmp_path / "results" / "small"
    (tmp_path / "replace.py").write_text(REPLACE)
    take_away = command.format(run=run, folder=tmp_path, python=sys.executable)
    profile = {"kind": "in_process", "poll_seconds": 0.1, "retry_pauses": [0], "setup": [f"[ -e {tmp_path}/done ] || {{ touch {tmp_path}/done; {take_away}; }}"]}  # fmt: skip
    (tmp_path / "odd.yaml").write_text(json.dumps(profile))
    done = cli("launch", scripted_spec(search__iterations=0), "--cluster", "./odd.yaml", "--wait")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (3, 1), done.stderr
    assert f"the run directory {run} {said} while it was in use" in done.stderr
    assert "agenttts-hpc resume" in done.stderr
    if how != "replaced":
        assert not run.exists()
    if how != "moved":
        return
    # What was moved away says why it ended, and goes on where it is now.
    moved = run.with_name("small.moved")
    assert said in str(read_state(moved / "journal.jsonl").finished)
    assert cli("resume", moved, "--wait").returncode == 0
    assert set(table(moved)["state"]) == {"COMPLETED"}


@pytest.mark.processes
def test_a_trial_whose_directory_was_removed_runs_again(cli, scripted_spec, tmp_path):
    run = tmp_path / "results" / "small"
    remove = f"[ -e {tmp_path}/done ] || {{ touch {tmp_path}/done; rm -rf {run}/trials/t0000; }}"
    profile = {"kind": "in_process", "poll_seconds": 0.1, "retry_pauses": [0], "setup": [remove]}
    (tmp_path / "odd.yaml").write_text(json.dumps(profile))
    done = cli("launch", scripted_spec(search__iterations=0), "--cluster", "./odd.yaml", "--wait")
    assert done.returncode == 0, done.stderr
    assert set(table(run)["state"]) == {"COMPLETED"}


def test_every_error_of_a_run_that_is_gone_says_so(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    with pytest.raises(FileNotFoundError, match="else"), in_use(run):
        raise FileNotFoundError("else")
    run.path.rmdir()
    with pytest.raises(RunGone, match="was removed or moved while it was in use"), in_use(run):
        raise FileNotFoundError("else")


def test_status_follows_a_run_until_it_is_gone(cli, scripted_spec, tmp_path, monkeypatch):
    assert cli("launch", scripted_spec(search__iterations=0), "--wait").returncode == 0
    run = tmp_path / "results" / "small"
    # Not over, and its controller lives: the command looks again and again.
    events = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    (run / "journal.jsonl").write_text("".join(events[:-1]))
    from agenttts.status import run_status as status

    looks = []

    def look(interval: float) -> None:
        looks.append(interval)
        shutil.rmtree(run)

    monkeypatch.setattr(status, "controller_state", lambda run: status_running())
    # Not of the module `time`: threads that earlier tests have left sleep, too.
    clock = SimpleNamespace(sleep=look, monotonic=time.monotonic)
    monkeypatch.setattr(status, "time", clock)
    done = cli("status", "small", "--watch")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (3, 1), done.stderr
    assert f"the run directory {run} was removed or moved while it was in use" in done.stderr
    assert len(looks) == 1
    assert not run.exists()


def status_running():
    from agenttts.dispatch.base import JobStatus

    return JobStatus("RUNNING", ended=False)


@pytest.mark.parametrize("command", ["status", "resume", "cancel", "report"])
def test_a_run_without_its_spec_is_not_a_run_that_never_was(cli, scripted_spec, tmp_path, command):
    assert cli("launch", scripted_spec(search__iterations=0), "--wait").returncode == 0
    (tmp_path / "results/small/spec.yaml").unlink()
    done = cli(command, "small")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "small/spec.yaml: the file does not exist" in done.stderr
