"""Options that add sampling parameters, and what each option means for the address of samples."""

from __future__ import annotations

import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from agenttts.errors import UserError
from agenttts.inference.base import ModelConfig, Request, SamplingParams, sample_key
from agenttts.inference.engine_options import check_options, option_names
from agenttts.inference.sampling_options import sampling_of
from agenttts.inference.vllm import VLLMEngine
from agenttts.launch.effective_options import check_effective
from agenttts.spec.engine_options import from_command_line

PLACED, ADDRESSED, REFUSED = "placed", "addressed", "refused"
_OVERRIDE = "override_generation_config"
# What a value of each option means: it leaves the address of samples as it is, changes it, or is
# refused at launch.
TABLE = [
    ("vllm", "seed", 1, REFUSED),
    ("vllm", "generation_config", "auto", REFUSED),
    ("vllm", "generation_config", "vllm", REFUSED),
    ("vllm", "generation_config", "/models/other", ADDRESSED),  # its end tokens
    ("vllm", _OVERRIDE, {"top_k": 20}, ADDRESSED),
    ("vllm", _OVERRIDE, {"attn_temperature_tuning": True}, ADDRESSED),
    ("vllm", _OVERRIDE, {"temperature": 0.6}, REFUSED),
    ("vllm", "enable_lora", True, REFUSED),
    ("vllm", "enable_lora", False, ADDRESSED),
    ("vllm", "hf_token", "hf_secret", REFUSED),
    ("vllm", "hf_token", True, ADDRESSED),
    ("vllm", "skip_tokenizer_init", True, REFUSED),
    ("vllm", "runner", "pooling", REFUSED),
    ("vllm", "runner", "generate", ADDRESSED),
    ("vllm", "convert", "embed", REFUSED),
    ("vllm", "dtype", "half", ADDRESSED),
    ("vllm", "quantization", "fp8", ADDRESSED),
    ("vllm", "kv_cache_dtype", "fp8", ADDRESSED),
    ("vllm", "tokenizer", "/models/t", ADDRESSED),
    ("vllm", "tokenizer_mode", "mistral", ADDRESSED),
    ("vllm", "hf_overrides", {"rope_theta": 1.0}, ADDRESSED),
    ("vllm", "logits_processors", ["m:C"], ADDRESSED),
    ("vllm", "speculative_config", {"model": "/models/d"}, ADDRESSED),
    ("vllm", "attention_backend", "FLASH_ATTN", ADDRESSED),
    ("vllm", "tensor_parallel_size", 2, PLACED),
    ("vllm", "gpu_memory_utilization", 0.8, PLACED),
    ("vllm", "max_num_seqs", 8, PLACED),
    ("vllm", "cpu_offload_gb", 4, PLACED),
    ("vllm", "enable_sleep_mode", True, PLACED),
    ("vllm", "disable_log_stats", True, PLACED),
    ("vllm", "max_model_len", 4096, PLACED),  # samples of cut prompts have their own address
    ("transformers", "batch_size", 4, PLACED),
    ("transformers", "max_model_len", 4096, PLACED),
    ("transformers", "trust_remote_code", True, ADDRESSED),
    ("transformers", "attn_implementation", "eager", ADDRESSED),
    ("transformers", "device_map", "auto", PLACED),
    ("transformers", "dtype", "float16", ADDRESSED),
    ("transformers", "max_memory", {0: "10GiB"}, PLACED),
    ("transformers", "subfolder", "f", ADDRESSED),
    ("transformers", "use_safetensors", True, ADDRESSED),
    ("transformers", "variant", "fp16", ADDRESSED),
    ("endpoint", "base_url", "http://other/v1", PLACED),
    ("endpoint", "api_key_env", "KEY_OF_A", PLACED),
    ("endpoint", "use_proxy", False, PLACED),
    ("endpoint", "max_concurrent", 2, PLACED),
    ("endpoint", "requests_per_minute", 60.0, PLACED),
    ("endpoint", "samples_per_request", 4, ADDRESSED),
    ("endpoint", "timeout_seconds", 5.0, PLACED),
    ("endpoint", "retry_seconds", 5.0, PLACED),
    ("endpoint", "max_model_len", 4096, ADDRESSED),  # the server is believed
    ("endpoint", "extra", {"top_k": 20}, ADDRESSED),
    ("scripted", "seconds_per_sample", 0.1, ADDRESSED),
    ("scripted", "fail", "OOM", ADDRESSED),
    ("scripted", "max_model_len", 9, PLACED),
    ("scripted", "thinking", {}, ADDRESSED),
]


def _address(engine: str, options: dict[str, object]) -> str:
    model = ModelConfig(
        "m", "m", engine=engine, options=options, rules=2 if engine == "endpoint" else 3
    )  # as `agenttts.run.models.find_facts` sets them
    return sample_key(model, "Which tree?", SamplingParams(1.0, 8), 0)


@pytest.mark.parametrize(("engine", "name", "value", "what"), TABLE)
def test_an_option_changes_samples_and_their_address_or_neither(engine, name, value, what):
    given = {"base_url": "http://a/v1"} if engine == "endpoint" else {}
    options = {**given, name: value}
    check_options(engine, options)
    if what == REFUSED:
        with pytest.raises(UserError) as error:
            check_effective(engine, options)
        assert "hf_secret" not in str(error.value)
        return
    check_effective(engine, options)
    assert (_address(engine, given) != _address(engine, options)) == (what == ADDRESSED)


