"""What a model takes, from its own files: weights counted once, KV cache by token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.sizing.kv_cache import CacheSize, cache_size, kv_heads
from agenttts.dispatch.sizing.model_facts import model_facts, read_config

# With the engines, which load PyTorch, too: its import takes some seconds of a worker.
pytestmark = pytest.mark.xdist_group("engines")

# An 8B model of the Llama-3.1 family.
LLAMA = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "max_position_embeddings": 131072, "torch_dtype": "bfloat16"}  # fmt: skip


@pytest.fixture
def model(tmp_path):
    """Make a model's directory: files by name with their size in bytes, indices by name with
    the files they map to.
    """

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
    assert found.weight_bytes == size
    assert found.weights_from.startswith(
        "its files" if "metadata" not in str(indices) else "its index"
    )


def test_mistral_s_own_format_takes_the_consolidated_files(model):
    path = model(SHARDS | {"consolidated.safetensors": 140}, {INDEX: list(SHARDS)})
    assert model_facts(str(path), 1e9, {"load_format": "mistral"}).weight_bytes == 140


def test_a_gguf_file_is_its_size(model):
    path = model({"model.gguf": 40, "other.gguf": 50}) / "model.gguf"
    assert model_facts(str(path), 1e9, {}).weight_bytes == 40


@pytest.mark.parametrize(
    ("files", "config", "options", "engine", "params"),
    [
        ({"model.safetensors": 1600}, {}, {}, "vllm", 800),
        ({"model.safetensors": 1600}, {"torch_dtype": "float32"}, {}, "transformers", 400),
        ({"model.safetensors": 1600}, {}, {"quantization": "bitsandbytes"}, "vllm", 800),
        ({"model.safetensors": 1600}, {"quantization_config": {"quant_method": "awq"}}, {}, "vllm", 7e9),
        ({}, {}, {}, "vllm", 7e9),
    ],
)  # fmt: skip
def test_parameters_are_counted_by_files_that_are_not_quantised(
    model, files, config, options, engine, params
):
    """Nominal parameters may be any, as in the demo."""
    path = str(model(files, config=config))
    assert model_facts(path, 7e9, options, engine).params == params


def test_the_parameters_of_a_gguf_file_are_the_nominal_ones(model):
    path = model({"model.gguf": 40}) / "model.gguf"
    assert model_facts(str(path), 7e9, {}).params == 7e9


def test_weights_that_become_smaller_while_they_are_loaded(model):
    path = str(model({"model.safetensors": 1600}))
    assert model_facts(path, 1e9, {"quantization": "bitsandbytes"}).weight_bytes == 400
    assert model_facts(path, 1e9, {"quantization": "fp8"}).weight_bytes == 1600, "held whole first"


GB = 1e9
SIZES = [
    ({}, {}, 2.0),
    ({"torch_dtype": "float32"}, {}, 2.0),
    ({"dtype": "bfloat16"}, {}, 2.0),
    ({"torch_dtype": "float32"}, {"dtype": "auto"}, 2.0),
    ({"torch_dtype": "bfloat16"}, {"dtype": "float32"}, 4.0),
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
        ({}, {"dtype": "float32"}, 2 * 32 * 8 * 128 * 4),
        ({}, {"dtype": "float32", "kv_cache_dtype": "bfloat16"}, 2 * 32 * 8 * 128 * 2),
        ({"torch_dtype": "float32"}, {"kv_cache_dtype": None}, 2 * 32 * 8 * 128 * 2),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, {}, 32 * (512 + 64) * 2),
        ({"num_hidden_layers": None}, {}, None),
        ({"hidden_size": "4096"}, {}, None),
    ],
)
def test_the_kv_cache_of_a_token(model, changes, options, size):
    found = model_facts(str(model({}, config=LLAMA | changes)), 8e9, options)
    assert (found.cache and found.cache.of_context(1)) == size
    assert found.cache_copied == ("kv_lora_rank" in changes)


def test_the_language_model_of_a_multimodal_one_counts(model):
    path = model({}, config={"hidden_size": 1, "text_config": LLAMA})
    assert read_config(str(path))["hidden_size"] == 4096


def test_a_null_of_the_language_model_s_part_takes_nothing_away(model):
    outer = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    part = LLAMA | {"quantization_config": None, "hidden_size": 4096}
    config = read_config(str(model({}, config={**outer, "thinker_config": {"text_config": part}})))
    assert (config["quantization_config"]["bits"], config["hidden_size"]) == (4, 4096)


@pytest.mark.parametrize(
    ("config", "options", "engine", "size"),
    [
        ({"torch_dtype": "float32"}, {}, "vllm", 800),
        ({"torch_dtype": "float32"}, {}, "transformers", 1600),
        ({"torch_dtype": "float32"}, {"dtype": "float32"}, "vllm", 1600),
        ({"dtype": "bfloat16"}, {"dtype": "float32"}, "vllm", 3200),
        ({"torch_dtype": "float32", "quantization_config": {"quant_method": "fp8"}}, {}, "vllm", 1600),
        ({}, {}, "vllm", 1600),
    ],
)  # fmt: skip
def test_files_count_as_what_they_are_loaded_as(model, config, options, engine, size):
    path = str(model({"model.safetensors": 1600}, config=config))
    assert model_facts(path, 1e9, options, engine).weight_bytes == size


def test_shards_that_are_not_here_are_named(model):
    path = str(model({"model-1.safetensors": 100}, {INDEX: list(SHARDS)}))
    found = model_facts(path, 1e9, {})
    assert found.weight_bytes == 2e9
    assert found.weights_from == (
        "1e+09 parameters; 1 of its weight files are missing: model-2.safetensors"
    )


GPT_OSS = {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "num_hidden_layers": 36, "hidden_size": 2880, "max_position_embeddings": 131072, "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 18}  # fmt: skip
GEMMA_3 = {"model_type": "gemma3_text", "num_attention_heads": 32, "num_key_value_heads": 16, "num_hidden_layers": 62, "hidden_size": 5376, "head_dim": 128, "sliding_window": 1024}  # fmt: skip
NANO = {"num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 62, "hidden_size": 4480, "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"}  # fmt: skip
SUPER = {"num_attention_heads": 64, "num_key_value_heads": None, "num_hidden_layers": 80, "hidden_size": 8192, "block_configs": [{"attention": {"n_heads_in_group": None if n % 2 else 8, "no_op": bool(n % 2)}} for n in range(80)]}  # fmt: skip
SMALL = {"num_attention_heads": 4, "num_hidden_layers": 8, "hidden_size": 64}
A_LAYER = 2 * 4 * 16 * 2


@pytest.mark.parametrize(
    ("config", "options", "size"),
    [
        (GPT_OSS, {}, CacheSize(18 * 2 * 8 * 64 * 2, 18 * 2 * 8 * 64 * 2, 128)),
        (GPT_OSS, {"disable_hybrid_kv_cache_manager": True}, CacheSize(36 * 2 * 8 * 64 * 2, 0, 128)),
        (GPT_OSS | {"num_hidden_layers": 24, "layer_types": ["sliding_attention", "full_attention"] * 12}, {}, CacheSize(12 * 2048, 12 * 2048, 128)),
        (GEMMA_3, {}, CacheSize(10 * 2 * 16 * 128 * 2, 52 * 2 * 16 * 128 * 2, 1024)),
        (GEMMA_3 | {"model_type": "x", "sliding_window_pattern": 6}, {}, CacheSize(10 * 8192, 52 * 8192, 1024)),
        (NANO, {}, CacheSize(4 * 2 * 8 * 128 * 2)),
        (SUPER, {}, CacheSize(40 * 2 * 8 * 128 * 2)),
        # Qwen3-Next: one layer in four has attention.
        (SMALL | {"full_attention_interval": 4}, {}, CacheSize(2 * A_LAYER)),
        (SMALL | {"attn_layer_period": 4, "attn_layer_offset": 2}, {}, CacheSize(2 * A_LAYER)),
        (SMALL | {"layer_types": ["mamba", "attention"] * 4}, {}, CacheSize(4 * A_LAYER)),
        (SMALL | {"attn_type_list": [0, 0, 0, 1] * 2}, {}, CacheSize(2 * A_LAYER)),
        (SMALL | {"layer_types": ["later", "attention"] * 4}, {}, CacheSize(8 * A_LAYER, bound=True)),
        (SMALL | {"sliding_window_pattern": "LLLG", "sliding_window": 32}, {}, CacheSize(2 * A_LAYER, 6 * A_LAYER, 32)),
        (SMALL | {"model_type": "mistral", "sliding_window": 32}, {}, CacheSize(0, 8 * A_LAYER, 32)),
        (SMALL | {"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": False, "max_window_layers": 4}, {}, CacheSize(8 * A_LAYER)),
        (SMALL | {"model_type": "later", "sliding_window": 32}, {}, CacheSize(8 * A_LAYER, bound=True)),
        (SMALL | {"sliding_window": None}, {}, CacheSize(8 * A_LAYER)),
        (SMALL | {"block_configs": [{}, None, 3]}, {}, CacheSize(3 * A_LAYER)),
    ],
)  # fmt: skip
def test_layers_without_full_attention_keep_less(config, options, size):
    assert cache_size(config, options) == size


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        # The three kinds of Falcon: 7B, 40B, and one with as many heads of keys.
        ({"model_type": "falcon", "multi_query": True, "num_kv_heads": 32}, 1),
        ({"model_type": "falcon"}, 1),
        ({"multi_query": True, "new_decoder_architecture": False, "num_kv_heads": 32}, 1),
        ({"model_type": "falcon", "multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 8}, 8),
        ({"model_type": "RefinedWeb", "multi_query": True, "new_decoder_architecture": True, "n_head_kv": 8}, 8),
        ({"model_type": "falcon", "multi_query": False, "num_kv_heads": 16}, 16),
        ({"multi_query_attention": True, "multi_query_group_num": 2}, 2),
        ({"num_attention_groups": 8}, 8),
        ({"multi_query": None, "num_key_value_heads": 4}, 4),
        ({}, 32),
    ],
)  # fmt: skip
def test_heads_of_keys_have_several_names(config, heads):
    config = SMALL | {"num_attention_heads": 32} | config
    assert kv_heads(config) == heads
    assert cache_size(config, {}) == CacheSize(8 * 2 * heads * 2 * 2)


@pytest.mark.parametrize(
    ("family", "values", "kept"),
    [
        ("gpt2", {}, 12 * 12 * 64),
        ("gptj", {}, 28 * 16 * 256),
        ("bloom", {"n_layer": 30, "n_head": 32, "hidden_size": 4096}, 30 * 32 * 128),
        ("codegen", {}, 28 * 16 * 256),
        ("gpt_bigcode", {}, 12 * 1 * 64),
        ("gpt_bigcode", {"multi_query": False}, 12 * 12 * 64),
        ("gpt_neo", {}, 24 * 16 * 128),
        ("mpt", {}, 24 * 16 * 128),
        ("dbrx", {"attn_config": {"kv_n_heads": 8}}, 24 * 8 * 128),
        ("xglm", {}, 24 * 16 * 64),
        ("xlm", {}, 12 * 16 * 128),
        ("jetmoe", {}, 12 * 16 * 128),
        ("nemotron_h", {"layers_block_type": ["attention", "mamba", "attention", "moe", "mlp"]}, 2 * 8 * 128),
        ("longcat_flash", {}, 56 * (512 + 64) // 2),
        ("mamba2", {}, None),
        ("xlstm", {}, None),
    ],
)  # fmt: skip
def test_a_config_in_the_names_of_its_family_gives_its_cache(model, family, values, kept):
    """``kept`` are the numbers of the keys of a token; those of the values are as many."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[family](**values)
    path = str(model({}, config=json.loads(config.to_json_string())))
    found = model_facts(path, 7e9, {})
    assert found.cache == (kept and CacheSize(2 * 2 * kept))
    if kept:
        assert (found.layers, found.heads) == (
            config.num_layers if family == "longcat_flash" else config.num_hidden_layers,
            config.num_attention_heads,
        )


