"""Whole runs whose jobs evaluate several trials each: the same table as one trial a job, whatever
ends a job in the middle of its list.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from tests.support import command_line
from tests.support.runs import (
    attempts,
    controller_pids,
    journal_events,
    kill_controller,
    outcome,
    table,
    until_more_events,
)
from tests.support.scripted import one_trial_a_job, small_spec
from tests.support.shared_jobs import SLOW, kill_trial_programs, profile, trial_programs
from tests.support.waiting import until


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The same search with one trial a job: run once, and only read."""
    folder = tmp_path_factory.mktemp("alone")
    spec = slow(partial(small_spec, folder), cluster=one_trial_a_job(folder))
    done = command_line.call("launch", spec, "--name", "alone", "--wait", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "results" / "alone"


def slow(make_spec: Callable[..., Path], **changes: object) -> Path:
    """A spec whose models take some time to reply, so that jobs can be ended meanwhile.

    After the first three trials comes the recommended one.
    """
    return make_spec(
        search__iterations=0, models__strong__options=SLOW, models__weak__options=SLOW, **changes
    )


def check_records(run: Path) -> None:
    """Every trial has one attempt that completed, and one end in the journal."""
    ends = [event["trial"] for event in journal_events(run, "finished")]
    assert len(ends) == len(set(ends)) == table(run).height
    for trial in (run / "trials").iterdir():
        states = [attempt["state"] for attempt in attempts(run, trial.name)]
        assert states.count("COMPLETED") == 1, (trial.name, states)


@pytest.mark.parametrize("per_job", [2, 100])
def test_jobs_of_several_trials_give_the_same_table(cli, alone, scripted_spec, tmp_path, per_job):
    cluster = profile(tmp_path, "in_process", per_job)
    done = cli("launch", slow(scripted_spec), "--name", "shared", "--cluster", cluster, "--wait")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results" / "shared"
    assert outcome(run) == outcome(alone)
    check_records(run)
    for event in journal_events(run, "submitting"):
        sizes = [len(trials) for trials in event["lists"]]
        assert max(sizes) <= per_job
        assert len(sizes) == -(-len(event["trials"]) // per_job)
    jobs = table(run).filter(pl.col("iteration") == 0)["job_id"].n_unique()
    trials = table(run).filter(pl.col("iteration") == 0).height
    assert jobs == -(-trials // per_job)
    for record in attempts(run):
        assert record["together"] <= per_job
        assert record["gpu_seconds"] == 0, "no GPUs here"


@pytest.mark.processes
@pytest.mark.parametrize("linger", [0, 60])
def test_a_worker_that_is_killed_loses_nothing_that_was_finished(
    cli, alone, scripted_spec, tmp_path, linger
):
    cluster = profile(tmp_path, "local", 8, linger_seconds=linger)
    assert (
        cli("launch", slow(scripted_spec), "--name", "killed", "--cluster", cluster).returncode == 0
    )
    run = tmp_path / "results" / "killed"
    kill_trial_programs(run)
    done = cli("resume", "killed", "--wait")
    assert done.returncode == 0, done.stderr
    assert outcome(run) == outcome(alone)
    check_records(run)
    lost = journal_events(run, "lost")
    assert lost, "the kill was noticed"
    reasons = {"INFRA_FAILED", "in a job of several trials", "never submitted"}
    assert {event["reason"] for event in lost} <= reasons
    # What the killed program did is lost time.
    [found] = json.loads(cli("report", "killed", "--format", "json").stdout)["runs"]
    seconds = found["cost"]["seconds"]
    assert seconds["lost"] > 0
    of_trials = table(run)["seconds"].struct.field("lost").sum()
    assert seconds["lost"] == pytest.approx(of_trials, rel=0.1, abs=0.2)
    assert seconds["lost"] < sum(value for part, value in seconds.items() if part != "queue")
    assert found["cost"]["tokens"]["computed"] > 0


@pytest.mark.processes
def test_a_controller_killed_at_any_point_goes_on_with_its_shared_jobs(
    cli, alone, scripted_spec, tmp_path
):
    cluster = profile(tmp_path, "local", 3, linger_seconds=60, max_running=1)
    assert (
        cli("launch", slow(scripted_spec), "--name", "small", "--cluster", cluster).returncode == 0
    )
    run = tmp_path / "results" / "small"
    for events in (2, 2):
        until_more_events(run, events)
        assert kill_controller(run), "the run was over before it could be killed"
        done = cli("resume", "small")
        assert done.returncode == 0, done.stderr
    assert cli("resume", "small", "--wait").returncode == 0
    assert outcome(run) == outcome(alone)
    check_records(run)


@pytest.mark.processes
def test_cancel_ends_the_shared_jobs_and_resume_goes_on(cli, alone, scripted_spec, tmp_path):
    cluster = profile(tmp_path, "local", 4, linger_seconds=60, max_running=1)
    assert (
        cli("launch", slow(scripted_spec), "--name", "small", "--cluster", cluster).returncode == 0
    )
    run = tmp_path / "results" / "small"
    until(lambda: trial_programs(run), "a program of several trials")
    done = cli("cancel", "small", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "cancelled"
    assert not trial_programs(run)
    assert not controller_pids(run)
    done = cli("resume", "small", "--wait")
    assert done.returncode == 0, done.stderr
    assert outcome(run) == outcome(alone)


HOSTILE = """
import os
from agenttts.tasks.retrieval.task import Answer, Retrieval, RetrievalQA

class Hostile(Answer):
    def fuse(self, outputs, example):
        if len(outputs) == 7:
            os.kill(os.getpid(), 9)
        return super().fuse(outputs, example)

class Task(RetrievalQA):
    stages = (Retrieval(), Hostile())
"""


@pytest.mark.processes
@pytest.mark.parametrize("linger", [0, 60])
def test_a_trial_that_kills_its_process_is_found_out_by_itself(
    cli, scripted_spec, tmp_path, linger
):
    """The others of its job are not blamed, and lose nothing.

    A task of the user's own runs in a child process.
    """
    (tmp_path / "hostile.py").write_text(HOSTILE)
    cluster = profile(tmp_path, "in_process", 8, max_attempts=2, linger_seconds=linger)
    spec = scripted_spec(
        task__name="./hostile.py:Task",
        search__iterations=0,
        stages__answer__samples={"values": [1, 3, 7]},
    )
    done = cli("launch", spec, "--cluster", cluster, "--wait")
    run = tmp_path / "results" / "small"
    frame = table(run)
    kills = pl.col("allocation").list.get(1).struct.field("samples") == 7
    assert frame.filter(kills).height >= 1, "the search tried one"
    assert frame.filter(~kills).height >= 1
    assert set(frame.filter(~kills)["state"]) == {"COMPLETED"}
    assert set(frame.filter(kills)["state"]) == {"INFRA_FAILED"}
    assert done.returncode == 4
    for trial in frame.filter(kills)["trial"]:
        assert attempts(run, trial)[-1]["together"] == 1, "it was given a job of its own"


def test_a_fault_of_one_trial_is_told_while_the_job_goes_on(cli, scripted_spec, tmp_path):
    cluster = profile(tmp_path, "in_process", 100)
    spec = scripted_spec(models__weak__options={"fail": "OOM"})
    done = cli("launch", spec, "--cluster", cluster, "--wait")
    assert done.returncode == 4
    frame = table(tmp_path / "results" / "small")
    weak = pl.col("allocation").list.eval(pl.element().struct.field("model") == "weak").list.any()
    assert set(frame.filter(weak)["state"]) == {"OOM"}
    assert set(frame.filter(~weak)["state"]) == {"COMPLETED"}
    assert not journal_events(tmp_path / "results" / "small", "lost")


@pytest.mark.processes
def test_workers_of_a_finished_run_have_ended(cli, scripted_spec, tmp_path):
    cluster = profile(tmp_path, "local", 2, linger_seconds=600)
    done = cli("launch", scripted_spec(search__iterations=1), "--cluster", cluster, "--wait")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results" / "small"
    assert not trial_programs(run)
    assert not journal_events(run, "strays"), "they ended by themselves"
    logs = [log.read_text() for log in run.glob("workers/*/log.txt")]
    assert len(logs) == len({record["job_id"] for record in attempts(run)})
    assert sum(text.count("score") for text in logs) == table(run).height


def worker_jobs(run: Path) -> set[str]:
    return {record["job_id"] for record in attempts(run)}


@pytest.mark.parametrize("per_job", [1, 4])
def test_workers_stay_for_the_next_iteration(cli, alone, scripted_spec, tmp_path, per_job):
    cluster = profile(tmp_path, "in_process", per_job, linger_seconds=60)
    done = cli("launch", slow(scripted_spec), "--name", "shared", "--cluster", cluster, "--wait")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results" / "shared"
    assert outcome(run) == outcome(alone)
    check_records(run)
    assert len(worker_jobs(run)) <= 2, "as many as may run at a time"
    started = {path.name for path in (run / "workers").iterdir()}
    given = journal_events(run, "assigned")
    assert {event["worker"] for event in given} <= started
    assert sum(len(event["attempts"]) for event in given) >= table(run).height - 2 * per_job
    ended = journal_events(run, "workers_ended")
    assert sorted(name for event in ended for name in event["workers"]) == sorted(started)
