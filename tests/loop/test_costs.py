"""Where the time of whole runs went, with one or several trials a job, and with workers."""

from __future__ import annotations

import json
import re
import shutil

import polars as pl
import pytest

from agenttts.dispatch.attempts import ATTEMPTS
from agenttts.dispatch.job_starts import JOB_STARTS
from agenttts.run.record import RUN_FILE
from agenttts.trial.usage import USAGE
from tests.support.runs import journal_events, table
from tests.support.shared_jobs import SLOW, profile


def report(cli, name="small"):
    done = cli("report", name, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["runs"][0]


@pytest.mark.parametrize(("per_job", "linger"), [(1, 0), (2, 0), (2, 60)])
def test_the_parts_of_a_run_add_up(cli, scripted_spec, tmp_path, per_job, linger):
    cluster = profile(tmp_path, "in_process", per_job, linger_seconds=linger)
    # Without the fusing calls for smaller counts, which are none of the allocations' own.
    spec = scripted_spec(
        models__weak__options=SLOW, models__strong__options=SLOW, search__stored=False
    )
    done = cli("launch", spec, "--cluster", cluster, "--wait")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results" / "small"
    trials = table(run)
    found = report(cli)
    cost, jobs = found["cost"], found["jobs"]
    seconds = cost["seconds"]

    assert sum(job["attempts"] for job in jobs) == trials.height
    assert {i for job in jobs for i in job["job_ids"]} == set(trials["job_id"])
    for part in seconds:
        assert seconds[part] == pytest.approx(sum(j["seconds"][part] for j in jobs), abs=0.01)
    assert cost["engine_starts"] == trials["engine_starts"].sum()
    assert cost["engine_starts"] == sum(job["engine_starts"] for job in jobs)
    generated = trials["seconds"].struct.field("generate").sum()
    assert seconds["generate"] == pytest.approx(generated, rel=0.1, abs=0.1)
    assert seconds["generate"] > 0.1
    assert seconds["lost"] == 0
    assert cost["gpu_seconds"] == 0, "no GPUs here"
    assert cost["tokens"]["reused"] == trials["reused_tokens"].sum()
    new = trials["prompt_tokens"] + trials["decode_tokens"] - trials["reused_tokens"]
    assert cost["tokens"]["computed"] == new.sum() > 0

    workers = {job["job"] for job in jobs if job["job"] in set(trials["worker"].drop_nulls())}
    if linger:
        assert trials["worker"].null_count() == 0
        assert len(jobs) == len(workers) <= 2
        assert journal_events(run, "assigned"), "they took further lists"
        assert seconds["idle"] > 0
    elif per_job == 1:
        assert {job["job"] for job in jobs} == set(trials["trial"])
        assert trials["worker"].null_count() == trials.height

    alone = found["one_trial_a_job"]
    assert alone["trials"] == trials.height
    models = [[c["model"] for c in choices] for choices in trials["allocation"]]
    assert alone["engine_starts"] == sum(len(set(names)) for names in models)
    if per_job == 1:
        # Nothing is shared within a job, but samples are between the jobs of the run.
        assert alone["engine_starts"] >= cost["engine_starts"]
    assert alone["seconds"] > seconds["generate"] * 0.9

    expected = found["forecast"]
    assert expected["jobs"]["low"] >= 1
    assert any("drawn at random" in text for text in expected["assumptions"])
    assert expected["gpu_seconds"] == {"low": 0, "high": 0}, "there are no GPUs"

    shown = cli("report", "small").stdout
    assert "where the time went" in shown
    assert "expected and actual cost" in shown
    assert re.search(r"with a job for each trial, \d+ trials would have taken about", shown)
    assert "the estimate is probably too low" in " ".join(shown.split())
    page = cli("report", "small", "--format", "html").stdout
    assert "where the time went" in page
    state = json.loads(cli("status", "small", "--json").stdout)
    assert state["cost"] == cost
    state = " ".join(cli("status", "small").stdout.split())
    assert f"of jobs, {cost['engine_starts']} engine starts" in state
    assert "load" in state


def test_a_run_without_records_reads_as_before(cli, finished_run):
    run = finished_run()
    for name in (JOB_STARTS, USAGE):
        for folder in run.glob(f"*/*/{name}"):
            shutil.rmtree(folder)
    columns = ["worker", "engine_starts", "seconds"]
    pl.read_parquet(run / "trials.parquet").drop(columns).write_parquet(run / "trials.parquet")
    journal = run / "journal.jsonl"
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    for event in events:
        if event["event"] == "finished":
            event["row"] = {k: v for k, v in event["row"].items() if k not in columns}
    journal.write_text("".join(json.dumps(event) + "\n" for event in events))
    found = report(cli)
    assert (found["cost"], found["jobs"], found["one_trial_a_job"]) == (None, [], None)
    assert [trial["seconds"] for trial in found["trials"]] == [None] * len(found["trials"])
    shown = cli("report", "small")
    assert shown.returncode == 0
    assert "where the time went" not in shown.stdout
    assert json.loads(cli("status", "small", "--json").stdout)["cost"] is None
    assert "cost:" not in cli("status", "small").stdout


@pytest.mark.parametrize(("weak", "strong"), [(1, 1), (0, 0), (1, 2)])
def test_one_trial_a_job_takes_the_gpus_that_the_trial_needs(cli, finished_run, weak, strong):
    """The job had 4, for other trials."""
    run = finished_run()
    for place in (*run.glob(f"*/*/{JOB_STARTS}/*.json"), *run.glob(f"trials/*/{ATTEMPTS}/*.json")):
        record = json.loads(place.read_text())
        place.write_text(json.dumps({**record, "gpus": 4}))
    record = json.loads((run / RUN_FILE).read_text())
    needs = {"weak": weak, "strong": strong}
    for name, gpus in needs.items():
        record["models"][name]["gpus"] = gpus
    (run / RUN_FILE).write_text(json.dumps(record))
    found = report(cli)
    alone = found["one_trial_a_job"]
    assert alone["trials"] > 1
    used = [{needs[c["model"]] for c in trial["allocation"]} for trial in found["trials"]]
    low, high = (pick(max(each) for each in used) for pick in (min, max))
    assert low * alone["seconds"] <= alone["gpu_seconds"] + 0.01
    assert alone["gpu_seconds"] <= high * alone["seconds"] + 0.01
    assert found["cost"]["gpu_seconds"] > 0
    # A record that says nothing of the models, as in runs of older versions.
    (run / RUN_FILE).write_text(json.dumps({**record, "models": {}}))
    alone = report(cli)["one_trial_a_job"]
    assert alone["gpu_seconds"] == pytest.approx(4 * alone["seconds"], abs=0.01)
