"""Two clusters that share a file system, and number their jobs each for itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.cluster import Cluster, cluster_script
from tests.support.waiting import until

pytestmark = pytest.mark.own_cluster

SLOW = {"seconds_per_sample": 0.5}


@pytest.fixture(scope="module")
def clusters(cluster_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Cluster]]:  # fmt: skip
    places = [tmp_path_factory.mktemp(name) for name in ("alpha", "beta")]
    try:
        for place, name in zip(places, ("alpha", "beta"), strict=True):
            cluster_script("up", place, "--nodes", 1, "--gpus", 4, "--conf", f"ClusterName={name}")
        alpha, beta = (Cluster(p, {"SLURM_CONF": str(p / "etc" / "slurm.conf")}) for p in places)
        yield alpha, beta
    finally:
        for place in places:
            cluster_script("down", place)


def profile(path: Path) -> Path:
    sections = {"partition": "cpu", "time": "30:00", "mem": "300M"}
    document = {"kind": "slurm", "grace_seconds": 5, "poll_seconds": 0.5, "gpus_per_node": 4}
    path.write_text(yaml.safe_dump({**document, "controller": sections, "trial": sections}))
    return path


def test_a_run_is_changed_only_on_its_own_cluster(cli, clusters, scripted_spec, tmp_path):
    alpha, beta = clusters
    spec = scripted_spec("shared", models__strong__options=SLOW, models__weak__options=SLOW)
    done = cli("launch", spec, "--cluster", profile(tmp_path / "p.yaml"), env=alpha.env)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results" / "shared"
    journal = run / "journal.jsonl"
    until(lambda: journal.exists() and b'"submitted"' in journal.read_bytes(), seconds=60)
    others = tmp_path / "sleep.sh"
    others.write_text("#!/bin/sh\nsleep 300\n")
    for _ in range(6):  # the numbers of the run's jobs, on the other cluster
        beta.run("sbatch", "-o", "/dev/null", "-p", "cpu", "-c", "1", "--mem=10M", others)
    before = len(beta.queue())
    assert before == 6

    document = json.loads(cli("list", "--json", env=beta.env).stdout)["runs"][0]
    assert document["state"] == "unknown"
    assert "on cluster alpha" in document["detail"]
    for command in ("resume", "cancel"):
        refused = cli(command, "shared", env=beta.env)
        assert refused.returncode == 3
        assert "Fix: run this command on a login node of cluster alpha" in refused.stderr
    assert json.loads(cli("list", "--json", env=alpha.env).stdout)["runs"][0]["state"] == "running"

    # An older version did not record the cluster: the batch files tell.
    moved = tmp_path / "results" / "older"
    shutil.copytree(run, moved)
    handle = json.loads((run / "controller.json").read_text())
    older = {key: handle[key] for key in ("kind", "job_id", "start", "host")}
    (moved / "controller.json").write_text(json.dumps(older))
    assert cli("cancel", "older", env=beta.env).returncode == 0
    assert len(beta.queue()) == before, "the other jobs of these numbers are not cancelled"
    shutil.rmtree(moved)

    shutil.copytree(run, tmp_path / "results" / "copy")
    refused = cli("cancel", "copy", env=alpha.env)
    assert refused.returncode == 2
    assert f"is a copy of the run {run}" in " ".join(refused.stderr.split())
    assert json.loads(cli("list", "--json", env=alpha.env).stdout)["runs"][0]["state"] == "running"

    assert cli("cancel", "shared", env=alpha.env).returncode == 0
    until(lambda: not alpha.queue(), "the end of the run's jobs", seconds=60)
    assert len(beta.queue()) == before
