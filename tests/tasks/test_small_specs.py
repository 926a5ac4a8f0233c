"""The small specs run with a real small language model, cut down to the least that goes through
every stage.
"""

from __future__ import annotations

import re

import pytest

from agenttts.dispatch import in_process
from agenttts.inference.base import Engine, ModelConfig, WrappedEngine
from agenttts.inference.engine_process import create_engine
from tests.support.real_models import QUICK
from tests.support.runs import transcript_events
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
        of_gpus = ("enable_sleep_mode", "gpu_memory_utilization")
        options = {k: v for k, v in config.options.items() if k not in of_gpus}
        loads.append((config.path, config.engine, options))
        return Shared(smollm2_engine)

    monkeypatch.setattr(in_process, "create_engine", load)
    run = small_run(name, tmp_path, smollm2)
    same = ("--set", "models.smollm2.options.max_model_len=2048")
    done = cli("launch", run.spec, "--cluster", "in_process", *run.arguments, *same)
    assert done.returncode == 0, done.stderr
    assert loads == [(str(smollm2), "vllm", {"max_model_len": 2048, **QUICK})]
    run.check(tmp_path / "results")


@pytest.mark.llm
def test_a_worker_answers_for_the_served_agent_with_the_engine_of_its_trials(
    cli, scripted_spec, smollm2, smollm2_engine, tmp_path, monkeypatch
):
    """The served agent is a model of the search, so no server is started: its replies are held to
    the schema by the engine of the trials.
    """
    loads = []

    def load(config: ModelConfig, log: object) -> Engine:
        if config.engine == "scripted":
            return create_engine(config)
        loads.append(config.path)
        return Shared(smollm2_engine)

    monkeypatch.setattr(in_process, "create_engine", load)
    (tmp_path / "stay.yaml").write_text(
        "kind: in_process\nmax_running: 1\ngpus_per_node: 0\nlinger_seconds: 600\n"
        "trials_per_job: 8\npoll_seconds: 0.2\n"
    )
    model = {"path": str(smollm2), "params": 1.35e8, "options": {"max_model_len": 2048}}
    agent = {"kind": "serve", "model": "small", "max_tokens": 64, "timeout_seconds": 600, "retries": 0, "bad_replies": 0}  # fmt: skip
    spec = scripted_spec(
        task__examples=1, search__iterations=1, search__batch_size=1, models__small=model, agent=agent,
        stages__answer__models=["weak", "small"], stages__answer__samples=[1, 2],
        stages__answer__decode_tokens=4,
        stages__retrieval__models=["weak"], stages__retrieval__samples=[1, 2], cluster="./stay.yaml",
    )  # fmt: skip
    done = cli("launch", spec, "--wait")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results" / "small"
    assert loads == [str(smollm2)], "one start, for trials and questions"
    assert transcript_events(run, "served") == []
    replies = transcript_events(run, "reply")
    assert {event["purpose"] for event in replies} == {"propose"}
    for event in replies:
        assert event["notes"][0].startswith("answered by worker ")
        assert event["prompt_tokens"] > 300
        # The schema's first key: the whole object may take more tokens than the least that a spec may set.
        assert re.match(r'\s*\{\s*"analysis"\s*:\s*"', event["reply"]), "held to the schema"


@pytest.mark.llm
def test_a_task_of_a_users_own_completes_in_processes_of_its_own(cli, smollm2, tmp_path):
    """Controller, trial and engine are started as on a user's machine.

    The engine is transformers, which starts in half the time. `test_slurm_run` starts vLLM so.
    """
    run = small_run(OWN_TASK, tmp_path, smollm2)
    more = ("--set", "models.smollm2.engine=transformers")
    done = cli("launch", run.spec, "--cluster", "local", "--wait", *run.arguments, *more)
    assert done.returncode == 0, done.stderr
    run.check(tmp_path / "results")
