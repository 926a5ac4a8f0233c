"""The context of an engine: which stored samples it would draw, and what else it changes."""

from __future__ import annotations

import json
import sys

import pytest

from agenttts.inference.base import ModelConfig
from agenttts.inference.context import Context, context_of, only_cuts

QWEN = {"model_type": "qwen3", "max_position_embeddings": 40960}
PHI = {
    "max_position_embeddings": 131072,
    "rope_scaling": {"type": "longrope", "original_max_position_embeddings": 4096},
}


@pytest.fixture
def model(tmp_path):
    def make(config, engine="vllm", **options):
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        return ModelConfig("m", str(tmp_path), engine=engine, options=options)

    return make


@pytest.mark.parametrize(
    ("config", "options", "on_gpu", "on_cpu"),
    [
        (QWEN, {}, Context(40960), Context(4096, 4096)),
        (QWEN, {"max_model_len": 8192}, Context(8192, 8192), Context(8192, 8192)),
        (QWEN, {"max_model_len": "auto"}, Context(), Context()),
        (QWEN, {"max_model_len": None}, Context(40960), Context(40960)),
        (QWEN | {"seq_length": 2048}, {}, Context(2048), Context(2048, 2048)),
        (QWEN, {"hf_overrides": {"x": 1}}, Context(), Context(4096, 4096)),
        ({"n_positions": 1024}, {}, Context(1024), Context(1024, 1024)),
        ({"text_config": QWEN}, {}, Context(40960), Context(4096, 4096)),
        (PHI, {}, Context(4096), Context(4096, 4096)),
        ({"max_position_embeddings": True}, {}, Context(), Context()),
        (None, {}, Context(), Context()),
    ],
)
def test_the_context_as_far_as_files_and_options_tell(model, config, options, on_gpu, on_cpu):
    assert context_of(model(config, **options), cpu=False) == on_gpu
    assert context_of(model(config, **options), cpu=True) == on_cpu


def test_the_context_of_other_engines(model):
    assert context_of(model(QWEN, "transformers"), cpu=True) == Context(40960)
    assert context_of(model(None, "scripted")) == Context(sys.maxsize)
    assert context_of(model(None, "endpoint", max_model_len=512)) == Context()


CPU, GPU = Context(4096, 4096), Context(40960)


@pytest.mark.parametrize(
    ("prompt_tokens", "truncated", "drawn_by"),
    [
        (10, False, [CPU, GPU]),
        (4096 - 512, False, [CPU, GPU]),
        (4097 - 512, False, [GPU]),
        (4096 - 512, True, [CPU]),
        (40960 - 512, True, [GPU]),
        (8192 - 512, True, []),
    ],
)
def test_a_prompt_that_is_cut_is_that_of_one_context(prompt_tokens, truncated, drawn_by):
    length = prompt_tokens + 512
    assert [c for c in (CPU, GPU) if c.gives(length, cut=truncated)] == drawn_by
    assert Context().gives(length, cut=truncated)


@pytest.mark.parametrize(
    ("config", "engine", "options", "only"),
    [
        (QWEN, "vllm", {}, True),
        (QWEN, "vllm", {"max_model_len": 8192}, True),
        (QWEN, "vllm", {"max_model_len": "auto"}, False),
        (QWEN, "vllm", {"max_model_len": -1}, False),
        (QWEN, "vllm", {"hf_overrides": {"rope_scaling": {}}}, False),
        (QWEN | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "vllm", {}, True),
        (QWEN | {"rope_parameters": {"full": {"rope_type": "su"}}}, "vllm", {}, False),
        (PHI, "vllm", {}, False),
        ({"text_config": {"model_type": "llama4_text"}}, "vllm", {}, False),
        (None, "vllm", {}, False),
        (PHI, "transformers", {"max_model_len": 99}, True),
        (None, "scripted", {"max_model_len": 99}, True),
        (None, "endpoint", {}, False),
    ],
)
def test_whether_the_context_changes_other_samples(model, config, engine, options, only):
    found = model(config, engine, **options)
    assert only_cuts(engine, found.path, found.options) is only
