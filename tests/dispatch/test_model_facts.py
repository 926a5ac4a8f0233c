"""What a model takes, from its own files: weights counted once, KV cache by token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.model_facts import model_facts, read_config

# An 8B model of the Llama-3.1 family.
LLAMA = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "max_position_embeddings": 131072, "torch_dtype": "bfloat16"}  # fmt: skip


@pytest.fixture
def model(tmp_path):
    """Make a model's directory: files by name with their size in bytes, indices by name with the files they map to."""

    def make(files: dict[str, int], indices: dict[str, object] | None = None, config: object = None) -> Path:  # fmt: skip
        for name, size in files.items():
            with (tmp_path / name).open("wb") as stream:
                stream.truncate(size)
        for name, content in (indices or {}).items():
            if isinstance(content, list):
                content = {"weight_map": {f"w{n}": file for n, file in enumerate(content)}}
            (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))  # fmt: skip
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make


INDEX = "model.safetensors.index.json"
SHARDS = {"model-1.safetensors": 100, "model-2.safetensors": 50}

LAYOUTS = [
    ("one file", {"model.safetensors": 70}, {}, 70),
    ("shards", SHARDS, {INDEX: list(SHARDS)}, 150),
    ("shards without an index", SHARDS, {}, 150),
    ("consolidated beside shards", SHARDS | {"consolidated.safetensors": 150}, {INDEX: list(SHARDS)}, 150),
    ("consolidated beside shards, no index", SHARDS | {"consolidated.safetensors": 150}, {}, 150),
    ("consolidated in parts beside shards, each with an index", SHARDS | {"consolidated-1.safetensors": 150}, {INDEX: list(SHARDS), "consolidated.safetensors.index.json": ["consolidated-1.safetensors"]}, 150),
    ("consolidated alone", {"consolidated.safetensors": 80}, {}, 80),
    (".bin beside .safetensors", SHARDS | {"pytorch_model.bin": 150}, {INDEX: list(SHARDS)}, 150),
    (".bin in shards with an index", {"pytorch_model-1.bin": 30, "pytorch_model-2.bin": 40}, {"pytorch_model.bin.index.json": ["pytorch_model-1.bin", "pytorch_model-2.bin"]}, 70),
    (".bin and what training left", {"pytorch_model.bin": 30, "training_args.bin": 5, "optimizer.bin": 60, "scheduler.bin": 1}, {}, 30),
    ("an adapter beside the weights", {"model.safetensors": 70, "adapter_model.safetensors": 9}, {}, 70),
    ("an old file that the index does not name", SHARDS | {"model-old.safetensors": 999}, {INDEX: list(SHARDS)}, 150),
    ("a shard that two tensors share", SHARDS, {INDEX: [*SHARDS, *SHARDS]}, 150),
    ("a shard that is not here yet", {"model-1.safetensors": 100}, {INDEX: {"metadata": {"total_size": 150}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}}, 150),
    ("a damaged index", SHARDS, {INDEX: "{"}, 150),
    ("an index of another shape", SHARDS, {INDEX: {"weight_map": 3}}, 150),
    ("Meta's own files beside nothing", {"consolidated.00.pt": 60}, {}, 60),
]  # fmt: skip


@pytest.mark.parametrize(("files", "indices", "size"), [layout[1:] for layout in LAYOUTS], ids=[layout[0] for layout in LAYOUTS])  # fmt: skip
def test_weights_are_counted_once(model, files, indices, size):
    found = model_facts(str(model(files, indices)), 1e9, {})
    assert (found.weight_bytes, found.weights_from) == (size, "its files")


def test_mistral_s_own_format_takes_the_consolidated_files(model):
    path = model(SHARDS | {"consolidated.safetensors": 140}, {INDEX: list(SHARDS)})
    assert model_facts(str(path), 1e9, {"load_format": "mistral"}).weight_bytes == 140


def test_a_gguf_file_is_its_size(model):
    path = model({"model.gguf": 40, "other.gguf": 50}) / "model.gguf"
    assert model_facts(str(path), 1e9, {}).weight_bytes == 40


