"""Addresses and seeds of samples, and prompt styles."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.inference.base import (
    ModelConfig,
    Prompt,
    SamplingParams,
    cut_key,
    render,
    sample_key,
    sample_seed,
)

MODEL = ModelConfig("m", "/models/m", "main", "vllm", options={"dtype": "bfloat16"})
PARAMS = SamplingParams(0.9, 64)
TEXT = st.text(max_size=30)

models = st.builds(
    ModelConfig,
    name=TEXT,
    path=TEXT,
    revision=st.none() | TEXT,
    engine=st.sampled_from(["vllm", "transformers"]),
    gpus=st.integers(0, 8),
    options=st.dictionaries(TEXT, st.integers() | TEXT | st.booleans(), max_size=3),
)
params = st.builds(
    SamplingParams, st.floats(0, 2), st.integers(1, 4096), st.floats(0.01, 1, exclude_min=True)
)
contents = TEXT | st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": TEXT}),
    min_size=1,
    max_size=3,
).map(tuple)
seeds = st.integers(0, 2**31 - 1)


@given(models, contents, params, seeds)
def test_a_key_is_32_hex_digits_and_a_function_of_its_address(model, content, params, seed):
    key = sample_key(model, content, params, seed)
    assert len(key) == 32
    assert int(key, 16) >= 0
    reordered = dataclasses.replace(model, options=dict(reversed(model.options.items())))
    assert sample_key(reordered, content, params, seed) == key


@given(models, models, contents, params, seeds)
def test_names_and_gpus_are_no_part_of_an_address(model, other, content, params, seed):
    """Two names for one model, or more GPUs for it, share the samples."""
    same = dataclasses.replace(model, name=other.name, gpus=other.gpus)
    assert sample_key(same, content, params, seed) == sample_key(model, content, params, seed)


@given(contents, contents, params, seeds)
def test_different_prompts_have_different_keys(one, other, params, seed):
    same = sample_key(MODEL, one, params, seed) == sample_key(MODEL, other, params, seed)
    assert same == (one == other)


@pytest.mark.parametrize(
    "change",
    [
        {"model": dataclasses.replace(MODEL, path="/models/n")},
        {"model": dataclasses.replace(MODEL, revision="v2")},
        {"model": dataclasses.replace(MODEL, revision=None)},
        {"model": dataclasses.replace(MODEL, engine="transformers")},
        {"model": dataclasses.replace(MODEL, options={"dtype": "float16"})},
        {"model": dataclasses.replace(MODEL, options={})},
        {"content": "another prompt"},
        {"content": ({"role": "user", "content": "a prompt"},)},
        {"params": SamplingParams(0.8, 64)},
        {"params": SamplingParams(0.9, 63)},
        {"params": SamplingParams(0.9, 64, top_p=0.9)},
        {"run_seed": 1},
        {"stop": ("\n",)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_that_changes_samples_changes_the_key(change):
    address = {"model": MODEL, "content": "a prompt", "params": PARAMS, "run_seed": 0, "stop": ()}
    assert sample_key(**address) != sample_key(**(address | change))


def test_by_the_second_rules_what_only_places_an_engine_is_no_part_of_an_address():
    first = dataclasses.replace(MODEL, rules=1)
    second = dataclasses.replace(MODEL, rules=2)
    key = sample_key(second, "x", PARAMS, 0)
    assert key == sample_key(first, "x", PARAMS, 0), "samples stored by the first are found"
    placing = {"gpu_memory_utilization": 0.8, "tensor_parallel_size": 2, "max_num_seqs": 8}
    for model, same in ((first, False), (second, True)):
        placed = dataclasses.replace(model, options={**MODEL.options, **placing})
        assert (sample_key(placed, "x", PARAMS, 0) == key) is same
        one, whole = (sample_key(model, "x", SamplingParams(t, 9), 0) for t in (1, 1.0))
        assert (one == whole) is same


@given(TEXT, st.integers(1, 30), st.integers(1, 30))
def test_seeds_of_few_samples_are_a_prefix_of_those_of_many(key, few, more):
    """k = 5 is a prefix of k = 20: how many are asked for is part of neither key nor seed."""
    many = [sample_seed(key, index) for index in range(few + more)]
    assert [sample_seed(key, index) for index in range(few)] == many[:few]
    assert all(0 <= seed < 2**31 for seed in many)


def test_seeds_do_not_repeat_within_a_prompt_or_between_prompts():
    drawn = [sample_seed(key, index) for key in ("a", "b", "c") for index in range(300)]
    assert len(set(drawn)) == len(drawn)


PROMPT = Prompt("Do it.", "Q: now?", shots=(("Q: then?", "yes"),), label="A:", stop=("\n",))


def test_a_completion_is_text_that_ends_at_the_stop_strings():
    content, stop = render(PROMPT, "few_shot_completion")
    assert content == "Do it.\n\nQ: then?\nA: yes\n\nQ: now?\nA:"
    assert stop == ("\n",)


def test_a_chat_is_messages_that_end_by_themselves():
    system, question = (
        {"role": "system", "content": "Do it."},
        {"role": "user", "content": "Q: now?"},
    )
    assert render(PROMPT, "chat") == ((system, question), ())
    content, stop = render(PROMPT, "few_shot_chat")
    assert [m["role"] for m in content] == ["system", "user", "assistant", "user"]
    assert content[1:3] == (
        {"role": "user", "content": "Q: then?"},
        {"role": "assistant", "content": "yes"},
    )
    assert stop == ()


@pytest.mark.parametrize("style", ["chat", "few_shot_chat", "few_shot_completion"])
def test_without_instructions_there_is_no_empty_turn(style):
    content, _ = render(Prompt("", "Q?"), style)
    assert content == "Q?\nAnswer:" if isinstance(content, str) else len(content) == 1


def test_by_the_third_rules_the_context_is_part_of_addresses_of_cut_prompts_alone():
    second, third = (dataclasses.replace(MODEL, rules=rules) for rules in (2, 3))
    key = sample_key(third, "x", PARAMS, 0)
    assert key == sample_key(second, "x", PARAMS, 0), "samples stored by the second are found"
    for model, same in ((second, False), (third, True)):
        long = dataclasses.replace(model, options={**MODEL.options, "max_model_len": 8192})
        assert (sample_key(long, "x", PARAMS, 0) == key) is same
        of_all = sample_key(dataclasses.replace(long, rules=2), "x", PARAMS, 0)
        assert cut_key(long, 8192, "x", PARAMS, 0) == (of_all if same else None)
        assert cut_key(model, 8192, "x", PARAMS, 0) == of_all
        assert cut_key(model, None, "x", PARAMS, 0) is None
