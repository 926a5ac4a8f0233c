"""vLLM's defaults on a CPU, how it has models examined, and samples that it breaks off.

An object of the test stands for vLLM.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from agenttts.inference.base import EngineError, Finished, ModelConfig, Request, SamplingParams
from agenttts.inference.vllm import VLLMEngine, cpu_profile, load_model_classes


class Registry:
    """What `vllm.ModelRegistry` is asked for; it knows one class of models."""

    def __init__(self) -> None:
        self.models = {"KnownForCausalLM": SimpleNamespace(load_model_cls=lambda: "the class")}
        self.registered: list[tuple[str, object]] = []

    def register_model(self, name: str, model: object) -> None:
        self.registered.append((name, model))


@pytest.mark.parametrize(
    ("config", "registered"),
    [
        ({"architectures": ["KnownForCausalLM"]}, [("KnownForCausalLM", "the class")]),
        (
            {"architectures": ["OwnForCausalLM", 3, "KnownForCausalLM"]},
            [("KnownForCausalLM", "the class")],
        ),
        ({"architectures": ["OwnForCausalLM"]}, []),
        ({"architectures": "KnownForCausalLM"}, []),
        ({}, []),
        (None, []),
    ],
)
def test_the_classes_of_a_model_that_vllm_knows_are_loaded(
    config, registered, tmp_path, monkeypatch
):
    registry = Registry()
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(ModelRegistry=registry))
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    load_model_classes(ModelConfig("m", str(tmp_path)))
    assert registry.registered == registered


@pytest.mark.parametrize(
    ("options", "width"),
    [({}, 2), ({"dtype": None}, 2), ({"dtype": "half"}, 2), ({"dtype": "float32"}, 4), ({"dtype": "float"}, 4)],
)  # fmt: skip
def test_one_context_of_a_common_model_has_room_in_the_cache_of_a_cpu(options, width, tmp_path):
    """vLLM does not start without."""
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 40960}')
    given = cpu_profile(ModelConfig("m", str(tmp_path), options=options)).options
    assert given["max_model_len"] == 4096
    of_qwen3 = 2 * 28 * 8 * 128 * width  # keys and values, layers, heads, their size
    assert of_qwen3 * 4096 <= given["kv_cache_memory_bytes"] == width << 28


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ('{"max_position_embeddings": 2048}', 2048),
        ('{"text_config": {"max_position_embeddings": 131072}}', 4096),
        ('{"text_config": {"max_position_embeddings": 2048}}', 2048),
        ('{"thinker_config": {"text_config": {"max_position_embeddings": 2048}}}', 2048),
        ('{"max_position_embeddings": 4096, "text_config": {"max_position_embeddings": 2048}}', 2048),
        ('{"max_position_embeddings": 2048, "text_config": {"max_position_embeddings": null}}', 2048),
        ('{"n_positions": 1024}', 1024),
        ('{"max_position_embeddings": "2048"}', None),
        ('{"text_config": 3}', None),
        ("[", None),
    ],
)  # fmt: skip
def test_the_context_on_a_cpu_is_at_most_the_model_s(config, context, tmp_path):
    (tmp_path / "config.json").write_text(config)
    assert cpu_profile(ModelConfig("m", str(tmp_path))).options["max_model_len"] == context


class BreakingLLM:
    """`vllm.LLM` whose samples end with ``reasons``; a step returns them, or none does."""

    reasons: tuple[str, ...] = ()
    in_steps = True

    def __init__(self, **options: object) -> None:
        self.outputs = [
            SimpleNamespace(
                request_id=str(number),
                finished=True,
                outputs=[SimpleNamespace(text="no", token_ids=[1], finish_reason=reason)],
            )
            for number, reason in enumerate(self.reasons)
        ]
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=64),
            add_request=lambda request_id: None,
            step=lambda: self.outputs if self.in_steps else [],
        )

    def get_tokenizer(self) -> object:
        return SimpleNamespace(encode=lambda text: [1, 2])

    def generate(self, inputs: list[object], params: object, use_tqdm: bool) -> list[object]:
        for number, _ in enumerate(inputs):
            self.llm_engine.add_request(str(number))
        self.llm_engine.step()
        return self.outputs


@pytest.mark.parametrize("in_steps", [True, False])
@pytest.mark.parametrize(
    ("reasons", "broken"),
    [
        (("stop", "length", "stop"), None),
        (("stop", "error", "length"), "1 of 3 samples off (finish reason 'error')"),
        (("abort", "stop", "error"), "2 of 3 samples off (finish reason 'abort')"),
    ],
)
def test_a_sample_that_vllm_breaks_off_is_none(reasons, broken, in_steps, monkeypatch):
    """Its cause is not the allocation; the samples that ended by themselves are kept."""
    llm = type("LLM", (BreakingLLM,), {"reasons": reasons, "in_steps": in_steps})
    names = {"LLM": llm, "SamplingParams": SimpleNamespace, "TokensPrompt": dict}
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(**names))
    monkeypatch.setattr("agenttts.inference.vllm.is_cpu_build", lambda: False)
    request = Request("Which tree?", SamplingParams(1.0, 8), (7, 8, 9))
    told: list[Finished] = []
    engine = VLLMEngine(ModelConfig("m", "/models/m"))
    if broken is None:
        [completion] = engine.generate([request], told.append)
        assert [sample.finish_reason for sample in completion.samples] == list(reasons)
    else:
        with pytest.raises(EngineError) as error:
            engine.generate([request], told.append)
        assert error.value.kind == "INFRA_FAILED"
        assert broken in str(error.value)
    assert [finished.places[0] for finished in told] == [
        place for place, reason in enumerate(reasons) if reason in ("stop", "length")
    ]
