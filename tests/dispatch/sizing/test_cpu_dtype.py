"""The data type that launch chooses for models on a CPU."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agenttts.dispatch.profile import Profile
from agenttts.dispatch.sizing import cpu_dtype
from agenttts.inference.base import SamplingParams, sample_key
from agenttts.launch.create import run_record
from agenttts.launch.plan import make_plan, plan_of_run
from agenttts.run.models import frozen_facts, model_configs
from agenttts.spec import load_spec

AVX2 = "processor\t: 0\nflags\t\t: fpu sse4_2 avx avx2 fma\npower management:\n"
AVX512 = "flags\t\t: fpu avx2 avx512f avx512_bf16\n"
LLAMA = {"model_type": "llama"}
AMX = "flags\t\t: fpu avx512f amx_tile amx_bf16\n"


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    """Return a function that makes this machine's CPU another one."""

    def pretend(content: str | None, machine: str = "x86_64") -> None:
        file = tmp_path / "cpuinfo"
        if content is not None:
            file.write_text(content, encoding="utf-8")
        monkeypatch.setattr(cpu_dtype, "_CPUINFO", file)
        monkeypatch.setattr(cpu_dtype.platform, "machine", lambda: machine)

    return pretend


@pytest.mark.parametrize(
    ("content", "machine", "lacks"),
    [
        (AVX2, "x86_64", True),
        (AVX512, "x86_64", False),
        (AMX, "x86_64", False),
        ("Features\t: fp asimd sve bf16\n", "aarch64", False),
        ("Features\t: fp asimd\n", "aarch64", True),
        ("cpu\t\t: POWER10\n", "ppc64le", False),
        ("model name\t: without flags\n", "x86_64", False),
        ("flags\t\t:\n", "x86_64", True),
        (None, "x86_64", False),
    ],
)
def test_a_cpu_lacks_bfloat16_only_if_its_flags_say_so(cpu, content, machine, lacks):
    cpu(content, machine)
    assert cpu_dtype.lacks_bfloat16() is lacks


@pytest.mark.parametrize(
    ("engine", "options", "gpus", "config", "expected"),
    [
        ("vllm", {}, 0, LLAMA, "float32"),
        ("transformers", {}, 0, LLAMA, "float32"),
        ("vllm", {"dtype": None}, 0, LLAMA, "float32"),
        ("vllm", {"dtype": "bfloat16"}, 0, LLAMA, None),
        ("vllm", {}, 4, LLAMA, None),
        ("scripted", {}, 0, LLAMA, None),
        ("endpoint", {}, 0, LLAMA, None),
        ("vllm", {}, 0, {}, None),
        ("vllm", {"quantization": "awq"}, 0, LLAMA, None),
        ("vllm", {"load_format": "bitsandbytes"}, 0, LLAMA, None),
        ("vllm", {"hf_config_path": "org/model"}, 0, LLAMA, None),
        ("vllm", {"hf_overrides": {"quantization_config": {"quant_method": "fp8"}}}, 0, LLAMA, None),
        ("vllm", {}, 0, {"quantization_config": {"quant_method": "gptq"}}, None),
        ("vllm", {}, 0, {"compression_config": {"quant_method": "compressed-tensors"}}, None),
        ("vllm", {}, 0, {"text_config": {"quantization_config": {"quant_method": "awq"}}}, None),
    ],
)  # fmt: skip
def test_only_models_that_compute_bfloat16_on_the_cpu_get_another_type(cpu, tmp_path, engine, options, gpus, config, expected):  # fmt: skip
    cpu(AVX2)
    (tmp_path / "config.json").write_text(json.dumps(config))

    def chosen(own: int | None = None) -> str | None:
        return cpu_dtype.cpu_dtype(str(tmp_path), engine, options, gpus=own, gpus_per_node=gpus)

    assert (chosen(), chosen(0), chosen(1)) == (expected, expected, None)
    cpu(AVX512)
    assert chosen() is None


