"""A run whose controller is a process of another host: what can be told, and what has to be
done there.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

from agenttts.launch import controller as controller_module


@pytest.fixture
def run(cli, scripted_spec, tmp_path) -> Path:
    """A finished run that looks as if the controller of a host 'login1' had been at it."""
    assert cli("launch", scripted_spec(search__iterations=0)).returncode == 0
    run = tmp_path / "results" / "small"
    handle = {"kind": "local", "job_id": "1", "host": "login1", "identity": "boot 7"}
    (run / "controller.json").write_text(json.dumps(handle))
    return run


@pytest.fixture
def unfinished(run) -> Path:
    """The same before its end was written."""
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["event"] != "ended"]
    assert len(kept) < len(lines)
    (run / "journal.jsonl").write_text("".join(kept))
    return run


def controller(cli) -> dict:
    done = cli("status", "small", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["controller"]


def test_status_says_that_it_cannot_tell(cli, unfinished):
    seen = controller(cli)
    assert (seen["alive"], seen["state"], seen["host"]) == (None, "ELSEWHERE", "login1")
    assert "is process 1 on login1, which cannot be reached from this host (" in seen["reason"]
    shown = cli("status", "small").stdout
    assert "controller 1 on login1 unknown (is process 1 on login1" in " ".join(shown.split())


def test_status_knows_it_from_the_lock_that_it_holds(cli, unfinished, monkeypatch):
    with (unfinished / "controller.lock").open("r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert controller(cli)["alive"] is True
        assert cli("resume", "small").returncode == 0, "it runs: there is nothing to do"
        monkeypatch.setattr(controller_module, "_STOP_PATIENCE_S", 0.3)
        done = cli("cancel", "small")
    assert done.returncode == 4
    assert "the controller (job 1 on login1)" in done.stderr
    assert json.loads((unfinished / "controller.json").read_text())["cancelled"], "it will see it"


@pytest.mark.parametrize("locked", [True, False])
def test_no_trial_that_runs_there_has_ended(cli, unfinished, locked):
    events = (unfinished / "journal.jsonl").read_text().splitlines(keepends=True)
    submitted = next(n for n, e in enumerate(events) if json.loads(e)["event"] == "submitted")
    (unfinished / "journal.jsonl").write_text("".join(events[: submitted + 1]))
    with (unfinished / "controller.lock").open("r+") as stream:
        if locked:
            fcntl.flock(stream, fcntl.LOCK_EX)
        jobs = json.loads(cli("status", "small", "--json").stdout)["jobs"]
    assert {job["state"] for job in jobs} == {"RUNNING" if locked else "ELSEWHERE"}


@pytest.mark.parametrize("command", ["resume", "cancel"])
def test_what_has_to_be_done_there_is_refused_with_the_way_on(cli, unfinished, command):
    done = cli(command, "small")
    assert done.returncode == 3
    assert "Fix: run this command on login1; where that host is gone for good, remove" in done.stderr  # fmt: skip
    assert str(unfinished / "controller.json") in done.stderr
    assert ("the cancel is on record" in done.stderr) is (command == "cancel")
    (unfinished / "controller.json").unlink()
    assert cli(command, "small").returncode == 0
    outcome = json.loads(cli("status", "small", "--json").stdout)["outcome"]
    assert outcome == {"resume": "done", "cancel": "cancelled"}[command]


def test_a_run_that_is_over_is_over_wherever_it_ran(cli, run):
    assert controller(cli)["alive"] is False
    for command in ("status", "resume", "cancel", "report"):
        assert cli(command, "small").returncode == 0
