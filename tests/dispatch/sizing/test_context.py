"""The longest context of a model, as vLLM derives it from a config."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.sizing.context import longest_context, overridden, refused_above
from agenttts.dispatch.sizing.gpu_need import check_context, gpu_need
from agenttts.dispatch.sizing.model_facts import model_facts
from agenttts.errors import UserError

K = 1024


def need(path, options, limits):
    facts = model_facts(str(path), 7.6e9, options)
    return gpu_need("m", facts, gpus=None, engine="vllm", options=options, **limits)


BASE = {"model_type": "qwen2", "max_position_embeddings": 32 * K}
LONG = {"rope_type": "longrope", "original_max_position_embeddings": 4 * K}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32 * K}


# What vLLM 0.32 says of these configs. Those before it scale by YaRN's factor.
@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({}, 32 * K),
        ({"rope_scaling": None}, 32 * K),
        ({"rope_scaling": YARN}, 32 * K),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32 * K}}, 32 * K),
        ({"max_position_embeddings": 128 * K, "rope_scaling": YARN}, 128 * K),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 32 * K),
        # DeepSeek V3 and gpt-oss state the scaled length.
        ({"max_position_embeddings": 160 * K, "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4 * K}}, 160 * K),
        ({"max_position_embeddings": 128 * K, "rope_parameters": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4 * K}}, 128 * K),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 64 * K),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6, "factor": 2.0}}, 64 * K),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 64 * K),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": None}}, 32 * K),
        # Llama 3.1: the factor is in the stated length already.
        ({"max_position_embeddings": 128 * K, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8 * K}}, 128 * K),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, 32 * K),
        ({"rope_scaling": {"rope_type": "longrope", "original_max_position_embeddings": 4 * K}, "original_max_position_embeddings": 4 * K}, 4 * K),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 8.0, "original_max_position_embeddings": 4 * K}}, 32 * K),
        ({"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 32 * K),
        # Layers of two kinds.
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}, "sliding_attention": {"rope_type": "default"}}}, 64 * K),
        ({"max_position_embeddings": None, "n_positions": 1024}, 1024),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 8 * K, "model_max_length": 128 * K}, 128 * K),
        ({"max_position_embeddings": None}, 0),
    ],
)  # fmt: skip
def test_a_config(config, length):
    assert longest_context(BASE | config) == length


@pytest.mark.parametrize(
    ("overrides", "length"),
    [
        ({"rope_scaling": YARN}, 32 * K),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, 64 * K),
        ({"max_position_embeddings": 64 * K}, 64 * K),
        ({"max_position_embeddings": 128 * K, "rope_scaling": YARN}, 128 * K),
        ({"rope_scaling": None}, 32 * K),
        ({}, 32 * K),
        (None, 32 * K),
        ("a text", 32 * K),
    ],
)
def test_what_an_engine_s_options_change_of_it(overrides, length):
    old = BASE | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    assert longest_context(overridden(old, overrides)) == length


def test_a_part_of_a_config_is_overridden_in_its_place():
    config = {"text_config": BASE, "vision_config": {"depth": 3}}
    changed = overridden(config, {"text_config": {"max_position_embeddings": 5}, "new_config": {"a": 1}})  # fmt: skip
    assert changed["text_config"] == BASE | {"max_position_embeddings": 5}
    assert changed["vision_config"] == {"depth": 3}
    assert changed["new_config"] == {"a": 1}
    assert config["text_config"] is BASE


QWEN = BASE | {"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584, "torch_dtype": "bfloat16"}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({"max_position_embeddings": 128 * K, "rope_scaling": YARN}, {}),
        ({}, {"hf_overrides": {"rope_scaling": YARN, "max_position_embeddings": 128 * K}}),
        ({}, {"max_model_len": 128 * K}),
        ({}, {"hf_overrides": {"max_position_embeddings": 128 * K}}),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, {}),
    ],
)
def test_the_same_engine_takes_the_same_gpus_however_its_context_is_said(tmp_path, config, options):  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(QWEN | config))
    limits = {"gpu_memory_gb": 24, "gpus_per_node": 4, "context_tokens": 1000}
    found = need(tmp_path, options, limits)
    assert found.gpus == 2
    assert ("vLLM refuses" in found.reasoning) == ("max_model_len" in options)


def test_a_length_that_yarn_does_not_give_is_told(tmp_path):
    """As model cards tell, for versions before 0.32: the factor alone makes no context longer."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN | {"rope_scaling": YARN}))
    limits = {"gpu_memory_gb": 24, "gpus_per_node": 4, "context_tokens": 1000}
    found = need(tmp_path, {}, limits)
    assert found.gpus == 1
    options = {"max_model_len": 128 * K}
    found = need(tmp_path, options, limits)
    assert "max_model_len (131072) is above the 32768 tokens of its config" in found.reasoning


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({}, 32 * K),
        ({"model_max_length": 64 * K}, 64 * K),
        ({"seq_length": 8 * K}, 32 * K),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 64 * K),
        ({"rope_scaling": {"type": "mrope", "factor": 2.0}}, 64 * K),
        ({"text_config": {"max_position_embeddings": 16 * K}}, 16 * K),
        ({"rope_scaling": YARN}, 128 * K),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 128 * K),
        ({"max_position_embeddings": 160 * K, "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4 * K}}, 160 * K),
        ({"max_position_embeddings": 128 * K, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 128 * K),
        ({"max_position_embeddings": 128 * K, "rope_scaling": LONG, "original_max_position_embeddings": 4 * K}, 128 * K),
    ],
)  # fmt: skip
def test_a_context_that_no_version_of_vllm_takes_is_refused(tmp_path, config, most):
    (tmp_path / "config.json").write_text(json.dumps(BASE | config))
    for taken in (1, most, "auto", -1, None):
        options = {"max_model_len": taken}
        check_context(model_facts(str(tmp_path), 7e9, options), options, {})
    options = {"max_model_len": most + 1}
    facts = model_facts(str(tmp_path), 7e9, options)
    with pytest.raises(
        UserError, match=f"{most + 1} is above the {most} tokens.*valid: 1 to {most}"
    ):
        check_context(facts, options, {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "0"})
    check_context(facts, options, {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"})
    lengths = {"max_position_embeddings": most + 1, "model_max_length": most + 1}
    over = {"hf_overrides": {"text_config": lengths} if "text_config" in config else lengths}
    check_context(model_facts(str(tmp_path), 7e9, options | over), options | over, {})


def test_a_context_is_not_refused_if_the_config_does_not_tell():
    options = {"max_model_len": 10**6}
    for facts in (None, model_facts("owner/name", 7e9, options)):
        check_context(facts, options, {})


@pytest.mark.parametrize(
    ("config", "files", "more"),
    [
        ({"text_config": {"model_type": "gemma3_text"}}, (), {}),
        ({"thinker_config": {"text_config": {}}}, (), {}),
        ({}, (), {"config_format": "mistral"}),
        ({}, ("params.json",), {}),
        ({}, ("params.json",), {"config_format": "auto"}),
    ],
)
def test_a_context_is_not_refused_if_vllm_may_read_another_length(tmp_path, config, files, more):
    (tmp_path / "config.json").write_text(json.dumps(BASE | config))
    for name in files:
        (tmp_path / name).write_text("{}")
    options = {"max_model_len": 10**6, **more}
    check_context(model_facts(str(tmp_path), 7e9, options), options, {})
    if not config:
        options["config_format"] = "hf"
        with pytest.raises(UserError, match="is above"):
            check_context(model_facts(str(tmp_path), 7e9, options), options, {})


def test_an_option_may_ask_for_the_long_context_of_longrope(tmp_path):
    config = {"max_position_embeddings": 128 * K, "rope_scaling": LONG}
    (tmp_path / "config.json").write_text(
        json.dumps(QWEN | config | {"original_max_position_embeddings": 4 * K})
    )
    limits = {"gpu_memory_gb": 24, "gpus_per_node": 4, "context_tokens": 1000}
    assert "refuses" not in need(tmp_path, {"max_model_len": 16 * K}, limits).reasoning


def test_a_config_that_lies_elsewhere(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    facts = model_facts("/models/m.gguf", 7e9, {"hf_config_path": str(tmp_path)})
    assert facts.context == 32 * K


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
ROPES = VALUES | st.dictionaries(st.sampled_from(["rope_type", "type", "factor", "original_max_position_embeddings", "full_attention"]), VALUES | st.sampled_from(["yarn", "linear", "longrope"]) | st.dictionaries(st.sampled_from(["rope_type", "factor"]), VALUES))  # fmt: skip
CONFIGS = st.dictionaries(st.sampled_from(["max_position_embeddings", "n_positions", "model_max_length", "original_max_position_embeddings", "model_type", "rope_scaling", "rope_parameters", "text_config"]), ROPES)  # fmt: skip


@given(CONFIGS, CONFIGS | VALUES)
def test_any_config_has_a_length(config, overrides):
    assert longest_context(overridden(config, overrides)) >= 0
    assert refused_above(overridden(config, overrides)) >= 0


@given(st.integers(1, 10**6), st.sampled_from(["linear", "dynamic", "ntk"]), st.floats(1, 64))
def test_a_factor_never_shortens_a_context(length, kind, factor):
    rope = {"rope_type": kind, "factor": factor, "original_max_position_embeddings": length}
    config = {"max_position_embeddings": length, "rope_scaling": rope}
    assert longest_context(config) == int(length * factor)
