"""Whole runs on real Slurm with real Apptainer: what a user of a cluster does, from a login
shell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from tests.support.cluster import ROOT, TESTCLUSTER, Cluster
from tests.support.runs import attempts, journal_events, outcome, table
from tests.support.waiting import until

NO_GPUS = ("--set", "models.strong.gpus=0", "--set", "models.weak.gpus=0")


def test_squeue_tells_run_iteration_trial_and_models(slurm_cli, cluster, scripted_spec, tmp_path):
    slow = {"seconds_per_sample": 0.05}
    spec = scripted_spec(
        "glance", models__strong__gpus=2, models__weak__gpus=1,
        models__strong__options=slow, models__weak__options=slow,
    )  # fmt: skip
    (tmp_path / "each.yaml").write_text(TESTCLUSTER.read_text() + "trials_per_job: 1\n")
    done = slurm_cli("launch", spec, "--cluster", "./each.yaml")
    assert done.returncode == 0, done.stderr
    seen: dict[str, dict[str, str]] = {}

    def all_run() -> bool:
        rows = cluster.queue()
        seen.update({row["name"]: row for row in rows})
        running = [r for r in rows if r["state"] == "RUNNING" and "trial=" in r["comment"]]
        return len(running) >= 2 and any(r["name"].startswith("ctl-glance") for r in rows)

    until(all_run, "the controller and two trials in squeue", seconds=120, pause=0.2)
    trial = next(row for row in seen.values() if "trial=t0000" in row["comment"])
    assert trial["name"] == "i0t0-glance"
    assert trial["partition"] == "gpu"
    for part in ("run=glance", "iteration=0", "retrieval=", "answer="):
        assert part in trial["comment"]
    status = json.loads(slurm_cli("status", "glance", "--json").stdout)
    assert status["controller"]["alive"]
    assert any(job["state"] == "RUNNING" for job in status["jobs"])
    # Slurm runs them before they have begun.
    records = until(lambda: attempts(tmp_path / "results/glance"), "the first attempts", pause=0.1)
    # Cancel ends the controller and the array; nothing of the run stays in the queue.
    done = slurm_cli("cancel", "glance", "--json")
    assert json.loads(done.stdout)["outcome"] == "cancelled"
    until(lambda: not [r for r in cluster.queue() if "run=glance" in r["comment"]], pause=0.5)
    assert all(len(a["devices"].split(",")) == a["gpus"] for a in records), "each has GPUs of its own"  # fmt: skip


def test_a_killed_controller_adopts_its_jobs_and_slurm_gives_what_this_machine_gives(
    slurm_cli, cli, cluster, scripted_spec, tmp_path
):
    # The first stage takes long enough, as estimated, for a worker with one GPU to draw it before
    # one with four starts.
    long = {"models": ["weak"], "prompt_tokens": 256, "decode_tokens": 32768, "samples": {"values": [8, 16]}}  # fmt: skip
    spec = scripted_spec(
        "adopt", models__strong__gpus=4, models__weak__gpus=1, stages__retrieval=long,
        search__budget=100_000, search__iterations=1, search__batch_size=2,
    )  # fmt: skip
    assert slurm_cli("launch", spec, "--cluster", TESTCLUSTER).returncode == 0
    run = tmp_path / "results/adopt"
    controller = json.loads((run / "controller.json").read_text())["job_id"]
    until(lambda: any("iteration=" in row["comment"] for row in cluster.queue()), pause=0.1)
    cluster.run("scancel", "--signal=KILL", "--full", controller)
    running = ("squeue", "-h", "-t", "RUNNING", "-o", "%i", "-j", controller)
    until(lambda: not cluster.run(*running).strip(), "the end of the controller's job", pause=0.1)
    done = slurm_cli("resume", "adopt", "--wait")
    assert done.returncode == 0, done.stderr
    frame = table(run)
    assert set(frame["state"]) == {"COMPLETED"}
    ends = [event["trial"] for event in journal_events(run, "finished")]
    assert len(ends) == len(set(ends)) == frame.height
    assert frame["attempts"].max() == 1, "no trial ran twice"
    assert journal_events(run, "handed_over"), "a worker with one GPU drew the first stage"
    assert {record["gpus"] for record in attempts(run)} >= {1, 4}
    # The same allocations and scores as on this machine.
    assert cli("launch", spec, "--name", "here", *NO_GPUS, "--wait").returncode == 0
    assert outcome(run) == outcome(tmp_path / "results/here")


@contextmanager
def a_lost_node(cluster: Cluster, run: Path) -> Iterator[None]:
    """Crash a node on which the run's trials have begun, and start it again at the end.

    It is not the controller's, if there is another.
    """
    records = until(lambda: attempts(run), "the first attempts", pause=0.2)
    controller = json.loads((run / "controller.json").read_text())["job_id"]
    home = cluster.run("squeue", "-h", "-j", controller, "-o", "%N").strip()
    node = next((a["node"] for a in records if a["node"] != home), home)
    cluster.script("kill-node", cluster.directory, node)
    try:
        yield
    finally:
        cluster.script("restart-node", cluster.directory, node)


def test_a_lost_node_and_a_time_limit_in_the_middle_of_lists_cost_nothing_that_was_finished(
    cli, slurm_cli, cluster, scripted_spec, tmp_path
):
    """Jobs of several trials in containers: the same table as one trial a job on this machine.

    The node is lost in the first list of a worker. The worker reaches its time limit in its second
    list.
    """
    slow = {"seconds_per_sample": 0.02}
    spec = scripted_spec(
        "lists", models__strong__gpus=1, models__weak__gpus=1, search__iterations=1,
        models__strong__options=slow, models__weak__options=slow,
    )  # fmt: skip
    assert cli("launch", spec, "--name", "here", *NO_GPUS, "--wait").returncode == 0
    more = "trials_per_job: 3\nlinger_seconds: 120\n"
    (tmp_path / "workers.yaml").write_text(TESTCLUSTER.read_text() + more)
    assert slurm_cli("launch", spec, "--cluster", "./workers.yaml").returncode == 0
    run = tmp_path / "results/lists"
    until(lambda: attempts(run), "the first attempts", pause=0.2)
    [row] = [r for r in cluster.queue() if "trials=t0000," in r["comment"]]
    assert row["name"].startswith("i0t0+")
    assert "models=" in row["comment"]
    with a_lost_node(cluster, run):
        assert slurm_cli("resume", "lists").returncode == 0
        [begun] = until(lambda: attempts(run, "t0003"), "the second list", seconds=180, pause=0.1)
        job = begun["job_id"]
        reach_time_limit(cluster, job)
        until(lambda: attempts(run, "t0003")[0]["stopped"], "the end of the attempt")
        cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=30")
        queued = [r for r in cluster.queue() if r["job"].partition("_")[0] == job.partition("_")[0]]
        assert ["trials=t0003," in row["comment"] for row in queued] == [True], "its list now"
        done = slurm_cli("resume", "lists", "--wait")
        assert done.returncode == 0, done.stderr
    assert outcome(run) == outcome(tmp_path / "results/here")
    ends = [event["trial"] for event in journal_events(run, "finished")]
    assert len(ends) == len(set(ends))
    assert any(record["together"] > 1 for record in attempts(run))
    first, *_, last = attempts(run, "t0003")
    assert (first["stopped"], first["job_id"]) == ("time limit", last["job_id"]), "it was requeued"
    assert table(run)["gpu_seconds"].min() > 0
    assert journal_events(run, "assigned"), "workers stayed for the next iteration"
    assert not cluster.queue(), "no worker outlives its run"


def reach_time_limit(cluster: Cluster, job: str) -> None:
    """Let a running job be near its time limit, and give it the signal that it asked for.

    An administrator may move a job's end. slurmctld, which looks at limits every 30 s, gives the
    signal up to 30 s before it is due; here it comes at once.
    """
    cluster.run("scontrol", "update", f"JobId={job}", "EndTime=now+65seconds")
    cluster.run("scancel", "--batch", "--signal=USR2", job)


def test_an_unknown_partition_is_refused_and_named(slurm_cli, scripted_spec, tmp_path):
    profile = TESTCLUSTER.read_text().replace("partition: cpu", "partition: cpus")
    (tmp_path / "odd.yaml").write_text(profile)
    done = slurm_cli("doctor", "--cluster", "./odd.yaml")
    assert done.returncode == 3
    assert "partition 'cpus' does not exist" in done.stdout
    done = slurm_cli("launch", scripted_spec(), "--cluster", "./odd.yaml")
    assert done.returncode == 3
    assert "partition" in done.stderr


@pytest.mark.llm
def test_the_main_job_with_real_vllm_and_a_real_model(slurm_cli, cluster, smollm2, tmp_path):
    """launch → controller → GPU array in containers with vLLM → tables → report."""
    spec = tmp_path / "real.yaml"
    text = (ROOT / "jobs" / "smoke.yaml").read_text()
    spec.write_text(text.replace("../.cache/models/smollm2-135m-instruct", str(smollm2)))
    # A model reads 300 tokens a second on a core: the tests above have more iterations and examples.
    few = ("--set", "search.iterations=0", "--set", "task.examples=2")
    done = slurm_cli("launch", spec, "--cluster", TESTCLUSTER, "--wait", *few)
    assert done.returncode == 0, done.stderr
    document = json.loads(slurm_cli("report", "smoke", "--format", "json").stdout)
    trials = document["runs"][0]["trials"]
    assert len(trials) > 1
    assert {trial["state"] for trial in trials} == {"COMPLETED"}
    assert all(trial["decode_tokens"] > 0 and trial["gpu_seconds"] > 0 for trial in trials)
    # Slurm's own word on the trials' jobs.
    jobs = {trial["job_id"] for trial in trials}
    assert len(jobs) < len(trials), "each model was started once for all of them"
    assert cluster.accounted(sorted(jobs), "State") == [["COMPLETED"]] * len(jobs)
    examples = pl.read_parquet(tmp_path / "results/smoke/trials/t0000/examples.parquet")
    texts = examples["candidates"].explode().to_list()
    assert any(len(text.split()) > 1 for text in texts), "real words from a real model"
    assert all(a["devices"] != "" and a["gpus"] == 1 for a in attempts(tmp_path / "results/smoke"))
    record = json.loads((tmp_path / "results/smoke/run.json").read_text())
    assert len(record["image_sha256"]) == 64
