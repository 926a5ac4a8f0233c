"""How many GPUs a model takes, from facts: its own config.json and weights against the profile's GPU memory."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttts.errors import Unavailable

_GB = 1e9
# What vLLM takes of a GPU (gpu_memory_utilization) when the model's options do not say, and what it needs
# besides weights and KV cache: activations, CUDA graphs, the runtime itself.
_UTILISATION = 0.9
_OVERHEAD_BYTES = 3e9
_BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "float8": 8}


@dataclass(frozen=True)
class GpuNeed:
    """GPUs of one engine, and the reasoning in words."""

    gpus: int
    reasoning: str


def gpu_need(
    name: str,
    path: str,
    params: float,
    *,
    gpus: int | None,
    engine: str,
    options: dict[str, Any],
    gpu_memory_gb: float | None,
    gpus_per_node: int,
) -> GpuNeed:
    """GPUs for a model: what the spec says, else the fewest whose memory holds weights and one context of KV cache.

    The count divides the model's attention heads, as tensor parallelism requires (is a power of two where they are not
    known). Raises `Unavailable` when it does not
    fit one node.
    """
    if engine == "scripted":
        return GpuNeed(
            gpus or 0, "scripted: needs none" if not gpus else f"{gpus} as the spec says"
        )
    if gpus is not None:
        if gpus > gpus_per_node > 0:
            raise Unavailable(
                f"models.{name}.gpus: {gpus} GPUs are more than the profile's gpus_per_node ({gpus_per_node})",
                fix="ask for fewer, or choose a profile with larger nodes",
            )
        return GpuNeed(gpus, f"{gpus} as the spec says")
    if gpus_per_node == 0:
        return GpuNeed(0, "the profile has no GPUs: CPU")
    if gpu_memory_gb is None:
        return GpuNeed(1, "1: neither models.*.gpus nor the profile's gpu_memory_gb is given")
    config = _read_config(path)
    weights = _weight_bytes(Path(path), params, config, options)
    cache = _cache_bytes(config, options)
    heads = int(config.get("num_attention_heads", 0))
    share = float(options.get("gpu_memory_utilization", _UTILISATION)) * gpu_memory_gb * _GB
    for count in range(1, gpus_per_node + 1):
        # Where the heads are not known: those of most models divide by powers of two alone.
        if heads % count if heads else count & (count - 1):
            continue
        if weights / count + cache / count + _OVERHEAD_BYTES <= share:
            return GpuNeed(
                count,
                f"{count}: weights {weights / _GB:.1f} GB + KV cache of one context {cache / _GB:.1f} GB"
                f" over {count} x {share / _GB:.0f} GB usable"
                + (f", {heads} heads divide by {count}" if heads and count > 1 else ""),
            )
    needed = math.ceil((weights + cache) / max(share - _OVERHEAD_BYTES, 1))
    raise Unavailable(
        f"models.{name}: {weights / _GB:.0f} GB of weights do not fit the {gpus_per_node} GPUs of "
        f"{gpu_memory_gb:g} GB of one node (about {needed} would do)",
        fix="use a quantised model or a profile with larger nodes",
    )


def _read_config(path: str) -> dict[str, Any]:
    try:
        config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # a hub id, or a model without one: the nominal parameter count has to do
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else dict(config)


def _weight_bytes(
    path: Path, params: float, config: dict[str, Any], options: dict[str, Any]
) -> float:
    files = [f for pattern in ("*.safetensors", "*.bin") for f in path.glob(pattern)]
    if files:
        return float(sum(f.stat().st_size for f in files))
    quantisation = config.get("quantization_config") or {}
    bits = quantisation.get("bits") or quantisation.get("w_bit")
    if bits is None:
        dtype = str(options.get("dtype") or config.get("torch_dtype") or config.get("dtype"))
        bits = _BITS.get(dtype, 4 if options.get("quantization") in ("awq", "gptq") else 16)
    return params * float(bits) / 8


def _cache_bytes(config: dict[str, Any], options: dict[str, Any]) -> float:
    layers = config.get("num_hidden_layers")
    heads = config.get("num_attention_heads")
    hidden = config.get("hidden_size")
    if not (layers and heads and hidden):
        return 2e9
    head_size = config.get("head_dim") or hidden // heads
    kv_heads = config.get("num_key_value_heads") or heads
    context = options.get("max_model_len") or config.get("max_position_embeddings") or 8192
    return 2.0 * 2 * int(layers) * int(kv_heads) * int(head_size) * int(context)