@pytest.mark.parametrize("values", [
    {},
    {"global_head_dim": 384},
    {"num_global_key_value_heads": 2, "attention_k_eq_v": True},
    {"num_global_key_value_heads": 2, "attention_k_eq_v": False},
])  # fmt: skip
@pytest.mark.parametrize("written_by", ["transformers", "its makers"])
def test_layers_of_gemma_4_have_heads_of_two_sizes(model, values, written_by):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING["gemma4_text"](num_hidden_layers=12, **values)
    content = json.loads(config.to_json_string())
    if written_by == "its makers":
        content = {k: v for k, v in content.items() if k != "per_layer_config"} | values
    facts = model_facts(str(model({}, config={"text_config": content})), 7e9, {})
    kept = {"full_attention": 0, "sliding_attention": 0}
    for kind, layer in zip(config.layer_types, config.per_layer_config, strict=True):
        kept[kind] += 2 * 2 * layer.head_dim * layer.num_key_value_heads
    assert kept["full_attention"] > 0
    assert facts.cache == CacheSize(kept["full_attention"], kept["sliding_attention"], 512)


def test_a_window_is_counted_once():
    assert CacheSize(2, 3, 10).of_context(4) == 20
    assert CacheSize(2, 3, 10).of_context(100) == 230
    assert kv_heads(SUPER) == 8


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["bits", "quant_method", "config_groups", "weights", "num_bits", "group_size", "weight_block_size"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
NAMES = st.sampled_from([*LLAMA, "quantization_config", "text_config", "kv_lora_rank", "head_dim", "vocab_size", "intermediate_size", "dtype", "layer_types", "block_configs", "attn_config", "n_layer", "n_head", "n_embd", "per_layer_config", "layers_block_type", "model_type", "sliding_window", "hybrid_override_pattern"])  # fmt: skip


@given(config=JSON | st.dictionaries(NAMES, JSON | st.just("gemma4")), params=st.floats(0, 1e12))
def test_any_config_gives_facts(tmp_path_factory, config, params):
    path = tmp_path_factory.mktemp("model")
    (path / "config.json").write_text(json.dumps(config))
    found = model_facts(str(path), params, {})
    assert 0 <= found.weight_bytes <= params * 5
    assert found.cache is None or found.cache.of_context(1) >= 0


@pytest.mark.parametrize("given", ["spec_model", "speculative_config"])
def test_a_draft_model_s_weights_count(tmp_path, given):
    for name, size in (("model", 3000), ("draft", 700)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"torch_dtype": "bfloat16"}')
        (tmp_path / name / "model.safetensors").write_bytes(bytes(size))
    draft = str(tmp_path / "draft")
    option = draft if given == "spec_model" else {"model": draft, "num_speculative_tokens": 2}
    alone = model_facts(str(tmp_path / "model"), 1.5e3, {})
    facts = model_facts(str(tmp_path / "model"), 1.5e3, {given: option})
    assert (alone.weight_bytes, facts.weight_bytes) == (3000, 3700)
    assert facts.weights_from == "its files and its draft model's"
    assert model_facts(str(tmp_path / "model"), 1.5e3, {given: "org/draft"}) == alone
