"""The small specs run with a real small language model, cut down to the least that goes through
every stage.
"""

from __future__ import annotations

import pytest

from agenttts.dispatch import in_process
from agenttts.inference.base import Engine, ModelConfig, WrappedEngine
from tests.support.small_specs import NAMES, small_run

OWN_TASK = "triage"


class Shared(WrappedEngine):
    """An engine that several trials use one after the other: closing it does nothing."""

    def close(self) -> None:
        return


@pytest.mark.llm
@pytest.mark.parametrize("name", [name for name in NAMES if name != OWN_TASK])
def test_a_small_spec_completes(cli, smollm2, smollm2_engine, tmp_path, monkeypatch, name):
    """With an engine that is loaded once for all of them: a load takes longer than the rest of
    such a run.
    """
    loads = []

    def load(config: ModelConfig, log: object) -> Engine:
        loads.append((config.path, config.engine, config.options))
        return Shared(smollm2_engine)

    monkeypatch.setattr(in_process, "create_engine", load)
    run = small_run(name, smollm2, tmp_path)
    same = ("--set", "models.smollm2.options.max_model_len=2048")
    done = cli("launch", run.spec, "--cluster", "in_process", *run.arguments, *same)
    assert done.returncode == 0, done.stderr
    assert loads == [(str(smollm2), "vllm", {"max_model_len": 2048})]
    run.check(tmp_path / "results")


@pytest.mark.llm
def test_a_task_of_a_users_own_completes_in_processes_of_its_own(cli, smollm2, tmp_path):
    """Controller, trial and engine are started as on a user's machine."""
    run = small_run(OWN_TASK, smollm2, tmp_path)
    done = cli("launch", run.spec, "--cluster", "local", "--wait", *run.arguments)
    assert done.returncode == 0, done.stderr
    run.check(tmp_path / "results")