@pytest.mark.parametrize(
    "path",
    [
        "Qwen/Qwen2.5-7B-Instruct-AWQ",
        "org/m-GGUF:Q4_K_M",
        "org/model",
        "/models/m.gguf",
        "/nowhere",
    ],
)
def test_a_model_that_may_be_quantised_keeps_the_type_of_the_engine(cpu, tmp_path, monkeypatch, path):  # fmt: skip
    cpu(AVX2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    (tmp_path / "org" / "model" / "config.json").write_text(json.dumps(LLAMA))
    assert cpu_dtype.cpu_dtype(path, "vllm", {}, gpus=None, gpus_per_node=0) is None


@pytest.fixture
def planned(cpu, scripted_spec, tmp_path):
    """Return a function that plans a run with one real model, on one kind of CPU."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"torch_dtype": "bfloat16", "num_hidden_layers": 2}')

    def plan(content: str, **options: object):
        cpu(content)
        section = {"path": str(model), "params": 1e9, "engine": "vllm", "options": options}
        spec = load_spec(scripted_spec(models__strong=section))
        return make_plan(spec, [], tmp_path / "results", dry_run=True)

    return plan


def key(plan) -> str:
    return sample_key(plan.models["strong"], "a prompt", SamplingParams(1.0, 16), 7)


def test_the_run_keeps_the_type_and_everything_follows_it(planned):
    """Engines, addresses of samples, sizes and what the user is told."""
    slow, fast = planned(AVX2), planned(AVX512)
    assert slow.models["strong"].options == {"dtype": "float32"}
    assert fast.models["strong"].options == {}
    assert run_record(slow).models["strong"].options == {"dtype": "float32"}
    assert key(slow) != key(fast)
    assert "in float32, because this CPU" in slow.needs["strong"].reasoning
    assert "float32" not in fast.needs["strong"].reasoning
    assert slow.sizes["strong"].weight_bytes == 2 * fast.sizes["strong"].weight_bytes
    assert slow.models["weak"].options == fast.models["weak"].options, "it is scripted"


def test_the_type_that_the_spec_names_is_taken(planned):
    plan = planned(AVX2, dtype="bfloat16")
    assert plan.models["strong"].options == {"dtype": "bfloat16"}
    assert "float32" not in plan.needs["strong"].reasoning
    named, chosen = planned(AVX512, dtype="float32"), planned(AVX2)
    assert key(named) == key(chosen), "samples of one type have one address"


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (AVX2, {}),
        (AVX2, {"dtype": "float32"}),
        (AVX2, {"dtype": "half"}),
        (AVX2, {"dtype": None}),
        (AVX512, {"dtype": None}),
    ],
)
def test_a_run_that_goes_on_elsewhere_keeps_its_type(planned, cpu, content, options):
    plan = planned(content, **options)
    spec, before = plan.experiment.spec, dict(plan.models)
    cpu(AVX512)
    again = model_configs(spec, {n: m.gpus for n, m in before.items()}, frozen_facts(spec, before))
    assert again == before
    old = {
        name: replace(model, options=spec.models[name].options) for name, model in before.items()
    }
    assert frozen_facts(spec, old)["strong"].dtype is None, "runs from before keep theirs"


def test_a_served_model_has_the_type_of_the_models_of_the_search(cpu, scripted_spec, tmp_path):
    """Workers answer in its place only if the samples have the same addresses."""
    cpu(AVX2)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(LLAMA))
    model = {"path": str(tmp_path / "model"), "params": 1e9, "engine": "vllm"}
    agent = {"kind": "serve", "model": "strong"}
    spec = load_spec(scripted_spec(models__strong=model, agent=agent))
    record = run_record(make_plan(spec, [], tmp_path / "results", dry_run=True))
    assert record.agent is not None
    assert record.agent.dtype == record.models["strong"].options["dtype"] == "float32"


def test_a_run_that_gets_gpus_needs_them_for_the_type_of_its_launch(cpu, unstarted_run, tmp_path):
    """The served model, too: 64 GB of weights take 128 GB in float32."""
    cpu(AVX2)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"torch_dtype": "bfloat16", "num_hidden_layers": 2}')
    (model / "tokenizer.json").write_text("{}")
    with (model / "model.safetensors").open("wb") as weights:
        weights.truncate(64 * 10**9)  # a hole, which takes no space
    strong = {"path": str(model), "params": 32e9, "engine": "vllm"}
    run = unstarted_run(models__strong=strong, agent={"kind": "serve", "model": "strong"}).read()
    cpu(AVX512)
    gpus = Profile(kind="local", gpus_per_node=2, gpu_memory_gb=80)
    plan = plan_of_run(run, "gpus", gpus, dry_run=True)
    assert (plan.agent_gpus, plan.needs["strong"].gpus) == (2, 2)
    assert plan.needs["strong"].reasoning.endswith(", in float32, as at launch")
    old = run.record.model_copy(update={"agent": run.record.agent.model_copy(update={"dtype": None})})  # fmt: skip
    assert plan_of_run(replace(run, record=old), "gpus", gpus, dry_run=True).agent_gpus == 1
