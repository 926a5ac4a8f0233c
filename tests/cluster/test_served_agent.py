"""A whole search on real Slurm that a real small model drives, served with real vLLM in the container by the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cluster import TESTCLUSTER
from tests.support.runs import table, transcript_events
from tests.support.waiting import until


@pytest.fixture
def spec(scripted_spec, smollm2):
    def make(name: str, **changes: object) -> Path:
        agent = {
            "kind": "serve",
            "model": str(smollm2),
            "gpus": 1,
            "max_tokens": 300,
            "timeout_seconds": 600,
            "start_seconds": 900,
            "retries": 2,
        }
        return scripted_spec(
            name, task__examples=4, search__iterations=2, search__batch_size=3,
            models__strong__gpus=1, models__weak__gpus=1, agent=agent, **changes,
        )  # fmt: skip

    return make


@pytest.mark.llm
@pytest.mark.timeout(2700)
def test_a_served_model_drives_a_search_on_slurm(slurm_cli, cluster, spec, tmp_path):
    done = slurm_cli("launch", spec("driven"), "--cluster", TESTCLUSTER, "--wait", timeout=2600)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results/driven"
    frame = table(run)
    assert set(frame["state"]) == {"COMPLETED"}
    # What it proposed is usable; whether the search prefers its own ideas is the search's decision.
    assert any(e["usable"] for e in transcript_events(run, "proposals"))
    assert set(frame["source"]) <= {"initial", "agent", "agent-repaired", "insight", "explore"}
    replies = transcript_events(run, "reply")
    assert {e["purpose"] for e in replies} == {"guidelines", "propose"}
    assert all(e["completion_tokens"] > 1 for e in replies)
    served = [str(e["what"]) for e in transcript_events(run, "served")]
    assert any("ready at" in what for what in served)
    assert "released" in served[-1]
    # Slurm's own word: a GPU job of its own, ended when the search was.
    job = next(what for what in served if what.startswith("started as job")).rsplit(" ", 1)[1]

    def said() -> list[str]:
        text = cluster.run("sacct", "-n", "-P", "-X", "-o", "JobName,AllocTRES,State", "-j", job)
        return text.strip().split("|")

    ends = {"CANCELLED", "COMPLETED", "FAILED"}
    until(
        lambda: ends & set(said()[-1].split()[:1]),
        "the end of the served model's job",
        seconds=300,
        pause=0.5,
    )
    name, resources, _ = said()
    assert name == "llm-driven"
    assert "gres/gpu=1" in resources
    # The controller's own job is over a moment after it has written that the run is.
    until(
        lambda: (
            not [
                row
                for row in cluster.queue()
                if "run=driven" in row["comment"] and row["state"] in {"RUNNING", "PENDING"}
            ]
        ),
        "an empty queue",
        seconds=300,
        pause=0.5,
    )
    # The key was in no command line, batch file or log, and is gone.
    assert not (run / "agent" / "key").exists()


@pytest.mark.llm
@pytest.mark.timeout(2700)
def test_a_served_model_whose_job_is_lost_is_served_again(slurm_cli, cluster, spec, tmp_path):
    slow = {"seconds_per_sample": 0.02}
    made = spec("reborn", models__strong__options=slow, models__weak__options=slow)
    assert slurm_cli("launch", made, "--cluster", TESTCLUSTER).returncode == 0
    run = tmp_path / "results/reborn"

    def ready() -> bool:
        served = transcript_events(run, "served") if (run / "agent.jsonl").exists() else []
        return any("ready at" in str(event["what"]) for event in served)

    until(ready, "the served model to be ready", seconds=900, pause=0.5)
    key = (run / "agent" / "key").read_bytes()
    job = str(transcript_events(run, "served")[0]["what"]).rsplit(" ", 1)[1]
    cluster.run("scancel", "--signal=KILL", "--full", job)
    done = slurm_cli("resume", "reborn", "--wait", timeout=1700)
    assert done.returncode == 0, done.stderr
    served = [str(e["what"]) for e in transcript_events(run, "served")]
    assert sum(what.startswith("started as job") for what in served) >= 2
    assert set(table(run)["state"]) == {"COMPLETED"}
    assert [p for p in tmp_path.rglob("*") if p.is_file() and key in p.read_bytes()] == []


@pytest.mark.llm
@pytest.mark.timeout(1500)
def test_cancel_ends_the_served_model_too(slurm_cli, cluster, spec, tmp_path):
    assert slurm_cli("launch", spec("stopped"), "--cluster", TESTCLUSTER).returncode == 0
    until(
        lambda: any(row["name"] == "llm-stopped" for row in cluster.queue()), seconds=300, pause=0.5
    )
    done = slurm_cli("cancel", "stopped", "--json")
    assert json.loads(done.stdout)["outcome"] == "cancelled"
    until(
        lambda: not [row for row in cluster.queue() if "run=stopped" in row["comment"]],
        "an empty queue",
        seconds=300,
        pause=0.5,
    )
    assert not (tmp_path / "results/stopped/agent/key").exists()
