"""Whole runs on this machine with scripted models: the loop, resume after kill -9 at any point, cancel, failures."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import polars as pl
import pytest


def table(tmp_path: Path, run: str = "small") -> pl.DataFrame:
    return pl.read_parquet(tmp_path / "results" / run / "trials.parquet")


def outcome(frame: pl.DataFrame) -> list[tuple[object, ...]]:
    """What must not depend on where, when or how often a run was interrupted."""
    columns = ["trial", "iteration", "source", "state", "score", "budget", "allocation", "prompt_tokens", "decode_tokens"]  # fmt: skip
    return frame.sort("trial").select(columns).rows()


def controller_pids(tmp_path: Path) -> list[int]:
    folder = str(tmp_path / "results").encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if folder in command and b"slurm/controller" in command:
                found.append(int(entry.name))
    return found


@pytest.fixture
def finished(cli, scripted_spec, tmp_path):
    done = cli("launch", scripted_spec(), "--wait")
    assert done.returncode == 0, done.stderr
    return done


def test_a_run_completes_and_reports(finished, cli, tmp_path):
    frame = table(tmp_path)
    assert set(frame["state"]) == {"COMPLETED"}
    assert frame["iteration"].max() == 2
    assert frame.filter(pl.col("iteration") == 0)["source"].unique().to_list() == ["initial"]
    assert (frame["budget"] <= 80).all()
    assert frame["score"].is_between(0, 1).all()
    assert frame["score"].n_unique() > 1
    assert frame["allocation"].n_unique() == frame.height
    assert frame["reused_tokens"].sum() > 0, "trials share samples"
    document = json.loads(cli("report", "small", "--format", "json").stdout)
    assert len(document["runs"][0]["trials"]) == frame.height
    assert document["best"]["score"] == frame["score"].max()
    status = json.loads(cli("status", "small", "--json").stdout)
    assert status["outcome"] == "done"
    assert status["trials"] == {"COMPLETED": frame.height}
    examples = pl.read_parquet(tmp_path / "results/small/trials/t0000/examples.parquet")
    assert examples.height == 16  # 8 examples, 2 stages


def test_the_same_spec_and_seed_give_the_same_run(finished, cli, scripted_spec, tmp_path):
    assert cli("launch", scripted_spec(), "--name", "again", "--wait").returncode == 0
    assert outcome(table(tmp_path)) == outcome(table(tmp_path, "again"))
    assert cli("launch", scripted_spec(), "--name", "other", "--set", "search.seed=2", "--wait").returncode == 0  # fmt: skip
    assert outcome(table(tmp_path)) != outcome(table(tmp_path, "other"))


def test_launching_a_finished_run_again_runs_nothing(finished, cli, scripted_spec, tmp_path):
    before = (tmp_path / "results/small/journal.jsonl").read_bytes()
    done = cli("launch", scripted_spec(), "--wait")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/small/journal.jsonl").read_bytes() == before


def test_another_spec_under_the_same_name_is_refused(finished, cli, scripted_spec, tmp_path):
    before = (tmp_path / "results/small/spec.yaml").read_bytes()
    done = cli("launch", scripted_spec(), "--set", "search.budget=70")
    assert done.returncode == 2
    assert "search.budget was 80.0, is 70.0" in done.stderr
    assert (tmp_path / "results/small/spec.yaml").read_bytes() == before


def test_a_controller_killed_at_any_point_loses_and_repeats_nothing(
    finished, cli, scripted_spec, tmp_path
):
    assert cli("launch", scripted_spec(), "--name", "killed").returncode == 0
    journal = tmp_path / "results/killed/journal.jsonl"
    kills = 0
    for pause in (0.3, 0.9, 1.4, 0.6, 1.9, 1.1, 0.4, 2.3):
        time.sleep(pause)
        pids = controller_pids(tmp_path)
        if pids:
            kills += 1
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        done = cli("resume", "killed")
        assert done.returncode == 0, done.stderr
    assert kills >= 4, "the run was over before it could be killed"
    assert cli("resume", "killed", "--wait").returncode == 0
    assert outcome(table(tmp_path, "killed")) == outcome(table(tmp_path))
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    ends = [event["trial"] for event in events if event["event"] == "finished"]
    assert len(ends) == len(set(ends))
    for trial in (tmp_path / "results/killed/trials").iterdir():
        attempts = [json.loads(p.read_text()) for p in sorted((trial / "attempts").glob("*.json"))]
        assert [a["state"] for a in attempts].count("COMPLETED") == 1


def test_cancel_keeps_what_has_finished_and_resume_goes_on(cli, scripted_spec, tmp_path):
    spec = scripted_spec(models__strong__options={"seconds_per_sample": 0.05})
    assert cli("launch", spec).returncode == 0
    deadline = time.monotonic() + 60
    while not (tmp_path / "results/small/trials.parquet").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    done = cli("cancel", "small", "--json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["outcome"] == "cancelled"
    assert not status["controller"]["alive"]
    assert not status["jobs"]
    assert status["trials"]["CANCELLED"] >= 1
    assert status["trials"]["COMPLETED"] >= 1
    assert not controller_pids(tmp_path)
    before = table(tmp_path).filter(state="COMPLETED")
    done = cli("resume", "small", "--wait")
    assert done.returncode == 0, done.stderr
    after = table(tmp_path)
    assert set(after["state"]) == {"COMPLETED"}, "what was cut off has been run after all"
    assert after["iteration"].max() == 2
    kept = after.filter(pl.col("trial").is_in(before["trial"].implode()))
    assert kept.select("trial", "score", "attempts", "finished").rows() == before.select("trial", "score", "attempts", "finished").rows()  # fmt: skip


def test_trials_that_fail_are_told_apart_and_the_run_says_so(cli, scripted_spec, tmp_path):
    spec = scripted_spec(models__weak__options={"fail": "OOM"})
    done = cli("launch", spec, "--wait")
    assert done.returncode == 4
    assert "trials of" in done.stderr
    frame = table(tmp_path)
    weak = pl.col("allocation").list.eval(pl.element().struct.field("model") == "weak").list.any()
    assert set(frame.filter(weak)["state"]) == {"OOM"}
    assert set(frame.filter(~weak)["state"]) == {"COMPLETED"}
    assert frame.filter(weak)["score"].null_count() == frame.filter(weak).height
    assert all("OOM" in e or "memory" in e for e in frame.filter(weak)["error"])


def test_a_run_whose_every_trial_fails_stops_early(cli, scripted_spec, tmp_path):
    fails = {"fail": "FAILED"}
    done = cli("launch", scripted_spec(models__weak__options=fails, models__strong__options=fails), "--wait")  # fmt: skip
    assert done.returncode == 4
    assert "every trial of iteration 0 failed" in done.stderr
    assert table(tmp_path)["iteration"].max() == 0
