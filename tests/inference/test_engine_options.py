"""Engine options are checked by name, without the engines."""

from __future__ import annotations

import pytest

from agenttts.errors import UserError
from agenttts.inference.engine_options import (
    check_options,
    installed_vllm_options,
    option_names,
)
from agenttts.inference.placement import PARALLEL_OPTIONS, PLACING_OPTIONS, over_gpus


@pytest.mark.parametrize(
    ("engine", "name", "near"),
    [
        ("vllm", "tensor_paralel_size", "tensor_parallel_size"),
        ("vllm", "max_modl_len", "max_model_len"),
        ("transformers", "batchsize", "batch_size"),
        ("scripted", "seconds_per_smaple", "seconds_per_sample"),
    ],
)
def test_an_unknown_option_is_named_with_the_nearest(engine, name, near):
    check_options(engine, {near: 1})
    with pytest.raises(UserError, match=f"'{name}'.*{near}"):
        check_options(engine, {near: 1, name: 1})


def test_an_option_like_none_still_says_where_the_names_are():
    with pytest.raises(UserError, match=r"nothing is near.*vllm_options\.txt"):
        check_options("vllm", {"xyzzy": 1})


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("gpu_memory_utilization", 90, "a number above 0, up to 1"),
        ("gpu_memory_utilization", 0, "a number above 0, up to 1"),
        ("gpu_memory_utilization", "0.9", "a number above 0, up to 1"),
        ("cpu_offload_gb", -1, "a number of 0 or more"),
        ("max_num_seqs", 0, "a whole number of 1 or more"),
        ("max_num_batched_tokens", 8192.5, "a whole number of 1 or more"),
    ],
)
def test_a_number_that_vllm_would_refuse_is_refused_before_a_job(name, value, valid):
    with pytest.raises(UserError, match=rf"^{name}: {value!r} is not valid; valid: {valid}$"):
        check_options("vllm", {name: value})


def test_numbers_that_vllm_takes_are_valid():
    check_options("vllm", {"gpu_memory_utilization": 1, "cpu_offload_gb": 0, "max_num_seqs": None})


@pytest.mark.parametrize("name", ["model", "revision"])
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_what_the_model_says_itself_is_no_option(engine, name):
    with pytest.raises(UserError, match="the model's own key"):
        check_options(engine, {name: "x"})


def test_the_options_the_documentation_names_are_valid():
    wanted = {"dtype", "quantization", "max_model_len", "tensor_parallel_size", "gpu_memory_utilization"}  # fmt: skip
    assert wanted <= set(option_names("vllm"))


@pytest.mark.llm
def test_the_list_is_that_of_the_installed_vllm():
    pytest.importorskip("vllm")
    own = {"revision"}  # a key of the model itself
    assert set(installed_vllm_options()) == set(option_names("vllm")) | own


@pytest.mark.parametrize(
    ("options", "gpus", "size"),
    [
        ({}, 1, None),
        ({"dtype": "half"}, 4, 4),
        ({"pipeline_parallel_size": 2}, 2, None),
        ({"prefill_context_parallel_size": 2}, 2, None),
        ({"tensor_parallel_size": 2}, 2, 2),
        ({"data_parallel_size": 1}, 2, 2),
    ],
)
def test_gpus_are_laid_over_once(options, gpus, size):
    laid = over_gpus(options, gpus)
    assert laid.get("tensor_parallel_size") == size
    assert {**laid, **options} == laid


def test_the_options_that_place_an_engine_are_options():
    assert set(PARALLEL_OPTIONS) <= set(option_names("vllm"))
    engines = ("vllm", "transformers", "endpoint")
    assert set(PLACING_OPTIONS) <= {name for e in engines for name in option_names(e)}
