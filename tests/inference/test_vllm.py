"""How the vLLM engine has models examined, with a registry in vLLM's place."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from agenttts.inference.base import ModelConfig
from agenttts.inference.vllm import load_model_classes


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
