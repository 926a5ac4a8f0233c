"""What the records of jobs say of where their time went."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agenttts.dispatch.attempts import Attempt
from agenttts.dispatch.job_starts import JobStart, write_job_start
from agenttts.files.atomic import atomic_write_json
from agenttts.loop.collect import gpu_seconds
from agenttts.run.costs import CostReader, measured_starts, trial_seconds, worker_of
from agenttts.run.directory import RunDirectory
from agenttts.run.progress import PlannedTrial, TrialProgress
from agenttts.run.rows import row_to_json
from agenttts.run.state import RunState
from agenttts.tables.cost import CostSeconds
from agenttts.trial.phase import PhaseNotes
from agenttts.trial.result import TrialOutput
from agenttts.trial.usage import USAGE
from tests.support.written_runs import trial as ended_trial

BEGAN = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)


def at(seconds: float) -> str:
    return (BEGAN + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def start(number=1, **changes):
    values = {
        "number": number, "job_id": "7_0", "node": "n1", "gpus": 2, "waited_since": at(-60),
        "started": at(0), "written": at(100), "finished": at(100), "attempts": 2,
        "busy_seconds": 80.0, "idle_seconds": 18.0,
    }  # fmt: skip
    return JobStart(**(values | changes))


def write_usage(place, number=1, began=10.0, written=90.0, load=30.0, generate=25.0):
    (place / USAGE).mkdir(exist_ok=True)
    atomic_write_json(
        place / USAGE / f"{number:02}.json",
        {
            "number": number, "started": at(began), "written": at(written),
            "seconds": {"load": load, "generate": generate, "idle": 15.0, "other": 5.0},
            "starts": [{"model": "a", "seconds": 28.0}],
            "draws": [{"model": "a", "prompt_tokens": 10, "decode_tokens": 90, "sequences": 3,
                       "seconds": 25.0, "calls": 1}],
        },
    )  # fmt: skip


def measured(place, *records, live=(), now=100.0):
    return measured_starts(place, records, live, BEGAN + timedelta(seconds=now))


def test_a_job_that_has_ended(tmp_path):
    write_usage(tmp_path)
    [found] = measured(tmp_path, start())
    assert found.parts == CostSeconds(
        queue=60, start=10, load=30, generate=25, idle=18, other=17, lost=0
    )
    assert (found.engines, found.tokens, found.decode) == ((("a", 28.0),), {"a": 100}, {"a": 90})
    assert found.job == tmp_path.name


def test_a_clock_that_is_ahead_gives_no_negative_queue(tmp_path):
    [found] = measured(tmp_path, start(waited_since=at(5)))
    assert found.queue == 0
    [found] = measured(tmp_path, start(waited_since=None))
    assert found.queue is None


def test_each_start_has_the_usage_of_its_own_program(tmp_path):
    write_usage(tmp_path, 1, began=10)
    write_usage(tmp_path, 2, began=210, generate=5.0)
    second = start(2, started=at(200), written=at(300), finished=at(300), waited_since=at(100))
    one, two = measured(tmp_path, start(), second, now=300)
    assert (one.generate, two.generate) == (25, 5)
    assert (one.queue, two.queue) == (60, 100)


def test_a_job_that_was_killed_lost_its_open_attempts(tmp_path):
    write_usage(tmp_path, written=90)
    killed = start(
        written=at(50), finished=None, busy_seconds=48.0, idle_seconds=0.0, open=1,
        open_seconds=30.0,
    )  # fmt: skip
    [found] = measured(tmp_path, killed, now=1000)
    assert found.seconds == 90, "until its last sign of life"
    assert found.lost == 30 + 40
    assert found.parts.used == 90


def test_a_job_that_was_killed_and_requeued_waited_since_its_last_sign_of_life(tmp_path):
    write_usage(tmp_path, written=90)
    killed = start(written=at(5), finished=None, busy_seconds=4.0, idle_seconds=0.0, open=1)
    again = start(2, started=at(200), written=at(300), finished=at(300), waited_since=at(5))
    one, two = measured(tmp_path, killed, again)
    assert (one.seconds, two.queue) == (90, 110)
    other_job = start(2, job_id="8", started=at(200), waited_since=at(150))
    assert measured(tmp_path, killed, other_job)[1].queue == 50


def test_a_job_that_runs_goes_on_until_now(tmp_path):
    write_usage(tmp_path, written=90, generate=20)
    runs = start(written=at(50), finished=None, busy_seconds=48.0, idle_seconds=0.0, open=1)
    notes = PhaseNotes(tmp_path)
    notes.note("generate", "a")
    [found] = measured(tmp_path, runs, live={"7_0"}, now=100)
    assert (found.seconds, found.busy, found.lost) == (100, 98, 0)
    assert found.generate == 30, "the call that goes on counts"
    waits = start(written=at(50), finished=None, busy_seconds=40.0, idle_seconds=5.0)
    [found] = measured(tmp_path, waits, live={"7_0"}, now=100)
    assert (found.busy, found.idle) == (40, 55)


def test_a_container_that_starts_is_starting(tmp_path):
    runs = start(written=at(1), finished=None, busy_seconds=0.0, idle_seconds=0.0, open=1)
    [found] = measured(tmp_path, runs, live={"7_0"}, now=20)
    assert found.parts == CostSeconds(queue=60, start=20)


def attempt(number=1, began=1.0, ended=80.0, state="COMPLETED", **changes):
    values = {
        "number": number, "job_id": "7_0", "node": "n1", "gpus": 2, "devices": "",
        "started": at(began), "finished": None if ended is None else at(ended), "state": state,
        "together": 2, "log": "../../workers/0-0/log.txt", "job_seconds": 40.0,
    }  # fmt: skip
    return Attempt(**(values | changes))


OUTPUT = TrialOutput(0.5, {}, 1, 1, 0, 0, 1, {"load": 15.0, "generate": 12.0}, engine_starts=1)


@pytest.fixture
def trial(tmp_path):
    directory, worker = tmp_path / "trials" / "t0000", tmp_path / "workers" / "0-0"
    directory.mkdir(parents=True)
    worker.mkdir(parents=True)
    write_job_start(worker, start())
    write_usage(worker)
    return directory


def test_the_seconds_of_a_trial_of_a_worker(trial):
    assert worker_of([attempt()]) == "0-0"
    assert trial_seconds(trial, [attempt()], OUTPUT) == {
        "queue": 60.0, "start": 5.0, "load": 15.0, "generate": 12.0, "lost": 0.0
    }  # fmt: skip
    later = attempt(began=60.0)
    found = trial_seconds(trial, [later], OUTPUT)
    assert (found["queue"], found["start"]) == (0, 0), "it was given to a job that ran already"


def test_attempts_that_the_cluster_ended_are_lost(trial):
    attempts = [
        attempt(1, state="PREEMPTED"),
        attempt(2, job_id="8", state=None, ended=None, began=100, job_seconds=None),
        attempt(3, job_id="9", began=160),
    ]
    found = trial_seconds(trial, attempts, OUTPUT)
    assert found["lost"] == 40 + 60 / 2, "the second one counts until the third began"
    assert (found["queue"], found["start"]) == (60, 0)
    assert trial_seconds(trial, [attempt(state="TIMEOUT")], None)["lost"] == 0
    cut_off = attempt(state=None, ended=None, began=0, job_seconds=None)
    assert trial_seconds(trial, [cut_off], None)["lost"] == 0, "e.g. it was cancelled"
    until = BEGAN + timedelta(seconds=50)
    assert trial_seconds(trial, [cut_off], None, until)["lost"] == 25


@pytest.mark.parametrize("requeued", [False, True])
def test_an_attempt_that_was_killed_counts_until_the_last_sign_of_its_job(trial, requeued):
    """The next attempt began a day later: it waited in the queue, or no controller ran."""
    worker = trial.parent.parent / "workers" / "0-0"
    write_job_start(worker, start(finished=None, written=at(20)))
    again = attempt(2, job_id="7_0" if requeued else "8", began=86_400, ended=86_410)
    if requeued:
        write_job_start(worker, start(2, started=at(86_390), written=at(86_400), finished=None))
    killed = attempt(1, began=20.0, ended=None, state=None, job_seconds=None)
    assert trial_seconds(trial, [killed, again], OUTPUT)["lost"] == (90 - 20) / 2
    used = replace(again, gpu_seconds=10.0)
    assert gpu_seconds(trial, [killed, used], BEGAN) == 2 * (90 - 20) / 2 + 10
    soon = attempt(2, job_id="8", began=50.0)
    assert trial_seconds(trial, [killed, soon], OUTPUT)["lost"] == (50 - 20) / 2


def test_a_trial_of_an_older_version_has_what_is_known(trial, tmp_path):
    alone = tmp_path / "trials" / "t0001"
    alone.mkdir()
    old = attempt(log="", job_seconds=None)
    assert worker_of([old]) is None
    assert trial_seconds(alone, [old], OUTPUT) == {
        "queue": None, "start": None, "load": 15.0, "generate": 12.0, "lost": 0.0
    }  # fmt: skip
    assert trial_seconds(alone, [], None) is None


def test_a_run_that_has_only_served_its_model_has_used_that(tmp_path):
    run = RunDirectory(tmp_path)
    run.agent.mkdir()
    write_job_start(run.agent, start(gpus=4))
    killed = start(2, started=at(200), written=at(260), finished=None, waited_since=at(190))
    write_job_start(run.agent, killed)
    cost = CostReader(run).cost(RunState())
    assert cost is not None
    assert cost.jobs == []
    assert (cost.served.seconds, cost.served.queue) == (160, 70)
    assert cost.gpu_hours == (4 * 100 + 2 * 60) / 3600
    moments = [(at(since), at(until)) for since, until in ((0, 100), (200, 260))]
    assert cost.spans == [tuple(map(datetime.fromisoformat, span)) for span in moments]


def test_a_run_without_records_of_its_jobs_has_no_cost(tmp_path):
    run = RunDirectory(tmp_path)
    assert CostReader(run).cost(RunState()) is None


@pytest.mark.parametrize("attempts", [0, 1])
def test_what_a_served_model_used_is_not_all_of_a_run_of_an_older_version(tmp_path, attempts):
    """Its trials had jobs, which left no records."""
    run, state = RunDirectory(tmp_path), RunState()
    run.agent.mkdir()
    write_job_start(run.agent, start())
    row = ended_trial(1, 0.5, 1.0, attempts=attempts)
    planned = PlannedTrial(row.trial, 0, row.allocation, row.source, "", row.budget)
    state.trials[row.trial] = TrialProgress(planned, row=row_to_json(row))
    assert (CostReader(run).cost(state) is None) == (attempts > 0)
