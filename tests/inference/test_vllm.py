"""vLLM's defaults on a CPU, and how it has models examined, with a registry in its place."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from agenttts.inference.base import ModelConfig
from agenttts.inference.vllm import cpu_profile, load_model_classes


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