@pytest.mark.parametrize("engine", ["transformers", "endpoint", "scripted"])
def test_the_table_has_every_option(engine):
    assert {name for of, name, *_ in TABLE if of == engine} == set(option_names(engine))


@pytest.mark.parametrize(
    ("given", "place", "said"),
    [
        ({"temperature": 0.6}, "override_generation_config.temperature", "temperature of the stage"),
        ({"max_new_tokens": 8}, "override_generation_config.max_new_tokens", "decode_tokens"),
        ({"eos_token_id": 2}, "override_generation_config.eos_token_id", "generation_config"),
        ({"top_q": 2}, "override_generation_config", "top_p"),
        ({"top_k": 1.5}, "override_generation_config.top_k", "whole number"),
        ({"top_k": -2}, "override_generation_config.top_k", "whole number"),
        ({"top_p": 0}, "override_generation_config.top_p", "above 0, up to 1"),
        ({"min_p": 2}, "override_generation_config.min_p", "from 0 to 1"),
        ({"repetition_penalty": 0}, "override_generation_config.repetition_penalty", "above 0"),
        ({"presence_penalty": 3}, "override_generation_config.presence_penalty", "-2 to 2"),
        ("top_k=20", "override_generation_config", "mapping"),
    ],
)  # fmt: skip
def test_a_wrong_sampling_parameter_is_refused(given, place, said):
    with pytest.raises(UserError, match=said) as error:
        check_effective("vllm", {_OVERRIDE: given})
    assert str(error.value).startswith(place)


def test_vllm_takes_no_min_p_with_a_draft_model():
    drafted = {"speculative_config": {"model": "/models/d"}}
    check_effective("vllm", {**drafted, _OVERRIDE: {"min_p": 0, "top_k": 20}})
    with pytest.raises(UserError, match="draft"):
        check_effective("vllm", {**drafted, _OVERRIDE: {"min_p": 0.1}})


def test_the_sampling_parameters_of_the_options_are_applied(monkeypatch):
    options = from_command_line({_OVERRIDE: '{"top_k": 20, "min_p": 0, "top_p": null}'})
    found = _drawn_with(monkeypatch, sampling_of("vllm", options))
    assert (found.top_k, found.min_p, found.top_p) == (20, 0.0, 1.0)
    # What the run decides is the run's, also in a record that somebody has edited.
    assert _drawn_with(monkeypatch, {"temperature": 0.1, "top_p": 0.5}).temperature == 1.0
    assert _drawn_with(monkeypatch, {"top_p": 0.5}).top_p == 0.5


def test_a_run_of_an_earlier_version_draws_and_finds_its_samples_as_before(monkeypatch):
    options = {_OVERRIDE: {"top_k": 20}}
    record = asdict(ModelConfig("m", "m", options=options))
    del record["sampling"]
    earlier = ModelConfig.from_record(record)
    new = ModelConfig("m", "m", options=options, sampling=sampling_of("vllm", options))
    prompt = ("Which tree?", SamplingParams(1.0, 8), 0)
    assert sample_key(earlier, *prompt) == "65262c8717e6b6c205ca7a7b4c003879"
    assert sample_key(new, *prompt) != sample_key(earlier, *prompt)
    assert not hasattr(_drawn_with(monkeypatch, earlier.sampling), "top_k")


def test_one_number_has_one_address():
    found = [sampling_of("vllm", {_OVERRIDE: {"min_p": p, "top_k": 20}}) for p in (1, 1.0)]
    assert repr(found[0]) == repr(found[1])
    assert sampling_of("transformers", {_OVERRIDE: {"top_k": 20}}) == {}
    assert sampling_of("vllm", {_OVERRIDE: "text"}) == {}


def _drawn_with(monkeypatch: pytest.MonkeyPatch, sampling: dict[str, object]) -> SimpleNamespace:
    """Return the parameters of a sample that an object in place of vLLM is asked for."""
    asked: list[SimpleNamespace] = []

    class LLM:
        def __init__(self, **options: object) -> None:
            self.llm_engine = SimpleNamespace(
                model_config=SimpleNamespace(max_model_len=64), add_request=None, step=None
            )

        def get_tokenizer(self) -> object:
            return SimpleNamespace(encode=lambda text: [1, 2])

        def generate(self, inputs: object, params: list[SimpleNamespace], use_tqdm: bool) -> object:
            asked.extend(params)
            sample = SimpleNamespace(text="oak", token_ids=[1], finish_reason="stop")
            return [SimpleNamespace(outputs=[sample]) for _ in params]

    names = {"LLM": LLM, "SamplingParams": SimpleNamespace, "TokensPrompt": dict}
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(**names))
    monkeypatch.setattr("agenttts.inference.vllm.is_cpu_build", lambda: False)
    engine = VLLMEngine(ModelConfig("m", "m", sampling=sampling))
    engine.generate([Request("Which tree?", SamplingParams(1.0, 8), (7,))])
    return asked[0]
