"""Engine options are checked by name, and most by type, without the engines."""

from __future__ import annotations

import argparse
import json
import re
from contextlib import suppress

import pytest

from agenttts.errors import UserError
from agenttts.inference.engine_options import (
    check_options,
    installed_vllm_options,
    option_names,
)
from agenttts.inference.engines import VLLM_OPTIONS_FILE
from agenttts.inference.option_models import TransformersOptions
from agenttts.inference.placement import PARALLEL_OPTIONS, PLACING_OPTIONS, over_gpus
from agenttts.spec.engine_options import READABLE_NUMBERS, from_command_line
from agenttts.spec.strict import read_options

READABLE = "a whole number of 1 or more, also as 8k (8,000), 25.6k or 8K (8,192)"


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
        ("max_num_seqs", "8k", "a whole number of 1 or more"),
        ("max_num_batched_tokens", 8192.5, READABLE),
        ("max_num_batched_tokens", "8.5K", READABLE),
        ("max_num_scheduled_tokens", "8 k", READABLE),
        ("max_model_len", "8kB", f"{READABLE}, or auto"),
        ("max_model_len", 0, f"{READABLE}, or auto"),
        ("max_model_len", -2, f"{READABLE}, or auto"),
        ("kv_cache_memory_bytes", "10GB", READABLE.replace("of 1", "of 0")),
        ("enforce_eager", "eager", "true or false"),
        ("enable_prefix_caching", 2, "true or false"),
        ("tensor_parallel_size", "two", "a whole number"),
        ("seed", 0.5, "a whole number"),
        ("kv_offloading_size", "4 GB", "a number"),
    ],
)
def test_a_number_that_vllm_would_refuse_is_refused_before_a_job(name, value, valid):
    with pytest.raises(
        UserError, match=rf"^{name}: {value!r} is not valid; valid: {re.escape(valid)}$"
    ):
        check_options("vllm", {name: value})


def test_numbers_that_vllm_takes_are_valid():
    check_options("vllm", {"gpu_memory_utilization": 1, "cpu_offload_gb": 0, "max_num_seqs": None})
    check_options(
        "vllm",
        {
            "enforce_eager": 1,
            "seed": 3.0,
            "async_scheduling": None,
            "dtype": "auto",
            "max_logprobs": "5",
        },
    )


TEXTS = ["8k", "8K", "25.6k", "1.5g", "2G", "512", " 4m ", "1T", "0.5t", "auto", "-1", "Auto", "8.5K", "8 k", "8kB", "1e4", "", "k", "-8k"]  # fmt: skip


@pytest.mark.llm
@pytest.mark.parametrize("name", READABLE_NUMBERS)
@pytest.mark.parametrize("text", TEXTS)
def test_numbers_are_read_as_the_installed_vllm_reads_them(name, text):
    parsers = pytest.importorskip("vllm.utils.argparse_utils")
    read = (
        parsers.human_readable_int_or_auto
        if name == "max_model_len"
        else parsers.human_readable_int
    )
    try:
        expected = read(text)
    except (ValueError, argparse.ArgumentTypeError):
        expected = text
    found = from_command_line({name: text})[name]
    if expected == -1 and name != "max_model_len":
        expected = text  # vLLM reads it and refuses it later
    assert found == expected


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + "k", "1." + "9" * 400 + "k"])
def test_a_number_of_hundreds_of_digits_is_left_as_it_is(text):
    assert from_command_line({"max_model_len": text}) == {"max_model_len": text}


@pytest.mark.llm
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_the_flags_that_take_such_numbers_are_those_of_the_installed_vllm():
    arg_utils = pytest.importorskip("vllm.engine.arg_utils")
    parser = arg_utils.EngineArgs.add_cli_args(arg_utils.FlexibleArgumentParser())
    found = set()
    for action in parser._actions:
        with suppress(ValueError, argparse.ArgumentTypeError):
            if action.type is not None and action.type("8k") == 8000:
                found.add(action.dest)
    assert found == set(READABLE_NUMBERS)


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
    lines = VLLM_OPTIONS_FILE.read_text().splitlines()[3:]
    found = installed_vllm_options()
    assert lines == [f"{name} {kind}".rstrip() for name, kind in found.items()]
    own = {"revision"}  # a key of the model itself
    assert set(found) == set(option_names("vllm")) | own


def test_gpus_have_numbers_after_a_run_s_documents_too():
    """Accelerate refuses "0"."""
    given = {"max_memory": {0: "10GiB", 1: 2, "cpu": "30GiB"}, "variant": None}
    stored = json.loads(json.dumps(given))
    assert stored != given
    options = read_options(TransformersOptions, stored, "engine transformers")
    assert options.for_library() == given


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
