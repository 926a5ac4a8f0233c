"""Every task on real Slurm: its code, its data and, for ChatDev's programs, its sandbox in the
container.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cluster import TESTCLUSTER
from tests.support.runs import attempts
from tests.support.small_specs import NAMES, small_run

# A real small model with the transformers engine, whose start costs a third of vLLM's, at the task with the
# shortest prompts. Where a reply comes from does not matter to the container of the others:
# `tests/tasks/test_small_specs.py` has every task with a real model, and `test_slurm_run` has real vLLM in the
# container.
REAL = "triage"


def check_small_run(slurm_cli, tmp_path: Path, name: str, model: Path | None) -> None:
    run = small_run(name, tmp_path, model)
    # In the container programs run without the opt-in that a machine without one takes.
    more = ["--set", "task.run_code_on_host=false", "--set", "models.smollm2.gpus=1"]
    if model is not None:
        more += ["--set", "models.smollm2.engine=transformers"]
    done = slurm_cli("launch", run.spec, "--cluster", TESTCLUSTER, "--wait", *run.arguments, *more)  # fmt: skip
    assert done.returncode == 0, done.stderr
    run.check(tmp_path / "results")
    [attempt] = attempts(tmp_path / "results" / name)
    assert attempt["gpus"] == 1
    assert attempt["devices"]
    record = json.loads((tmp_path / "results" / name / "run.json").read_text())
    assert len(record["image_sha256"]) == 64
    trial = json.loads((tmp_path / "results" / name / "trials/t0000/trial.json").read_text())
    assert trial["code_on_host"] is False


@pytest.mark.llm
def test_a_small_spec_completes_in_the_container(slurm_cli, cluster, smollm2, tmp_path):
    check_small_run(slurm_cli, tmp_path, REAL, smollm2)


@pytest.mark.parametrize("name", [name for name in NAMES if name != REAL])
def test_a_small_spec_completes_in_the_container_without_a_model(slurm_cli, cluster, tmp_path, name):  # fmt: skip
    check_small_run(slurm_cli, tmp_path, name, None)
