"""``list``: all runs of a results directory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agenttts.dispatch.base import JobStatus, QueueUnavailable
from agenttts.dispatch.local import LocalScheduler
from agenttts.dispatch.service import ELSEWHERE
from agenttts.errors import MissingRequirement
from agenttts.loop import controller_job
from agenttts.run.starts import ControllerHandle, write_handle
from tests.support import command_line
from tests.support.runs import table


def listed(cli, *arguments):
    done = cli("list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return {run["run"]: run for run in json.loads(done.stdout)["runs"]}


def touch(run: Path, moment: int) -> None:
    os.utime(run / "journal.jsonl", (moment, moment))


def test_runs_are_listed_with_the_latest_first(cli, unstarted_run, tmp_path):
    for name in ("old", "new"):
        run = unstarted_run(name=name, search__iterations=1)
        controller_job.make_controller(run.read()).run()
    touch(tmp_path / "results/old", 1_700_000_000)
    touch(tmp_path / "results/new", 1_700_100_000)
    runs = listed(cli)
    assert list(runs) == ["new", "old"]
    frame = table(tmp_path / "results/new")
    new = runs["new"]
    assert new["state"] == "done"
    assert (new["iteration"], new["iterations"]) == (1, 1)
    assert new["trials"] == new["scored"] == frame.height
    assert new["best"]["score"] == frame["score"].max()
    assert new["gpu_hours"] == pytest.approx((frame["gpu_seconds"].sum() or 0.0) / 3600)
    assert new["active"] == "2023-11-16T02:00:00+00:00"
    status = json.loads(cli("status", "new", "--json").stdout)
    assert status["best"] == new["best"]
    shown = cli("list").stdout
    assert shown.index("new") < shown.index("old")
    assert "1 of 1" in shown


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_the_names_of_runs_can_be_copied(cli, unstarted_run, columns):
    name = "small-eval-0123456789abcdef"
    unstarted_run(name=name)
    shown = cli("list", env={"COLUMNS": columns}).stdout
    [row] = [line for line in shown.splitlines() if line.startswith(f"{name} ")]
    assert len(row) <= int(columns)


def test_without_runs_it_says_where_it_looked(cli, tmp_path):
    (tmp_path / "results" / "notes").mkdir(parents=True)
    (tmp_path / "results" / "README.md").write_text("mine")
    for arguments in ((), ("--results", "nowhere")):
        assert listed(cli, *arguments) == {}
        done = cli("list", *arguments)
        assert done.returncode == 0
        assert str(tmp_path / (arguments[1] if arguments else "results")) in done.stdout
        assert "agenttts-hpc launch" in done.stdout


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("journal.jsonl", '{"event": "finished", "time": "2026-01-01T00:00:00+00:00"}\n'),
        ("journal.jsonl", "\0\0\0\n{}\n"),
        ("spec.yaml", "stages: ["),
        ("spec.yaml", None),
        ("run.json", "{"),
        ("profile.yaml", "kind: ["),
        ("controller.json", "[]"),
    ],
)
def test_a_damaged_run_is_a_line_among_the_others(cli, unstarted_run, tmp_path, file, content):
    unstarted_run(name="sound", search__iterations=0)
    damaged = unstarted_run(name="damaged", search__iterations=0)
    write_handle(damaged, ControllerHandle("local"))
    if content is None:
        (damaged.path / file).unlink()
    else:
        (damaged.path / file).write_text(content)
    runs = listed(cli)
    assert runs["damaged"]["state"] == "damaged"
    assert file in runs["damaged"]["detail"]
    assert runs["sound"]["state"] == "stopped"
    assert "damaged: " in cli("list").stdout


@pytest.mark.parametrize(
    ("status", "state", "said"),
    [
        (JobStatus("RUNNING", ended=False), "running", ""),
        (JobStatus("PENDING", ended=False, detail="Priority: later"), "pending", "Priority: later"),
        (JobStatus("UNKNOWN", ended=True), "stopped", "results/one' continues it"),
        (JobStatus(ELSEWHERE, ended=False, detail="runs on n7"), "unknown", "runs on n7"),
        (
            QueueUnavailable("squeue does not answer", fix="wait"),
            "unknown",
            "squeue does not answer",
        ),
        (
            MissingRequirement("no squeue here", fix="run it on a login node"),
            "unknown",
            "no squeue",
        ),
    ],
)
def test_a_host_is_asked_for_the_processes_of_each_run(
    cli, unstarted_run, monkeypatch, status, state, said
):
    for name in ("one", "two"):
        run = unstarted_run(name=name, search__iterations=0)
        write_handle(run, ControllerHandle("local", job_id="1"))
    done = unstarted_run(name="over", search__iterations=0)
    controller_job.make_controller(done.read()).run()
    asked = []

    def answers(self, services):
        asked.extend((self._folder.parents[1].name, service.job_id) for service in services)
        if isinstance(status, Exception):
            raise status
        return [status] * len(services)

    monkeypatch.setattr(LocalScheduler, "service_statuses", answers)
    for kind in ("poll", "service_status"):
        monkeypatch.setattr(LocalScheduler, kind, None)
    runs = listed(cli)
    assert sorted(asked) == [("one", "1"), ("two", "1")]
    assert runs["over"]["state"] == "done"
    assert {runs["one"]["state"], runs["two"]["state"]} == {state}
    assert said in runs["one"]["detail"]


@pytest.mark.parametrize("results", ["../results", "{}/results"])
def test_the_command_for_a_run_of_another_directory_has_its_path(unstarted_run, tmp_path, results):
    run = unstarted_run(search__iterations=0)
    here = tmp_path / "here"
    here.mkdir()
    done = command_line.call("list", "--results", results.format(tmp_path), cwd=here)
    assert f"small: no controller was started; 'agenttts-hpc resume {run.path}' con" in done.stdout
    assert command_line.call("logs", run.path, cwd=here).returncode == 0


def test_a_cancelled_and_a_failed_run(cli, unstarted_run):
    for name, outcome in (("stopped", "cancelled"), ("broken", "every trial failed")):
        run = unstarted_run(name=name, search__iterations=0)
        controller_job.make_controller(run.read()).cancel(outcome)
    runs = listed(cli)
    assert (runs["stopped"]["state"], runs["stopped"]["detail"]) == ("cancelled", "")
    assert (runs["broken"]["state"], runs["broken"]["detail"]) == ("failed", "every trial failed")


SQUEUE = "echo '7|{state}|Priority|c'"


ANSWERS = [
    (SQUEUE.format(state="PENDING"), ("pending", "failed", "stopped")),
    (SQUEUE.format(state="RUNNING"), ("running", "failed", "stopped")),
    (SQUEUE.format(state="FAILED"), ("cancelled", "failed", "stopped")),
    ("echo 'slurmctld is down' >&2; exit 1", ("cancelled", "failed", "unknown")),
]


def test_a_run_that_was_started_again_is_not_over(cli, unstarted_run, fake):
    """Its new controller, job 7, may not have written yet that the run goes on."""
    runs = [unstarted_run(name=name, search__iterations=0) for name in ("again", "broken", "waits")]
    for run, outcome in zip(runs, ("cancelled", "every trial failed"), strict=False):
        controller_job.make_controller(run.read()).cancel(outcome)
    for run, job in zip(runs, ("7", "8", "9"), strict=True):
        write_handle(run, ControllerHandle("slurm", job_id=job))
    fake("sacct", "exit 0")
    for queue, states in [("", ("cancelled", "failed", "unknown")), *ANSWERS]:
        if queue:  # at first this machine has no squeue
            fake("squeue", queue)
        found = listed(cli)
        assert tuple(found[run.name]["state"] for run in runs) == states, queue
        status = json.loads(cli("status", "again", "--json").stdout)
        over = status["outcome"] is not None
        assert over == (states[0] == "cancelled") == (status["to_come"] is None), queue
    said = f"started again; 'agenttts-hpc status {runs[0].path}' shows its controller"
    assert f"the run was cancelled and {said}" in cli("logs", "again").stdout
    fake("squeue", SQUEUE.format(state="RUNNING"))
    write_handle(runs[0], ControllerHandle("slurm", job_id="7", cancelled=True))
    assert listed(cli)["again"]["state"] == "cancelled"
    assert "the run is over: cancelled" in cli("logs", "again").stdout


def test_old_controllers_do_not_hide_the_others(cli, unstarted_run, fake, tmp_path):
    """sacct, which does not answer, is asked about the controller of the failed run alone."""
    fake("squeue", SQUEUE.format(state="RUNNING"))
    fake("sacct", "echo 'Connection refused' >&2; exit 1")
    for name, job in (("broken", "8"), ("works", "7")):
        run = unstarted_run(name=name, search__iterations=0)
        if name == "broken":
            controller_job.make_controller(run.read()).cancel("every trial failed")
        write_handle(run, ControllerHandle("slurm", job_id=job))
    runs = listed(cli)
    assert (runs["broken"]["state"], runs["works"]["state"]) == ("failed", "running")
    (tmp_path / "results/broken/controller.json").write_text("[]")
    assert listed(cli)["broken"]["state"] == "failed"
