"""Which engine starts measure the memory anew: vLLM's key of what it measured lacks some options."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from agenttts.inference.base import ModelConfig
from agenttts.inference.startup_plan import STARTUP_PLAN, without_plan
from agenttts.inference.vllm import VLLMEngine
from agenttts.serving import program
from agenttts.serving.program import server_command


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ({}, True),
        ({"max_model_len": 4096, "dtype": "half", "tensor_parallel_size": 2}, True),
        ({"enable_sleep_mode": True, "gpu_memory_utilization": 0.9}, True),
        ({"enable_sleep_mode": True, "gpu_memory_utilization": 0.6}, False),
        ({"gpu_memory_utilization": 0.9}, False),  # without sleep mode, vLLM's default is 0.92
        ({"gpu_memory_utilization": None}, True),
        ({"limit_mm_per_prompt": {"image": 0}}, False),
        ({"speculative_config": {"model": "/models/draft"}}, False),
    ],
)
def test_only_options_that_vllm_has_in_its_key_keep_what_it_measured(options, plan):
    assert without_plan(options) == ({} if plan else {STARTUP_PLAN: "0"})


@pytest.mark.parametrize(("share", "expected"), [(0.6, "0"), (0.9, "1")])
def test_an_engine_with_another_share_measures(share, expected, monkeypatch):
    seen = []

    class LLM:
        def __init__(self, **options: object) -> None:
            seen.append(os.environ[STARTUP_PLAN])
            raise ValueError("no GPU")

    monkeypatch.setenv(STARTUP_PLAN, "1")
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM))
    monkeypatch.setattr("agenttts.inference.vllm.is_cpu_build", lambda: False)
    options = {"enable_sleep_mode": True, "gpu_memory_utilization": share}
    with pytest.raises(Exception, match="no GPU"):
        VLLMEngine(ModelConfig("m", "/models/m", options=options))
    assert seen == [expected]


@pytest.mark.parametrize(
    ("options", "expected"), [({"gpu_memory_utilization": 0.4}, "0"), ({}, "1")]
)
def test_so_does_a_server(options, expected, monkeypatch):
    monkeypatch.setenv(STARTUP_PLAN, "1")
    monkeypatch.setattr(program, "is_cpu_build", lambda: False)
    config = ModelConfig("agent", "/models/m", options=options)
    _, environment = server_command(config, "agent", "0.0.0.0", 8000)
    assert environment[STARTUP_PLAN] == expected