def test_weights_that_become_smaller_while_they_are_loaded(model):
    path = str(model({"model.safetensors": 1600}))
    assert model_facts(path, 1e9, {"quantization": "bitsandbytes"}).weight_bytes == 400
    assert model_facts(path, 1e9, {"quantization": "fp8"}).weight_bytes == 1600, "held whole first"


GB = 1e9
SIZES = [
    ({}, {}, 2.0),
    ({"torch_dtype": "float32"}, {}, 4.0),
    ({"dtype": "bfloat16"}, {}, 2.0),
    ({"torch_dtype": "float32"}, {"dtype": "auto"}, 4.0),
    ({"torch_dtype": "float32"}, {"dtype": "float16"}, 2.0),
    ({"torch_dtype": "float16", "quantization_config": {"quant_method": "fp8"}}, {}, 1.0),
    ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, {}, 1.0),
    ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}, {}, 0.53),
    ({"quantization_config": {"quant_method": "gptq", "bits": 8, "group_size": 128}}, {}, 1.0),
    ({"quantization_config": {"quant_method": "awq", "w_bit": 4, "group_size": 32}}, {}, 0.625),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, {}, 0.53),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, {}, 1.0),
    ({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4}}}}}, {}, 0.53),
    ({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8}}}}}, {}, 1.0),
    ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, {}, 0.53),
    ({"quantization_config": {"quant_method": "mxfp4"}}, {}, 0.53),
    ({"quantization_config": {"quant_method": "something_later"}}, {}, 2.0),
    ({}, {"quantization": "awq"}, 0.53),
    ({}, {"quantization": "fp8"}, 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("config", "options", "bytes_a_parameter"), SIZES)
def test_weights_that_are_not_here_are_worked_out_by_config(model, config, options, bytes_a_parameter):  # fmt: skip
    found = model_facts(str(model({}, config=config)), 1e9, options)
    assert found.weight_bytes / GB == pytest.approx(bytes_a_parameter, rel=0.01)
    assert "parameters" in found.weights_from


def test_embeddings_of_a_quantised_model_stay_as_they_are(model):
    config = {"quantization_config": {"quant_method": "awq", "bits": 4}, "vocab_size": 100_000, "hidden_size": 1000, "tie_word_embeddings": True}  # fmt: skip
    found = model_facts(str(model({}, config=config)), 1e9, {})
    assert found.weight_bytes == pytest.approx(0.9e9 * 4.25 / 8 + 0.1e9 * 2)


@pytest.mark.parametrize(
    ("changes", "options", "size"),
    [
        ({}, {}, 2 * 32 * 8 * 128 * 2),
        ({"head_dim": 256}, {}, 2 * 32 * 8 * 256 * 2),
        ({"num_key_value_heads": None}, {}, 2 * 32 * 32 * 128 * 2),
        ({}, {"kv_cache_dtype": "fp8_e5m2"}, 2 * 32 * 8 * 128),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, {}, 32 * (512 + 64) * 2),
        ({"num_hidden_layers": None}, {}, None),
        ({"hidden_size": "4096"}, {}, None),
    ],
)
def test_the_kv_cache_of_a_token(model, changes, options, size):
    found = model_facts(str(model({}, config=LLAMA | changes)), 8e9, options)
    assert found.cache_per_token == size
    assert found.cache_copied == ("kv_lora_rank" in changes)


def test_the_language_model_of_a_multimodal_one_counts(model):
    path = model({}, config={"hidden_size": 1, "text_config": LLAMA})
    assert read_config(str(path))["hidden_size"] == 4096


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["bits", "quant_method", "config_groups", "weights", "num_bits", "group_size", "weight_block_size"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
NAMES = st.sampled_from([*LLAMA, "quantization_config", "text_config", "kv_lora_rank", "head_dim", "vocab_size", "intermediate_size", "dtype"])  # fmt: skip


@given(config=JSON | st.dictionaries(NAMES, JSON), params=st.floats(0, 1e12))
def test_any_config_gives_facts(tmp_path_factory, config, params):
    path = tmp_path_factory.mktemp("model")
    (path / "config.json").write_text(json.dumps(config))
    found = model_facts(str(path), params, {})
    assert 0 <= found.weight_bytes <= params * 5
    assert found.cache_per_token is None or found.cache_per_token > 0
