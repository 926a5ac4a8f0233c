"""Whole searches on real Slurm that a model drives which the run serves in the container."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cluster import TESTCLUSTER, Cluster
from tests.support.llm import talking_script
from tests.support.real_models import QUICK, check_proposals_of_served_model
from tests.support.runs import table, transcript_events
from tests.support.waiting import until

AGENT = {"kind": "serve", "gpus": 1, "max_tokens": 300, "retries": 2}
FEW = {
    "task__examples": 4,
    "search__iterations": 1,
    "search__batch_size": 2,
    "models__strong__gpus": 1,
    "models__weak__gpus": 1,
}


def told(run: Path) -> list[str]:
    """What the run noted of its served model."""
    events = transcript_events(run, "served") if (run / "agent.jsonl").exists() else []
    return [str(event["what"]) for event in events]


def started_jobs(run: Path) -> list[str]:
    """The jobs in which the model was served."""
    return [what.rsplit(" ", 1)[1] for what in told(run) if what.startswith("started as job")]


def until_ready(run: Path) -> bytes:
    """Wait until the model is ready; its key."""
    until(lambda: any("ready at" in what for what in told(run)), "the served model to be ready", seconds=300, pause=0.1)  # fmt: skip
    return (run / "agent" / "key").read_bytes()


def check_end(run: Path, cluster: Cluster, keys: list[bytes]) -> None:
    """The search is complete, and of the served model nothing is left but what Slurm recorded."""
    assert set(table(run)["state"]) == {"COMPLETED"}
    assert {e["purpose"] for e in transcript_events(run, "reply")} == {"propose"}
    jobs = started_jobs(run)
    assert len(set(jobs)) == len(jobs)
    assert "released" in told(run)[-1]
    # Slurm's own word: GPU jobs of their own, the last of them ended when the search was.
    for name, resources, state in cluster.accounted(jobs, "JobName", "AllocTRES", "State"):
        assert name == f"llm-{run.name}"
        assert "gres/gpu=1" in resources
        assert state.split()[0] in {"CANCELLED", "COMPLETED", "FAILED"}
    # The controller's own job is over a moment after it has written that the run is.
    until_gone(cluster, run.name)
    # The key was in no command line, batch file or log, and is gone.
    assert not (run / "agent" / "key").exists()
    contents = [path.read_bytes() for path in run.rglob("*") if path.is_file()]
    assert not [key for key in keys if any(key in content for content in contents)]


def until_gone(cluster: Cluster, name: str) -> None:
    """Wait until no job of the run is in the queue."""

    def left() -> list[dict[str, str]]:
        return [row for row in cluster.queue() if f"run={name}" in row["comment"]]

    until(lambda: not left(), "an empty queue", seconds=300, pause=0.1)


@pytest.mark.llm
@pytest.mark.timeout(1800)
def test_a_real_model_that_is_served_with_vllm_drives_a_search(slurm_cli, cluster, scripted_spec, smollm2, tmp_path):  # fmt: skip
    # Of one allocation, and with its likeliest words, the reply is short: a token takes 0.06 s of a core.
    agent = {**AGENT, "model": str(smollm2), "options": dict(QUICK), "timeout_seconds": 600, "start_seconds": 900, "temperature": 0}  # fmt: skip
    spec = scripted_spec("driven", agent=agent, **{**FEW, "search__batch_size": 1})
    done = slurm_cli("launch", spec, "--cluster", TESTCLUSTER, "--wait")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results/driven"
    check_end(run, cluster, [])
    check_proposals_of_served_model(run)
    replies = transcript_events(run, "reply")
    assert all(e["completion_tokens"] > 1 and e["prompt_tokens"] > 500 for e in replies)
    # The server held it to the schema: a small model's JSON is read without a repair library.
    first = next(e for e in replies if e["purpose"] == "propose")
    if first["finish_reason"] == "stop":
        assert json.loads(first["reply"])["allocations"]


@pytest.fixture
def launched(slurm_cli, scripted_spec, tmp_path):
    """Launch a run that serves a scripted model, whose server starts in a second."""

    def launch(name: str, seconds_per_reply: float) -> Path:
        scripted_spec(name)  # writes the scripts
        strong = talking_script(tmp_path / "strong.json")
        agent = {**AGENT, "model": "strong", "options": {"seconds_per_sample": seconds_per_reply}}
        spec = scripted_spec(name, agent=agent, models__strong__path=str(strong), **FEW)
        # Workers that stay for further trials would answer in the server's place.
        (tmp_path / "leaving.yaml").write_text(TESTCLUSTER.read_text() + "linger_seconds: 0\n")
        done = slurm_cli("launch", spec, "--cluster", "./leaving.yaml")
        assert done.returncode == 0, done.stderr
        return tmp_path / "results" / name

    return launch


def test_a_served_model_whose_job_is_lost_is_served_again(slurm_cli, cluster, launched):
    run = launched("lost", seconds_per_reply=12)
    key = until_ready(run)
    cluster.run("scancel", "--signal=KILL", "--full", started_jobs(run)[0])
    done = slurm_cli("resume", "lost", "--wait")
    assert done.returncode == 0, done.stderr
    check_end(run, cluster, [key])
    assert len(started_jobs(run)) == 2


def test_cancel_ends_the_served_model_too(slurm_cli, cluster, launched):
    run = launched("stopped", seconds_per_reply=600)
    until_ready(run)
    done = slurm_cli("cancel", "stopped", "--json")
    assert json.loads(done.stdout)["outcome"] == "cancelled"
    until_gone(cluster, "stopped")
    assert not (run / "agent/key").exists()
