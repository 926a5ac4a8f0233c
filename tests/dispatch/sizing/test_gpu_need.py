"""GPUs from facts: config.json and weights against the profile's GPU memory."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.sizing.gpu_need import CONTEXTS, gpu_need
from agenttts.dispatch.sizing.model_facts import model_facts
from agenttts.errors import Unavailable, UserError

# The dimensions of a 72B model of the Qwen2.5 family: 80 layers, 64 heads, 8 of them for keys and
# values.
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
    params = values.pop("params", 72e9)
    facts = model_facts(str(tmp_path), params, values["options"], values["engine"])
    return gpu_need("m", facts, **values)


def test_what_the_spec_says_goes(tmp_path):
    assert need(tmp_path, gpus=2).gpus == 2


def test_a_model_on_a_server_needs_no_gpu(tmp_path):
    on_server = {"engine": "endpoint", "options": {"base_url": "http://h:1/v1"}}
    found = need(tmp_path, **on_server)
    assert (found.gpus, "http://h:1/v1" in found.reasoning) == (0, True)
    assert need(tmp_path, gpus=0, **on_server).gpus == 0
    with pytest.raises(UserError, match=r"models\.m\.gpus: the model runs on a server"):
        need(tmp_path, gpus=1, **on_server)


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


MIG = {"gpu_type": "nvidia_h100_80gb_hbm3_1g.10gb", "gpu_memory_gb": 10, "gpus_per_node": 7}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"params": 7.5e9}, r"^models\.m: 15 GB of weights do not fit the one MIG device \(nvidia_h100_80gb_hbm3_1g.10gb, 10 GB\) that an engine can use"),
        ({"context_tokens": 512, "options": {"max_model_len": 131072}}, "the KV cache of one context of 131072 tokens do not fit the one MIG device"),
        ({"gpus": 2}, r"^models\.m\.gpus: 2 GPUs are asked for, but an engine can use only one MIG device"),
        ({"gpus": 2, "gpu_memory_gb": None}, r"^models\.m\.gpus: 2 GPUs"),
        ({"options": {"tensor_parallel_size": 2}}, r"^models\.m\.options: 2 GPUs"),
        ({"options": {"pipeline_parallel_size": 4}}, r"^models\.m\.options: 4 GPUs"),
    ],
)  # fmt: skip
def test_an_engine_is_not_spread_over_mig_devices(tmp_path, changes, said):
    """CUDA shows a process one of them: vLLM finds fewer GPUs than its world size and ends."""
    with pytest.raises(Unavailable, match=said):
        need(tmp_path, MIDDLE, **{"params": 1e9, **MIG, **changes})


def test_a_model_that_fits_a_mig_device_takes_one(tmp_path):
    assert need(tmp_path, MIDDLE | {"num_hidden_layers": 16}, params=1e9, **MIG).gpus == 1
    found = need(tmp_path, MIDDLE, params=1e9, context_tokens=8000, **MIG)
    assert (found.gpus, found.contexts) == (1, 1)
    assert need(tmp_path, MIDDLE, params=7.5e9, **{**MIG, "gpu_type": "h100"}).gpus > 1


def test_a_machine_without_gpus_uses_the_cpu(tmp_path):
    assert need(tmp_path, BIG, gpus_per_node=0).gpus == 0


# A 32B model of the Qwen2.5 family in bfloat16: 65 GB of weights, 262 kB of KV cache a token.
MIDDLE = {"num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8, "hidden_size": 5120, "max_position_embeddings": 8192, "torch_dtype": "bfloat16"}  # fmt: skip


def test_one_card_that_holds_seven_contexts_is_not_enough(tmp_path):
    alone = need(tmp_path, MIDDLE, params=32.5e9, gpus=1, context_tokens=2176)
    assert alone.contexts == 7
    assert "about 7 contexts of 2176 tokens at a time" in alone.reasoning
    found = need(tmp_path, MIDDLE, params=32.5e9, context_tokens=2176)
    assert found.gpus == 2
    assert found.contexts >= CONTEXTS
    assert f"about {found.contexts} contexts of 2176 tokens at a time" in found.reasoning


def test_where_a_node_holds_fewer_contexts_its_best_is_taken_and_said(tmp_path):
    found = need(tmp_path, MIDDLE, params=32.5e9, context_tokens=7000, gpus_per_node=1)
    assert (found.gpus, found.contexts) == (1, 2)
    assert "32 contexts need more GPUs than an engine can have" in found.reasoning


def test_the_stages_tokens_count_and_not_the_model_s_maximum(tmp_path):
    found = need(tmp_path, MIDDLE | {"max_position_embeddings": 131072}, params=8e9, context_tokens=512)  # fmt: skip
    assert found.gpus == 1
    assert found.contexts > CONTEXTS


def test_vllm_wants_room_for_the_longest_context_once(tmp_path):
    """It refuses to start otherwise: 131072 tokens of this model take 34 GB."""
    long = MIDDLE | {"max_position_embeddings": 131072}
    found = need(tmp_path, long, params=20e9, context_tokens=512)
    assert found.gpus == 2
    assert "1 would be enough with options.max_model_len below 131072" in found.reasoning
    assert need(tmp_path, long, params=20e9, context_tokens=512, options={"max_model_len": 4096}).gpus == 1  # fmt: skip
    with pytest.raises(Unavailable, match=r"^models\.m: .*set the option max_model_len"):
        need(tmp_path, long, params=20e9, context_tokens=512, gpus_per_node=1)


@pytest.mark.parametrize("length", [-1, "auto"])
def test_a_context_that_is_fitted_to_the_memory_needs_room_for_one(tmp_path, length):
    found = need(tmp_path, MIDDLE | {"max_position_embeddings": 131072}, params=20e9, context_tokens=512, gpus_per_node=1, options={"max_model_len": length})  # fmt: skip
    assert found.gpus == 1


def test_an_upper_bound_alone_refuses_no_model(tmp_path):
    hybrid = MIDDLE | {"max_position_embeddings": 131072, "ssm_state": 16}
    found = need(tmp_path, hybrid, params=20e9, context_tokens=512, gpus_per_node=1)
    assert (found.gpus, found.contexts) == (1, None)
    assert "does not say which layers cache a whole context" in found.reasoning
    with pytest.raises(Unavailable, match="do not fit"):
        need(tmp_path, hybrid, params=200e9, context_tokens=512, gpus_per_node=1)


@pytest.mark.parametrize(
    ("config", "size", "memory", "contexts"),
    [
        # (config, GB of weights, GB of one GPU, contexts of 2200 tokens beside them)
        ({"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "num_hidden_layers": 36, "hidden_size": 2880, "max_position_embeddings": 131072, "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 18, "quantization_config": {"quant_method": "mxfp4"}}, 65.2, 80, (40, 50)),
        ({"num_attention_heads": 32, "num_key_value_heads": 16, "num_hidden_layers": 62, "hidden_size": 5376, "head_dim": 128, "max_position_embeddings": 131072, "model_type": "gemma3_text", "sliding_window": 1024}, 54.9, 80, (20, 25)),
        ({"num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 62, "hidden_size": 4480, "max_position_embeddings": 131072, "hybrid_override_pattern": "M*" * 4 + "-" * 54}, 24.6, 48, (400, 450)),
    ],
)  # fmt: skip
def test_hybrid_models_run_on_the_gpus_that_they_run_on(tmp_path, config, size, memory, contexts):
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.truncate(int(size * 1e9))
    found = need(tmp_path, config, gpu_memory_gb=memory, gpus_per_node=1, context_tokens=2200)
    assert found.gpus == 1
    assert found.contexts is not None
    assert contexts[0] <= found.contexts <= contexts[1]


@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        ({"tensor_parallel_size": 4}, 4),
        ({"pipeline_parallel_size": 2}, 2),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 3}, 6),
        ({"tensor_parallel_size": 2, "prefill_context_parallel_size": 2}, 4),
        ({"tensor_parallel_size": 4, "data_parallel_size": 1, "nnodes": 1}, 4),
    ],
)
@pytest.mark.parametrize("memory", [80, None])
def test_the_options_of_an_engine_say_how_many_gpus_it_takes(tmp_path, options, gpus, memory):
    found = need(tmp_path, MIDDLE, params=7e9, options=options, gpu_memory_gb=memory)
    assert found.gpus == gpus
    assert f"{gpus} (given in its options" in found.reasoning
    assert need(tmp_path, MIDDLE, params=7e9, options=options, gpus=gpus).gpus == gpus


def test_what_contradicts_the_options_is_refused(tmp_path):
    with pytest.raises(
        UserError, match="gpus is 2, and its options .tensor_parallel_size 4. make 4"
    ):
        need(tmp_path, gpus=2, options={"tensor_parallel_size": 4})
    with pytest.raises(Unavailable, match=r"models\.m\.options: 16 GPUs are more than .* \(8\)"):
        need(tmp_path, options={"tensor_parallel_size": 16})


@pytest.mark.parametrize("option", ["data_parallel_size", "data_parallel_size_local", "data_parallel_address", "nnodes", "node_rank", "master_addr"])  # fmt: skip
def test_engines_of_several_nodes_or_copies_are_refused(tmp_path, option):
    with pytest.raises(UserError, match=rf"models\.m\.options\.{option}: .* remove the option") as caught:  # fmt: skip
        need(tmp_path, gpus=2, options={option: 2})
    assert "max_running" in str(caught.value)
    assert not isinstance(caught.value, Unavailable), "a dry run refuses it too"


@pytest.mark.parametrize("option", ["tensor_parallel_size", "pipeline_parallel_size", "gpu_memory_utilization", "cpu_offload_gb"])  # fmt: skip
@pytest.mark.parametrize("value", ["2", -1, True, [2]])
def test_an_option_that_is_no_number_is_named(tmp_path, option, value):
    with pytest.raises(UserError, match=rf"models\.m\.options\.{option}"):
        need(tmp_path, MIDDLE, options={option: value})


def test_parallelism_is_vllm_s_alone(tmp_path):
    options = {"device_map": "auto"}
    assert need(tmp_path, MIDDLE, params=7e9, engine="transformers", options=options).gpus == 1


# 24 heads divide by 2 and 3. Of 29568 = 231 x 128 elements, groups of 128 go three ways, not two.
GROUPS = {"num_attention_heads": 24, "num_key_value_heads": 24, "hidden_size": 6144, "intermediate_size": 29568}  # fmt: skip
HEADS = {"num_attention_heads": 40, "num_key_value_heads": 40}
GROUPED = {"bits": 16, "group_size": 128}


@pytest.mark.parametrize(
    ("changes", "by_memory", "gpus"),
    [
        ({"num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 7168}, 3, 4),
        # 24 heads divide by 3, but their 4 key heads neither divide by 3 nor into it.
        (GROUPS | {"num_key_value_heads": 4}, 3, 4),
        (GROUPS | {"num_key_value_heads": 1}, 3, 3),
        (GROUPS, 2, 2),
        # As of Phi-4: 40 heads divide by 5, its 100,352 tokens do not. One of Llama 2's sizes: the
        # 13,824 elements of a layer do not.
        (HEADS, 5, 5),
        (HEADS | {"vocab_size": 100352}, 5, 8),
        (HEADS | {"vocab_size": 32000}, 5, 5),
        (HEADS | {"vocab_size": 31990}, 5, 5),  # vLLM rounds up to 32,000
        (HEADS | {"vocab_size": 32000, "intermediate_size": 13824}, 5, 8),
        (GROUPS | {"quantization_config": {"quant_method": "gptq", **GROUPED}}, 2, 3),
        (GROUPS | {"quantization_config": {"quant_method": "auto-round", **GROUPED}}, 2, 3),
        (GROUPS | {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 16, "group_size": 128}}}}}, 2, 3),
        (GROUPS | {"moe_intermediate_size": 384, "intermediate_size": 1536, "quantization_config": {"quant_method": "fp8", "bits": 16, "weight_block_size": [128, 128]}}, 2, 3),
    ],
)  # fmt: skip
def test_a_model_is_cut_where_it_can_be(tmp_path, changes, by_memory, gpus):
    """``by_memory`` GPUs hold the weights, and one less does not."""
    memory = 66 / (by_memory - 0.5) / 0.9 + 5
    assert need(tmp_path, MIDDLE | changes, params=33e9, gpu_memory_gb=memory, context_tokens=64).gpus == gpus  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "undivided", "valid"),
    [
        ({"gpus": 3}, "64 attention heads cannot be divided over 3 GPUs", "1, 2, 4, 8;"),
        ({"options": {"tensor_parallel_size": 6}}, "64 attention heads", "1, 2, 4, 8;"),
        ({"config": HEADS | {"num_key_value_heads": 10}, "gpus": 4}, "10 key and value", "1, 2, 5;"),
        ({"config": HEADS | {"vocab_size": 100352}, "gpus": 5}, "100352 tokens", "1, 2, 4, 8;"),
    ],
)  # fmt: skip
def test_gpus_that_vllm_cannot_divide_a_model_over_are_refused(tmp_path, changes, undivided, valid):
    config = changes.pop("config", {})
    with pytest.raises(UserError, match=undivided) as caught:
        need(tmp_path, BIG | config, **changes)
    assert f"valid: {valid}" in str(caught.value)
    assert "models.m.gpus" in str(caught.value) or "models.m.options" in str(caught.value)


def test_gpus_that_need_no_such_division_are_taken(tmp_path):
    assert need(tmp_path, BIG, options={"pipeline_parallel_size": 3}).gpus == 3
    options = {"pipeline_parallel_size": 3, "tensor_parallel_size": 2}
    assert need(tmp_path, BIG, options=options).gpus == 6
    assert need(tmp_path, BIG, gpus=3, engine="transformers").gpus == 3
    assert need(tmp_path, {"num_hidden_layers": 4}, gpus=3).gpus == 3


def test_what_the_spec_says_is_told_when_it_does_not_fit(tmp_path):
    found = need(tmp_path, BIG, gpus=1)
    assert (found.gpus, found.contexts) == (1, 0)
    assert "do not fit 1 x 72 GB usable" in found.reasoning


CONFIGS = st.fixed_dictionaries(
    {
        "num_hidden_layers": st.integers(1, 100),
        "num_attention_heads": st.sampled_from([12, 16, 28, 32, 40, 64]),
        "num_key_value_heads": st.sampled_from([1, 2, 4, 8]),
        "hidden_size": st.sampled_from([1536, 4096, 8192]),
        "max_position_embeddings": st.sampled_from([2048, 32768, 131072]),
    }
)


@given(CONFIGS, st.floats(1e8, 4e11), st.sampled_from([None, 512, 4096]), st.integers(1, 16))
def test_more_memory_never_takes_more_gpus(tmp_path_factory, config, params, tokens, node):
    path = tmp_path_factory.mktemp("model")
    counts = []
    for memory in (16, 24, 40, 80, 141):
        try:
            found = need(path, config, params=params, context_tokens=tokens, gpu_memory_gb=memory, gpus_per_node=node)  # fmt: skip
        except Unavailable:
            assert not counts, "it fitted into less"
            continue
        assert config["num_attention_heads"] % found.gpus == 0
        assert found.gpus <= node
        counts.append(found.gpus)
    assert counts == sorted(counts, reverse=True)
