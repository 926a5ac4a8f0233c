"""Whole runs whose models need different numbers of GPUs: leading stages of trials are drawn by
small jobs and handed over. The table is that of one trial a job, whatever ends a job meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agenttts.dispatch.attempts import HANDED_OVER
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.progress import IN_SMALLER_JOB
from tests.support import command_line
from tests.support.runs import (
    attempts,
    journal_events,
    kill_controller,
    outcome,
    table,
    until_more_events,
)
from tests.support.scripted import one_trial_a_job, small_spec
from tests.support.shared_jobs import SLOW, kill_trial_programs, trial_programs
from tests.support.waiting import until

GPUS = {"weak": 1, "strong": 2}
PARAMS = {"weak": 3e11, "strong": 14e11}
PROFILE = (
    "kind: {kind}\nmax_running: {most}\ngpus_per_node: 2\npoll_seconds: 0.1\n"
    "retry_pauses: [0]\nlinger_seconds: {linger}\n"
)


def spec_of(make_spec: Callable[..., Path], **changes: object) -> Path:
    """A spec whose strong model needs two GPUs; its models take some time to reply.

    They are said to be so large that a part is worth a job of its own.
    """
    values = {
        f"models__{model}__{key}": value
        for model, gpus in GPUS.items()
        for key, value in (("gpus", gpus), ("params", PARAMS[model]), ("options", SLOW))
    }
    return make_spec(**values | {"search__budget": 8000, "search__iterations": 0} | changes)


def profile(folder: Path, kind: str, most: int = 2, linger: float = 60) -> str:
    path = folder / f"{kind}-{most}-{linger}.yaml"
    path.write_text(PROFILE.format(kind=kind, most=most, linger=linger))
    return str(path)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The same search with one trial a job: run once, and only read."""
    folder = tmp_path_factory.mktemp("alone")
    spec = spec_of(partial(small_spec, folder), cluster=one_trial_a_job(folder))
    done = command_line.call("launch", spec, "--name", "alone", "--wait", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "results" / "alone"


def handed_over(run: Path) -> list[str]:
    """The trials that were handed over, in order."""
    return [trial for event in journal_events(run, "handed_over") for trial in event["trials"]]


def check_records(run: Path) -> None:
    """Each trial ended once, and what was handed over was drawn by jobs that fit it."""
    ends = [event["trial"] for event in journal_events(run, "finished")]
    assert len(ends) == len(set(ends)) == table(run).height
    allocations = dict(table(run).select("trial", "allocation").rows())
    for trial in handed_over(run):
        records = attempts(run, trial)
        assert records[-1]["state"] == "COMPLETED"
        part = [record["state"] for record in records].index(HANDED_OVER)
        models = [choice["model"] for choice in allocations[trial]]
        for number, record in enumerate(records):
            due = models[:1] if number <= part else models[1:]
            assert record["gpus"] >= max(GPUS[model] for model in due)


def check_small_jobs(run: Path) -> None:
    """A job with one GPU drew a leading stage, which is the point of parts."""
    assert 1 in [r["gpus"] for r in attempts(run) if r["state"] == HANDED_OVER]


@pytest.mark.parametrize("linger", [60, 0])
def test_trials_in_parts_give_the_same_table(cli, alone, scripted_spec, tmp_path, linger):
    cluster = profile(tmp_path, "in_process", linger=linger)
    done = cli("launch", spec_of(scripted_spec), "--name", "parts", "--cluster", cluster, "--wait")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results" / "parts"
    assert handed_over(run), "otherwise this tests nothing"
    assert outcome(run) == outcome(alone)
    check_records(run)
    check_small_jobs(run)
    assert not journal_events(run, "lost")
    assert set(table(run)["attempts"]) == {1}
    assert read_state(run / "journal.jsonl").losses == []


def test_the_costs_of_parts_are_their_trials(cli, scripted_spec, tmp_path):
    cluster = profile(tmp_path, "in_process")
    # Without the fusing calls for smaller counts, which are none of the allocations' own.
    path = spec_of(scripted_spec, search__stored=False)
    assert cli("launch", path, "--cluster", cluster, "--wait").returncode == 0
    run = tmp_path / "results" / "small"
    trials = table(run)
    parts = handed_over(run)
    assert parts
    found = json.loads(cli("report", "small", "--format", "json").stdout)["runs"][0]
    cost = found["cost"]
    assert cost["engine_starts"] == trials["engine_starts"].sum()
    assert cost["seconds"]["lost"] == 0
    assert trials["seconds"].struct.field("lost").sum() == 0
    generated = trials["seconds"].struct.field("generate").sum()
    assert cost["seconds"]["generate"] == pytest.approx(generated, rel=0.1, abs=0.1)
    new = trials["prompt_tokens"] + trials["decode_tokens"] - trials["reused_tokens"]
    assert cost["tokens"]["computed"] == new.sum() > 0
    records = attempts(run)
    assert sum(job["attempts"] for job in found["jobs"]) == len(records)
    for trial, used in trials.select("trial", "gpu_seconds").rows():
        parts_used = [record["gpu_seconds"] for record in attempts(run, trial)]
        assert used == pytest.approx(sum(parts_used), abs=0.01)
    # A part takes one GPU a second, the rest two.
    for record in records:
        assert record["gpu_seconds"] == pytest.approx(
            record["job_seconds"] * record["gpus"], abs=0.01
        )
    state = json.loads(cli("status", "small", "--json").stdout)
    assert state["cost"] == cost


def test_models_of_one_size_are_not_handed_over(cli, scripted_spec, tmp_path):
    cluster = profile(tmp_path, "in_process")
    spec = spec_of(scripted_spec, models__weak__gpus=2)
    assert cli("launch", spec, "--cluster", cluster, "--wait").returncode == 0
    run = tmp_path / "results" / "small"
    assert not handed_over(run)
    assert {record["gpus"] for record in attempts(run)} == {2}


def test_an_asynchronous_search_hands_over(cli, scripted_spec, tmp_path):
    cluster = profile(tmp_path, "in_process")
    spec = spec_of(
        scripted_spec, search__asynchronous=True, search__method="random", search__iterations=1
    )
    done = cli("launch", spec, "--cluster", cluster, "--wait")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results" / "small"
    assert handed_over(run)
    check_records(run)
    check_small_jobs(run)
    assert set(table(run)["state"]) == {"COMPLETED"}


def launched(cli: Any, spec: Path, cluster: str, folder: Path) -> Path:
    assert cli("launch", spec, "--name", "parts", "--cluster", cluster).returncode == 0
    return folder / "results" / "parts"


def until_a_part_begins(run: Path) -> None:
    """Wait until the program of a small job draws."""
    until(lambda: (run / "journal.jsonl").exists(), "the journal")

    def begun() -> bool:
        given = journal_events(run, "submitting") + journal_events(run, "assigned")
        parts = {trial for event in given for trial in event["upto"]}
        records = [record for trial in parts for record in attempts(run, trial)]
        return bool(trial_programs(run)) and any(
            record["state"] is None and record["gpus"] == 1 for record in records
        )

    until(begun, "a part in a small job")


@pytest.mark.processes
def test_a_worker_killed_in_a_part_loses_nothing(cli, alone, scripted_spec, tmp_path):
    run = launched(cli, spec_of(scripted_spec), profile(tmp_path, "local"), tmp_path)
    until_a_part_begins(run)
    kill_trial_programs(run)
    done = cli("resume", "parts", "--wait")
    assert done.returncode == 0, done.stderr
    assert outcome(run) == outcome(alone)
    check_records(run)
    # Whether a small job draws the part once more depends on which loss is seen first.
    assert journal_events(run, "lost"), "the kill was noticed"


@pytest.mark.processes
def test_a_controller_killed_at_any_point_goes_on_with_its_parts(
    cli, alone, scripted_spec, tmp_path
):
    run = launched(cli, spec_of(scripted_spec), profile(tmp_path, "local"), tmp_path)
    until_a_part_begins(run)
    for events in (1, 2):
        assert kill_controller(run), "the run was over before it could be killed"
        assert cli("resume", "parts").returncode == 0
        until_more_events(run, events)
    assert cli("resume", "parts", "--wait").returncode == 0
    assert outcome(run) == outcome(alone)
    check_records(run)
    check_small_jobs(run)


@pytest.mark.processes
def test_cancel_in_a_part_and_resume(cli, alone, scripted_spec, tmp_path):
    run = launched(cli, spec_of(scripted_spec), profile(tmp_path, "local"), tmp_path)
    until_a_part_begins(run)
    assert cli("cancel", "parts").returncode == 0
    assert not trial_programs(run)
    done = cli("resume", "parts", "--wait")
    assert done.returncode == 0, done.stderr
    assert outcome(run) == outcome(alone)


def test_a_part_that_fails_fails_its_trial(cli, scripted_spec, tmp_path):
    """The rest of a trial that fails in a small job is tried by itself, in a job with all GPUs."""
    cluster = profile(tmp_path, "in_process")
    spec = spec_of(scripted_spec, models__weak__options={"fail": "OOM"})
    assert cli("launch", spec, "--cluster", cluster, "--wait").returncode == 4
    run = tmp_path / "results" / "small"
    models = {
        trial: [choice["model"] for choice in allocation]
        for trial, allocation in table(run).select("trial", "allocation").rows()
    }
    failed = {t for t, state in table(run).select("trial", "state").rows() if state == "OOM"}
    assert failed == {trial for trial, names in models.items() if "weak" in names}
    given = [*journal_events(run, "submitting"), *journal_events(run, "assigned")]
    leading = {t for event in given for t in event["upto"] if models[t] == ["weak", "strong"]}
    rests = set(handed_over(run))
    assert leading, "a part failed"
    assert rests, "a rest failed"
    assert {tuple(models[trial]) for trial in rests} == {("strong", "weak")}
    lost = journal_events(run, "lost")
    assert {trial for event in lost for trial in event["trials"]} <= rests
    assert {event["reason"] for event in lost} <= {IN_SMALLER_JOB}
    for trial in leading:
        assert [record["state"] for record in attempts(run, trial)] == ["OOM"]
    for trial in rests:
        last = attempts(run, trial)[-1]
        assert (last["state"], last["gpus"], last["together"]) == ("OOM", 2, 1)


def test_one_job_at_a_time_draws_all_stages(cli, alone, scripted_spec, tmp_path):
    cluster = profile(tmp_path, "in_process", most=1)
    done = cli("launch", spec_of(scripted_spec), "--name", "parts", "--cluster", cluster, "--wait")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results" / "parts"
    assert outcome(run) == outcome(alone)
    assert len({r["job_id"] for r in attempts(run)}) == len(journal_events(run, "submitting"))


def test_a_new_journal_knows_what_is_drawn(cli, scripted_spec, tmp_path):
    """The controller died after the first hand-over, and its journal was damaged."""
    cluster = profile(tmp_path, "in_process")
    spec = spec_of(scripted_spec)
    assert cli("launch", spec, "--cluster", cluster, "--wait").returncode == 0
    run = RunDirectory(tmp_path / "results" / "small")
    before = {row[0]: row[3:] for row in outcome(run.path)}
    [trial, *_] = handed_over(run.path)
    for name in ("result.json", "COMPLETED.json"):
        (run.trial(trial) / name).unlink()
    run.trials_file.unlink()
    lines = run.journal_file.read_bytes().splitlines(keepends=True)
    run.journal_file.write_bytes(b"not json\n" + b"".join(lines))
    done = cli("resume", "small", "--from-tables", "--wait")
    assert done.returncode == 0, done.stderr
    [event] = journal_events(run.path, "handed_over")
    assert event["trials"] == {trial: 1}
    kinds = [event["event"] for event in journal_events(run.path)]
    assert kinds.index("handed_over") < kinds.index("submitting"), "no job is started for the part"
    assert {row[0]: row[3:] for row in outcome(run.path)}[trial] == before[trial]
