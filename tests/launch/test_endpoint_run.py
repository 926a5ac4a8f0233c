"""Whole runs whose models are one tiny LLM on a real `vllm serve`, as a chat and as a base model.

Its replies are random, and under a seed the same again: quality is not what is tested here.
"""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tests.support.endpoints import KEY_VARIABLE

pytestmark = [pytest.mark.llm, pytest.mark.processes]


def samples(run: Path) -> pl.DataFrame:
    frame = pl.read_parquet(run / "samples").unique(["key", "index"])
    return frame.select("key", "index", "text", "decode_tokens", "finish_reason")


@pytest.mark.timeout(2400)
def test_a_run_on_a_server_finishes_and_its_seeds_repeat_its_samples(
    tiny_server, thinking_template, cli, scripted_spec, tmp_path
):
    options = {"base_url": tiny_server, "api_key_env": KEY_VARIABLE, "use_proxy": False}
    templated = {**options, "extra": {"chat_template": thinking_template}}
    model = {"path": "tiny/model", "params": 0.135e9, "engine": "endpoint"}
    models = {
        "few-shot": {**model, "prompt_style": "few_shot_completion", "options": options},
        "chat": {**model, "prompt_style": "few_shot_chat", "options": templated},
    }
    stage = {"models": list(models), "decode_tokens": 12, "samples": {"values": [1, 2, 4]}}
    spec = scripted_spec(
        models=models,
        stages={
            "retrieval": {**stage, "prompt_tokens": 240},
            "answer": {**stage, "prompt_tokens": 240},
        },
        task__examples=4,
        search={"budget": 60, "iterations": 0, "batch_size": 2},
        cluster="local",
    )
    checked = json.loads(cli("doctor", spec, "--json").stdout)["checks"]
    served = [check for check in checks_of(checked) if check["ok"]]
    assert [("it honours seeds" in check["detail"]) for check in served] == [True, True]
    # The second run draws the samples of the first one again, in the launching process.
    for name, more in (("one", ()), ("two", ("--cluster", "in_process"))):
        done = cli("launch", spec, "--name", name, "--wait", *more)
        assert done.returncode == 0, done.stderr
    runs = [tmp_path / "results" / name for name in ("one", "two")]
    trials = [pl.read_parquet(run / "trials.parquet") for run in runs]
    assert all(set(frame["state"]) == {"COMPLETED"} for frame in trials)
    assert all(frame["decode_tokens"].min() > 0 for frame in trials)
    both = samples(runs[0]).join(samples(runs[1]), on=["key", "index"], suffix="_again")
    assert len(both) > 40
    same = (both["text"] == both["text_again"]).mean()
    # Batches differ from run to run, and with them the last bits of the logits.
    assert same > 0.9
    assert both["text"].n_unique() > 20


def checks_of(checks: list[dict[str, object]]) -> list[dict[str, object]]:
    return [check for check in checks if str(check["what"]).startswith("endpoint of model")]
