"""A model's size, as estimates of its speed and of its engine's start need it."""

from __future__ import annotations

from dataclasses import dataclass

from agenttts.dispatch.sizing.model_facts import ModelFacts
from agenttts.inference.engine_pool import engine_bytes


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


def model_size(facts: ModelFacts | None, params: float, gpus: int) -> ModelSize:
    """Return the size of a model.

    Args:
        facts: Its facts; None if its engine loads no weights.
        params: Its nominal number of parameters.
        gpus: GPUs of its engine.
    """
    if facts is None:
        return ModelSize(params, gpus=gpus, loads=False)
    return ModelSize(
        facts.params,
        weight_bytes=facts.weight_bytes,
        gpus=gpus,
        layers=facts.layers,
        kv_bytes_per_token=facts.cache.per_token if facts.cache else 0.0,
    )
