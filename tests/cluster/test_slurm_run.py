"""Whole runs on real Slurm with real Apptainer: what a user of a cluster does, from a login shell."""

from __future__ import annotations

import json
import time
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
TESTCLUSTER = ROOT / "slurm" / "testcluster.yaml"


def outcome(path: Path) -> list[tuple[object, ...]]:
    columns = ["trial", "iteration", "source", "state", "score", "budget", "allocation", "prompt_tokens", "decode_tokens"]  # fmt: skip
    return pl.read_parquet(path / "trials.parquet").sort("trial").select(columns).rows()


def queue(cluster) -> list[dict[str, str]]:
    text = cluster.run("squeue", "--me", "-h", "-r", "-o", "%i|%P|%j|%T|%b|%k")
    keys = ("job", "partition", "name", "state", "gres", "comment")
    return [dict(zip(keys, line.split("|"), strict=True)) for line in text.splitlines()]


def test_local_and_slurm_give_the_same_allocations_and_scores(
    cli, slurm_cli, cluster, scripted_spec, tmp_path
):
    spec = scripted_spec(models__strong__gpus=1, models__weak__gpus=1)
    assert cli("launch", spec, "--name", "here", "--set", "models.strong.gpus=0", "--set", "models.weak.gpus=0", "--wait").returncode == 0  # fmt: skip
    done = slurm_cli("launch", spec, "--name", "there", "--cluster", TESTCLUSTER, "--wait")
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "results/here") == outcome(tmp_path / "results/there")


def test_squeue_tells_run_iteration_trial_and_models(slurm_cli, cluster, scripted_spec, tmp_path):
    slow = {"seconds_per_sample": 0.05}
    spec = scripted_spec(
        "glance", models__strong__gpus=2, models__weak__gpus=1,
        models__strong__options=slow, models__weak__options=slow,
    )  # fmt: skip
    done = slurm_cli("launch", spec, "--cluster", TESTCLUSTER)
    assert done.returncode == 0, done.stderr
    seen: dict[str, dict[str, str]] = {}
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        rows = queue(cluster)
        seen |= {row["name"]: row for row in rows}
        running = [r for r in rows if r["state"] == "RUNNING" and "trial=" in r["comment"]]
        if len(running) >= 2 and any(r["name"].startswith("ctl-glance") for r in rows):
            break
        time.sleep(0.2)
    else:
        pytest.fail(f"never saw the controller and two trials running: {seen}")
    trial = next(row for row in seen.values() if "trial=t0000" in row["comment"])
    assert trial["name"] == "i0t0-glance"
    assert trial["partition"] == "gpu"
    for part in ("run=glance", "iteration=0", "retrieval=", "answer="):
        assert part in trial["comment"]
    status = json.loads(slurm_cli("status", "glance", "--json").stdout)
    assert status["controller"]["alive"]
    assert any(job["state"] == "RUNNING" for job in status["jobs"])
    # Cancel ends the controller and the array; nothing of the run stays in the queue.
    done = slurm_cli("cancel", "glance", "--json")
    assert json.loads(done.stdout)["outcome"] == "cancelled"
    deadline = time.monotonic() + 60
    while [r for r in queue(cluster) if "run=glance" in r["comment"]]:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    attempts = [json.loads(p.read_text()) for p in (tmp_path / "results/glance/trials").glob("*/attempts/*.json")]  # fmt: skip
    assert attempts
    assert all(len(a["devices"].split(",")) == a["gpus"] for a in attempts), "each has GPUs of its own"  # fmt: skip


