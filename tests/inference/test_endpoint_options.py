"""Options of models on servers: what is valid, that no key is shown, what a sample's address is."""

from __future__ import annotations

import dataclasses

import pytest

from agenttts.errors import UserError
from agenttts.inference.base import ModelConfig, SamplingParams, sample_key
from agenttts.inference.endpoint_options import (
    key_variables,
    most_a_call,
    read_endpoint_options,
    with_rate_share,
)
from agenttts.inference.engine_options import check_options

URL = "http://host:8000/v1"
MODEL = ModelConfig(
    "m",
    "Org/Model",
    engine="endpoint",
    options={"base_url": URL, "api_key_env": "OUR_KEY", "requests_per_minute": 60},
    rules=2,
)


def test_defaults_and_numbers():
    options = read_endpoint_options({"base_url": f"{URL}/", "timeout_seconds": 5})
    assert options.base_url == URL
    assert options.timeout_seconds == 5.0
    assert (options.max_concurrent, options.samples_per_request) == (16, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "base_url: this key is required"),
        ({"base_url": "host:8000"}, "is not an address; valid: http://HOST:PORT/v1"),
        ({"base_url": URL, "max_concurent": 3}, "max_concurent.*did you mean 'max_concurrent'"),
        ({"base_url": URL, "max_concurrent": 0}, "max_concurrent: .*greater than or equal to 1"),
        ({"base_url": URL, "requests_per_minute": 0}, "requests_per_minute: .*greater than 0"),
        ({"base_url": URL, "model": "x"}, "set by the model's own key 'path'"),
        ({"base_url": URL, "extra": {"messages": []}}, "'messages' is set by the program"),
        ({"base_url": URL, "extra": {"x": {1, 2}}}, "it goes into a JSON request"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_valid(options, message):
    with pytest.raises(UserError, match=message):
        check_options("endpoint", options)


SECRET = "sk-no-message-may-show-this-0123456789"


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": SECRET},
        {"token": SECRET},
        {"api_key_env": SECRET},
        {"extra": {"authorization": SECRET}},
        {"extra": {"x-api-key": SECRET}},
        {"extra": {"headers": {"Authorization": SECRET}}},
        {"extra": {"gateway": {"headers": {"X-Api-Key": [SECRET]}}}},
        {"extra": {"routes": [{"name": "a"}, {"auth": {"api_key": SECRET}}]}},
        {"base_url": f"https://me:{SECRET}@host/v1"},
        {"base_url": f"https://host/v1?key={SECRET}"},
        {"base_url": f"https://host/v1?api-version=1&key={SECRET}"},
    ],
)
def test_a_key_in_a_spec_is_an_error_that_does_not_repeat_it(options):
    with pytest.raises(UserError, match="api_key_env") as caught:
        check_options("endpoint", {"base_url": URL, **options})
    assert SECRET not in str(caught.value)


def test_the_classic_address_of_azure_names_the_one_that_works():
    url = "https://me.openai.azure.com/openai/deployments/gpt?api-version=2024-10-21"
    with pytest.raises(UserError, match=r"^base_url: .*https://NAME\.openai\.azure\.com/openai/v1, with the deployment as path"):  # fmt: skip
        check_options("endpoint", {"base_url": url})


def test_a_key_below_the_first_level_is_named_by_its_path():
    extra = {"routes": [{}, {"headers": {"authorization": SECRET}}]}
    with pytest.raises(UserError, match=r"'routes\[1\]\.headers\.authorization' looks like"):
        check_options("endpoint", {"base_url": URL, "extra": extra})


def test_a_schema_may_have_properties_called_key_and_token():
    properties = {"key": {"type": "string"}, "token": {"enum": ["a", "b"]}}
    extra = {"guided_json": {"type": "object", "properties": properties, "required": ["key"]}}
    assert read_endpoint_options({"base_url": URL, "extra": extra}).extra == extra


def address(model: ModelConfig, **options: object) -> str:
    model = dataclasses.replace(model, options={**model.options, **options})
    return sample_key(model, "Which river?", SamplingParams(0.7, 50), 0)


def test_where_the_server_is_and_how_it_is_asked_is_no_part_of_an_address():
    elsewhere = {"base_url": "https://other/v1", "api_key_env": None, "max_concurrent": 2}
    assert address(MODEL) == address(MODEL, **elsewhere, requests_per_minute=1, retry_seconds=1)


def test_the_server_s_model_and_what_changes_its_samples_are():
    others = [
        dataclasses.replace(MODEL, path="Org/Other"),
        dataclasses.replace(MODEL, revision="June"),
        dataclasses.replace(MODEL, options={**MODEL.options, "extra": {"top_k": 1}}),
        dataclasses.replace(MODEL, options={**MODEL.options, "samples_per_request": 4}),
    ]
    assert len({address(model) for model in (MODEL, *others)}) == 5


def test_trials_that_run_together_share_the_rate():
    assert with_rate_share(MODEL, 4).options["requests_per_minute"] == 15
    assert with_rate_share(MODEL, 1) is MODEL
    other = ModelConfig("v", "/models/v")
    assert with_rate_share(other, 4) is other
    assert address(with_rate_share(MODEL, 4)) == address(MODEL)


def test_an_engine_call_is_short():
    assert most_a_call(MODEL, 2048) == 256
    assert most_a_call(ModelConfig("v", "/models/v"), 2048) == 2048


def test_the_variables_with_keys():
    keyless = dataclasses.replace(MODEL, options={"base_url": URL})
    assert key_variables({"a": MODEL, "b": keyless, "c": MODEL}) == ("OUR_KEY",)
