"""A launch that the cluster would refuse creates nothing, and a run whose trials it refuses is
continued with a corrected profile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from tests.support.cluster import TESTCLUSTER, Cluster
from tests.support.runs import attempts, journal_events, table
from tests.support.waiting import until


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"trial": {"partition": "gpuu"}}, "partition 'gpuu' does not exist; valid: "),
        ({"controller": {"partition": "cpuu"}}, "partition 'cpuu' does not exist; valid: "),
        ({"trial": {"partition": "gpu", "gpu_type": "h999"}}, "Slurm refuses the request of the trial job (1 GPU; 'sbatch --test-only'): "),
    ],
)  # fmt: skip
def test_a_request_that_slurm_refuses_is_one_error_at_launch(
    slurm_cli, scripted_spec, tmp_path, wrong, said
):
    spec = scripted_spec("refused", models__strong__gpus=1, models__weak__gpus=0)
    profile = yaml.safe_load(TESTCLUSTER.read_text())
    for section, keys in wrong.items():
        profile[section] |= keys
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(profile))
    arguments = ("launch", spec, "--cluster", tmp_path / "mine.yaml")
    done = slurm_cli(*arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1), done.stderr
    assert said in done.stderr
    assert "Fix: " in done.stderr
    assert not (tmp_path / "results").exists()


@contextmanager
def closed_partition(cluster: Cluster) -> Iterator[None]:
    """No further job of the trials starts, so the search cannot end, however slow the test is."""
    cluster.run("scontrol", "update", "partitionname=gpu", "state=down")
    try:
        yield
    finally:
        cluster.run("scontrol", "update", "partitionname=gpu", "state=up")


def test_a_run_whose_trials_are_refused_goes_on_with_a_corrected_profile(
    slurm_cli, cluster, scripted_spec, tmp_path, monkeypatch
):
    """Trials in a partition that does not exist, at the launch and again after some have ended."""
    monkeypatch.setitem(cluster.env, "PATH", cluster.silent(tmp_path / "silent")["PATH"])
    slow = {"seconds_per_sample": 0.02}
    spec = scripted_spec(
        "refused", models__strong__gpus=1, models__weak__gpus=1, search__iterations=1,
        search__batch_size=2, models__strong__options=slow, models__weak__options=slow,
    )  # fmt: skip
    (tmp_path / "slurm").mkdir()
    profile = tmp_path / "slurm" / "mine.yaml"
    right = TESTCLUSTER.read_text() + "trials_per_job: 1\n"
    wrong = right.replace("trial: {partition: gpu,", "trial: {partition: gpuu,")
    assert wrong != right
    run = tmp_path / "results" / "refused"

    profile.write_text(wrong)
    done = slurm_cli("launch", spec, "--cluster", "mine", "--wait")
    assert done.returncode == 4, done.stderr
    assert "invalid partition" in done.stderr
    command = f"'agenttts-hpc resume {run} --cluster mine'"
    assert f"edit slurm/mine.yaml, then {command}" in done.stderr

    profile.write_text(right)
    done = slurm_cli("resume", "refused", "--cluster", "mine")
    assert done.returncode == 0, done.stderr
    assert "  trial.partition: gpuu -> gpu\n" in done.stdout

    def scored() -> bool:
        return any(e["row"]["score"] is not None for e in journal_events(run, "finished"))

    until(scored, "the first result", seconds=180, pause=0.1)
    with closed_partition(cluster):
        done = slurm_cli("resume", "refused", "--cluster", "mine")
        assert done.returncode == 2, "its controller runs"
        assert f"'agenttts-hpc cancel {run}' first" in done.stderr
        assert slurm_cli("cancel", "refused").returncode == 0
    kept = {
        path.parent.name: path.read_bytes() for path in (run / "trials").glob("*/COMPLETED.json")
    }
    assert kept
    starts = {trial: len(attempts(run, trial)) for trial in kept}

    profile.write_text(wrong)
    done = slurm_cli("launch", spec, "--cluster", "mine", "--wait")
    assert done.returncode == 4, done.stderr
    assert "  trial.partition: gpu -> gpuu\n" in done.stdout

    profile.write_text(right)
    done = slurm_cli("resume", "refused", "--cluster", "mine", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "done"
    assert set(table(run)["state"]) == {"COMPLETED"}
    for trial, marker in kept.items():
        assert (run / "trials" / trial / "COMPLETED.json").read_bytes() == marker
        assert len(attempts(run, trial)) == starts[trial], "a finished trial ran again"
    changes = [event["changes"] for event in journal_events(run, "profile_changed")]
    there_and_back = {"trial.partition": ["gpuu", "gpu"]}, {"trial.partition": ["gpu", "gpuu"]}
    assert changes == [there_and_back[0], there_and_back[1], there_and_back[0]]
    assert yaml.safe_load((run / "profile.yaml").read_text())["trial"]["partition"] == "gpu"
