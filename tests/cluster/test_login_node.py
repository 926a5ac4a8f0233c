"""What a login node does on a real cluster: looks at its nodes with small jobs, and runs the
controller itself.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.cluster import Cluster, cluster_script
from tests.support.runs import journal_events, kill_controller, table
from tests.support.waiting import until

pytestmark = pytest.mark.own_cluster


@pytest.fixture(scope="module")
def login(cluster_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own: two nodes with two GPUs, no accounting, no image."""
    directory = tmp_path_factory.mktemp("login")
    cluster_script("up", directory, "--nodes", 2, "--gpus", 2)
    try:
        yield Cluster(directory, {"SLURM_CONF": str(directory / "etc" / "slurm.conf")})
    finally:
        cluster_script("down", directory)


def profile(folder: Path, **more: object) -> Path:
    document = {
        "kind": "slurm", "max_running": 4, "grace_seconds": 5, "poll_seconds": 0.2, "gpus_per_node": 2, "settle_seconds": 5,
        "controller": {"partition": "cpu", "time": "30:00", "mem": "500M"},
        "trial": {"partition": "gpu", "time": "30:00", "mem_per_gpu": "1G"}, **more,
    }  # fmt: skip
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def by_name(document: dict) -> dict[str, dict]:
    return {check["what"]: check for check in document["checks"]}


def test_doctor_submits_what_the_profile_asks_for_and_reports_what_nodes_see(cli, login, scripted_spec, tmp_path):  # fmt: skip
    # A file may take long to the node and back on a busy machine, which the doctor would report.
    mine = profile(tmp_path, cache=str(tmp_path / "new" / "cache"), settle_seconds=120)
    began = time.monotonic()
    done = cli("doctor", "--cluster", mine, "--submit", "--json", env=login.env)
    took = time.monotonic() - began
    document = json.loads(done.stdout)
    assert done.returncode == 0, [check for check in document["checks"] if check["ok"] is False]
    checks = by_name(document)
    assert all(
        job["node"] in ("n1", "n2") and 0 < job["round_trip"] < took for job in document["jobs"]
    )
    assert [job["what"] for job in document["jobs"]] == ["trial", "controller"]
    assert checks["trial job"]["ok"] and checks["controller job"]["ok"]  # noqa: PT018
    assert "1 requested, granted: 0" in checks["GPUs granted"]["detail"]
    assert "sbatch accepts the largest trial" in checks["scheduler commands"]["detail"]
    assert "is disabled" in checks["accounting (sacct)"]["detail"]
    for request in ("trial request", "controller request"):
        assert "sbatch accepts it" in checks[request]["detail"]
    assert {check["where"].partition(" on ")[0] for check in document["checks"]} == {
        "here",
        *(f"{job['what']} job {job['job_id']}" for job in document["jobs"]),
    }
    assert (tmp_path / "new" / "cache").is_dir()
    assert [path.name for path in (tmp_path / "results" / ".doctor").iterdir()] == ["mine.json"]
    # Jobs asked for what trials ask for.
    job = document["jobs"][0]["job_id"]
    shown = login.run("scontrol", "show", "job", job)
    for part in ("Partition=gpu", "TimeLimit=00:30:00", "gres:gpu:1", "MinMemoryNode=1G"):
        assert part in shown
    # A launch says how old that is, and that it was of another version of the profile.
    plan = cli("launch", scripted_spec(), "--cluster", mine, "--dry-run", env=login.env).stdout
    assert "nodes: all checks passed " in plan
    profile(tmp_path, max_running=1)
    plan = cli("launch", scripted_spec(), "--cluster", mine, "--dry-run", env=login.env).stdout
    assert "with another version of the profile" in plan


def test_a_job_that_does_not_start_is_cancelled_and_its_reason_told(cli, login, tmp_path):
    mine = profile(tmp_path, controller={"where": "here"})
    login.run("scontrol", "update", "partitionname=gpu", "state=down")
    try:
        done = cli("doctor", "--cluster", mine, "--submit", "--timeout", 3, "--json", env=login.env)  # fmt: skip
    finally:
        login.run("scontrol", "update", "partitionname=gpu", "state=up")
    assert done.returncode == 3
    checks = by_name(json.loads(done.stdout))
    assert "PartitionDown: the partition is down" in checks["trial job"]["detail"]
    assert "gpu is DOWN" in checks["trial partition"]["detail"]
    assert "controller job" not in checks
    until(lambda: not login.queue(), "the job to be gone from the queue")


def test_a_controller_on_the_login_node_is_killed_and_goes_on(cli, login, scripted_spec, tmp_path):  # fmt: skip
    slow = {"seconds_per_sample": 0.005}
    spec = scripted_spec(
        "here", search__iterations=0, models__strong__options=slow, models__weak__options=slow
    )
    mine = profile(tmp_path, controller={"where": "here"}, gpus_per_node=0, trial={"partition": "cpu", "mem": "500M"})  # fmt: skip
    # As a job of Slurm's would: what its environment says is not the controller's.
    env = {**login.env, "SLURM_JOB_ID": "4711"}
    launched = cli("launch", spec, "--cluster", mine, env=env)
    assert launched.returncode == 0, launched.stderr
    run = tmp_path / "results" / "here"
    handle = json.loads((run / "controller.json").read_text())
    assert f"controller: process {handle['job_id']} on {handle['host']}" in launched.stdout
    assert os.getsid(int(handle["job_id"])) != os.getsid(0), "a session of its own"
    # It starts beside two other workers' tests, of real models, and submits each job with an sbatch.
    until((run / "journal.jsonl").exists, "the journal", seconds=300, pause=0.01)
    until(lambda: journal_events(run, "submitted"), "the jobs of the first batch", seconds=300, pause=0.01)  # fmt: skip
    assert kill_controller(run)
    dead = json.loads(cli("status", "here", "--json", env=env).stdout)["controller"]
    assert (dead["alive"], dead["host"]) == (False, handle["host"])
    again = cli("resume", "here", "--wait", env=env)
    assert again.returncode == 0, again.stderr
    frame = table(run)
    assert set(frame["state"]) == {"COMPLETED"}
    assert all(job.partition("_")[0].isdecimal() for job in frame["job_id"])
    names = login.run("squeue", "--me", "-h", "-t", "all", "-o", "%j").split()
    assert not any(name.startswith("ctl-here") for name in names), "the controller was no job"