def test_a_killed_controller_adopts_its_jobs(slurm_cli, cli, cluster, scripted_spec, tmp_path):
    spec = scripted_spec("adopt", models__strong__gpus=1, models__weak__gpus=1)
    assert slurm_cli("launch", spec, "--cluster", TESTCLUSTER).returncode == 0
    controller = json.loads((tmp_path / "results/adopt/controller.json").read_text())["job_id"]
    deadline = time.monotonic() + 60
    while not any("trial=" in row["comment"] for row in queue(cluster)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    cluster.run("scancel", "--signal=KILL", "--full", controller)
    while cluster.run("squeue", "-h", "-t", "RUNNING", "-o", "%i", "-j", controller).strip():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    done = slurm_cli("resume", "adopt", "--wait")
    assert done.returncode == 0, done.stderr
    frame = pl.read_parquet(tmp_path / "results/adopt/trials.parquet")
    assert set(frame["state"]) == {"COMPLETED"}
    events = [json.loads(line) for line in (tmp_path / "results/adopt/journal.jsonl").read_text().splitlines()]  # fmt: skip
    ends = [event["trial"] for event in events if event["event"] == "finished"]
    assert len(ends) == len(set(ends)) == frame.height
    assert frame["attempts"].max() == 1, "no trial ran twice"


def test_a_lost_node_costs_an_attempt_not_the_trial(slurm_cli, cluster, scripted_spec, tmp_path):
    slow = {"seconds_per_sample": 0.05}
    spec = scripted_spec(
        "lost", models__strong__gpus=1, models__weak__gpus=1, search__iterations=0,
        models__strong__options=slow, models__weak__options=slow,
    )  # fmt: skip
    assert slurm_cli("launch", spec, "--cluster", TESTCLUSTER).returncode == 0
    deadline = time.monotonic() + 60
    attempts: list[dict[str, object]] = []
    while not attempts:
        assert time.monotonic() < deadline
        time.sleep(0.2)
        attempts = [json.loads(p.read_text()) for p in (tmp_path / "results/lost/trials").glob("*/attempts/*.json")]  # fmt: skip
    controller = json.loads((tmp_path / "results/lost/controller.json").read_text())["job_id"]
    home = cluster.run("squeue", "-h", "-j", controller, "-o", "%N").strip()
    node = next((a["node"] for a in attempts if a["node"] != home), home)
    cluster.script("kill-node", cluster.directory, node)
    try:
        done = slurm_cli("resume", "lost", "--wait", timeout=400)
        assert done.returncode == 0, done.stderr
    finally:
        cluster.script("restart-node", cluster.directory, node)
    frame = pl.read_parquet(tmp_path / "results/lost/trials.parquet")
    assert set(frame["state"]) == {"COMPLETED"}


def test_an_unknown_partition_is_refused_and_named(slurm_cli, scripted_spec, tmp_path):
    profile = TESTCLUSTER.read_text().replace("partition: cpu", "partition: cpus")
    (tmp_path / "odd.yaml").write_text(profile)
    done = slurm_cli("doctor", "--cluster", "./odd.yaml")
    assert done.returncode == 3
    assert "no partition 'cpus'" in done.stdout
    done = slurm_cli("launch", scripted_spec(), "--cluster", "./odd.yaml")
    assert done.returncode == 3
    assert "partition" in done.stderr


@pytest.mark.llm
def test_the_main_job_with_real_vllm_and_a_real_model(slurm_cli, cluster, smollm2, tmp_path):
    """launch → controller → GPU array in containers with vLLM → tables → report."""
    spec = tmp_path / "real.yaml"
    text = (ROOT / "jobs" / "smoke.yaml").read_text()
    spec.write_text(text.replace("../.cache/models/smollm2-135m-instruct", str(smollm2)))
    done = slurm_cli("launch", spec, "--cluster", TESTCLUSTER, "--wait", timeout=900)
    assert done.returncode == 0, done.stderr
    document = json.loads(slurm_cli("report", "smoke", "--format", "json").stdout)
    trials = document["runs"][0]["trials"]
    assert {trial["state"] for trial in trials} == {"COMPLETED"}
    assert all(trial["decode_tokens"] > 0 and trial["gpu_seconds"] > 0 for trial in trials)
    # Slurm's own word on the trials' jobs.
    jobs = ",".join(trial["job_id"] for trial in trials)
    states = cluster.run("sacct", "-n", "-P", "-X", "-o", "JobID,State", "-j", jobs).split()
    assert {line.split("|")[1] for line in states} == {"COMPLETED"}
    examples = pl.read_parquet(tmp_path / "results/smoke/trials/t0000/examples.parquet")
    texts = examples["candidates"].explode().to_list()
    assert any(len(text.split()) > 1 for text in texts), "real words from a real model"
    attempts = [json.loads(p.read_text()) for p in (tmp_path / "results/smoke/trials").glob("*/attempts/*.json")]  # fmt: skip
    assert all(a["devices"] != "" and a["gpus"] == 1 for a in attempts)
    origin = json.loads((tmp_path / "results/smoke/origin.json").read_text())
    assert len(origin["image"]["sha256"]) == 64
