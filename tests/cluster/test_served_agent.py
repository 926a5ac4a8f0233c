"""A whole search on real Slurm that a real small model drives, served with real vLLM in the
container by the run.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cluster import TESTCLUSTER
from tests.support.real_models import QUICK, check_proposals_of_served_model
from tests.support.runs import table, transcript_events
from tests.support.waiting import until


@pytest.fixture
def spec(scripted_spec, smollm2):
    def make(name: str, **changes: object) -> Path:
        agent = {
            "kind": "serve",
            "model": str(smollm2),
            "options": dict(QUICK),
            "gpus": 1,
            "max_tokens": 300,
            "timeout_seconds": 600,
            "start_seconds": 900,
            "retries": 2,
        }
        return scripted_spec(
            name, task__examples=4, search__iterations=1, search__batch_size=2,
            models__strong__gpus=1, models__weak__gpus=1, agent=agent, **changes,
        )  # fmt: skip

    return make


@pytest.mark.llm
@pytest.mark.timeout(2700)
def test_a_served_model_drives_a_search_on_slurm_and_is_served_again_when_its_job_is_lost(
    slurm_cli, cluster, spec, tmp_path
):
    slow = {"seconds_per_sample": 0.02}
    made = spec("driven", models__strong__options=slow, models__weak__options=slow)
    assert slurm_cli("launch", made, "--cluster", TESTCLUSTER).returncode == 0
    run = tmp_path / "results/driven"

    def told() -> list[str]:
        events = transcript_events(run, "served") if (run / "agent.jsonl").exists() else []
        return [str(event["what"]) for event in events]

    until(lambda: any("ready at" in what for what in told()), "the served model to be ready", seconds=900, pause=0.5)  # fmt: skip
    key = (run / "agent" / "key").read_bytes()
    lost = told()[0].rsplit(" ", 1)[1]
    cluster.run("scancel", "--signal=KILL", "--full", lost)
    done = slurm_cli("resume", "driven", "--wait", timeout=2400)
    assert done.returncode == 0, done.stderr

    frame = table(run)
    assert set(frame["state"]) == {"COMPLETED"}
    check_proposals_of_served_model(run)
    replies = transcript_events(run, "reply")
    assert {e["purpose"] for e in replies} == {"propose"}
    assert all(e["completion_tokens"] > 1 for e in replies)
    served = told()
    jobs = [what.rsplit(" ", 1)[1] for what in served if what.startswith("started as job")]
    assert len(jobs) >= 2
    assert len(set(jobs)) == len(jobs)
    assert "released" in served[-1]
    # Slurm's own word: GPU jobs of their own, the last of them ended when the search was.
    for name, resources, state in cluster.accounted(jobs, "JobName", "AllocTRES", "State"):
        assert name == "llm-driven"
        assert "gres/gpu=1" in resources
        assert state.split()[0] in {"CANCELLED", "COMPLETED", "FAILED"}
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
