"""A model's size, as estimates of its speed and of its engine's start need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agenttts.dispatch.sizing.kv_cache import integer
from agenttts.dispatch.sizing.model_facts import model_facts, read_config
from agenttts.inference.base import ModelConfig
from agenttts.inference.engine_pool import engine_bytes

_BYTES_A_PARAMETER = 2.0
"""Bytes of a parameter as engines load it by default (16 bits)."""


@dataclass(frozen=True)
class ModelSize:
    """A model's size.

    Args:
        params: Its parameters.
        weight_bytes: Bytes of its weights; 0: two for each parameter.
        gpus: GPUs of its engine.
        layers: Its layers; 0: unknown.
        kv_bytes_per_token: Bytes of KV cache for one token; 0: unknown.
        loads: Whether its engine loads weights. A scripted model and a server's model do not.
    """

    params: float
    weight_bytes: float = 0.0
    gpus: int = 1
    layers: int = 0
    kv_bytes_per_token: float = 0.0
    loads: bool = True

    @property
    def bytes(self) -> float:
        """Bytes of the weights."""
        return self.weight_bytes or 2.0 * self.params

    @property
    def kept_bytes(self) -> float:
        """Bytes of the node's memory that the engine takes while another engine works."""
        if not self.loads:
            return 0.0
        return self.bytes if self.gpus else engine_bytes(self.bytes)

    @property
    def depth(self) -> float:
        """Layers; if unknown, estimated: 32 for 7e9 parameters, 80 for 70e9."""
        return self.layers or 80.0 * (self.params / 70e9) ** 0.4

    @property
    def cache_bytes(self) -> float:
        """Bytes of KV cache for one token; if unknown, of 8 heads of 128 in 16 bits."""
        return self.kv_bytes_per_token or self.depth * 8 * 128 * 2 * 2


def model_sizes(
    models: Mapping[str, ModelConfig], params: Mapping[str, float]
) -> dict[str, ModelSize]:
    """Return the sizes of models, by name.

    Args:
        models: The models.
        params: Their nominal numbers of parameters. Sizes are worked out from them where the files
            are not here.
    """
    return {name: _model_size(model, params[name]) for name, model in models.items()}


def _model_size(model: ModelConfig, params: float) -> ModelSize:
    if model.engine not in ("vllm", "transformers"):
        return ModelSize(params, gpus=model.gpus, loads=False)
    facts = model_facts(model.path, params, model.options, model.engine)
    config = read_config(model.path, model.options.get("hf_overrides"))
    if facts.from_files and not config.get("quantization_config"):
        params = facts.weight_bytes / _BYTES_A_PARAMETER  # the nominal number may be any
    return ModelSize(
        params,
        weight_bytes=facts.weight_bytes,
        gpus=model.gpus,
        layers=integer(config, "num_hidden_layers"),
        kv_bytes_per_token=facts.cache.per_token if facts.cache else 0.0,
    )
