"""GPUs from facts: config.json and weights against the profile's GPU memory."""

from __future__ import annotations

import json

import pytest

from agenttts.dispatch.resources import gpu_need
from agenttts.errors import UserError

# The dimensions of a 72B model of the Qwen2.5 family: 80 layers, 64 heads, 8 of them for keys and values.
BIG = {"num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "hidden_size": 8192, "max_position_embeddings": 32768, "torch_dtype": "bfloat16"}  # fmt: skip


def need(tmp_path, config=None, **changes):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    values = {
        "gpus": None,
        "engine": "vllm",
        "options": {},
        "gpu_memory_gb": 80,
        "gpus_per_node": 8,
    }
    values |= changes
    return gpu_need("m", str(tmp_path), values.pop("params", 72e9), **values)


def test_what_the_spec_says_goes(tmp_path):
    assert need(tmp_path, gpus=2).gpus == 2


def test_more_than_a_node_has_is_refused(tmp_path):
    with pytest.raises(
        UserError, match="models.m.gpus: 9 GPUs are more than the profile's gpus_per_node"
    ):
        need(tmp_path, gpus=9)


def test_a_bf16_72b_model_takes_four_gpus_of_80_gb(tmp_path):
    # 144 GB of weights; two GPUs offer 2 x 72 GB, three do not divide 64 heads.
    found = need(tmp_path, BIG)
    assert found.gpus == 4
    assert "144.0 GB" in found.reasoning


def test_the_same_model_in_four_bits_takes_one(tmp_path):
    quantised = BIG | {
        "quantization_config": {"quant_method": "awq", "bits": 4},
        "max_position_embeddings": 8192,
    }
    assert need(tmp_path, quantised).gpus == 1


def test_weights_on_disk_count_rather_than_the_nominal_size(tmp_path):
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.truncate(10_000_000)
    assert need(tmp_path, {"num_attention_heads": 2}, gpu_memory_gb=8).gpus == 1


def test_a_model_that_fits_no_node_is_refused(tmp_path):
    with pytest.raises(UserError, match="do not fit the 2 GPUs of 24 GB"):
        need(tmp_path, BIG, gpu_memory_gb=24, gpus_per_node=2)


def test_a_machine_without_gpus_uses_the_cpu(tmp_path):
    assert need(tmp_path, BIG, gpus_per_node=0).gpus == 0
