"""Every task with a real small model on real Slurm: in the container, with the transformers
engine, and ChatDev's programs in its sandbox.
"""

from __future__ import annotations

import json

import pytest

from tests.support.cluster import TESTCLUSTER
from tests.support.runs import attempts
from tests.support.small_specs import NAMES, small_run

# Real vLLM takes half a minute of a core to start, more than these trials take with transformers.
# `test_slurm_run` has it in the container, and `tests/tasks/test_small_specs.py` has all tasks with it
# outside of one.
ENGINE = "transformers"


@pytest.mark.llm
@pytest.mark.parametrize("name", NAMES)
def test_a_small_spec_completes_in_the_container(slurm_cli, cluster, smollm2, tmp_path, name):
    run = small_run(name, smollm2, tmp_path)
    # In the container programs run without the opt-in that a machine without one takes.
    more = ("--set", "task.run_code_on_host=false", "--set", f"models.smollm2.engine={ENGINE}")  # fmt: skip
    done = slurm_cli("launch", run.spec, "--cluster", TESTCLUSTER, "--wait", *run.arguments, *more, timeout=880)  # fmt: skip
    assert done.returncode == 0, done.stderr
    run.check(tmp_path / "results")
    [attempt] = attempts(tmp_path / "results" / name)
    assert attempt["gpus"] == 1
    assert attempt["devices"]
    record = json.loads((tmp_path / "results" / name / "run.json").read_text())
    assert len(record["image_sha256"]) == 64
    trial = json.loads((tmp_path / "results" / name / "trials/t0000/trial.json").read_text())
    assert trial["code_on_host"] is False
