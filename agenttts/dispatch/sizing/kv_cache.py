"""The size of a context's KV cache, from a model's config.json.

A layer keeps every token, a window of tokens, or none. Sources: the ``config.json`` of the families
named below, and vLLM 0.33's KV cache specifications and hybrid allocator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Names of layers in ``layer_types`` and similar lists. Layers without attention keep a state of
# fixed size.
_FULL = ("full_attention", "attention", "global_attention", "global", "hybrid")
_SLIDING = ("sliding_attention", "local_attention", "sliding", "local")
_NO_CACHE = ("linear_attention", "mamba", "mamba2", "conv", "recurrent", "moe", "mlp")
_LAYER_LISTS = (
    *("layer_types", "layers_block_type", "block_types", "_block_types"),
    "attention_layers",  # GPT-Neo, whose local layers keep every token too
)
# One layer in this many attends to all tokens. The configs of these families do not say it.
_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6}
_ALL_SLIDING = ("mistral", "mixtral", "starcoder2", "phi3")
# Other names of these keys, by the `attribute_map` of transformers 5.19's configurations (GPT-2,
# BLOOM, GPT-J, StarCoder, MPT, DBRX, XGLM, XLM), and ChatGLM's. GPT-Neo's num_heads counts for it
# alone: those of Mamba 2 and xLSTM are no heads of attention.
_NAMES = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "attention_heads"),
    "hidden_size": ("n_embd", "d_model", "emb_dim"),
}
_HEAD_SIZES = ("head_dim", "attention_head_dim", "kv_channels", "hidden_size_per_head")
_MULTI_QUERY = ("falcon", "gpt_bigcode")
"""Families that have one head of keys and values unless their config says otherwise."""
_GEMMA4_HEAD = 512
"""The size of a head of Gemma 4's layers that keep every token, unless its config says another."""
# vLLM 0.33's names for the heads of keys and values (Llama, Falcon, ChatGLM, Step 3.5).
_KV_HEADS = (
    *("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "num_attention_groups",
)
# A config with such a key keeps less than all tokens in some layers. It counts as not understood if
# it has none of the forms that are read here.
_HINTS = re.compile(
    r"sliding|window|mamba|ssm|linear_(?:attn|attention|conv)|block_(?:types|configs|type)"
    r"|layer_types|attn_(?:layer|type)|hybrid|recurrent|attention_chunk|num_kv_shared"
    r"|full_attention"
)


@dataclass(frozen=True)
class CacheSize:
    """Bytes that a token of a context takes in all layers.

    ``per_token`` counts for every token. ``in_window`` is added for the last ``window`` tokens.
    ``bound`` says that this is an upper bound: the config keeps less in a way that is not known
    here.
    """

    per_token: float
    in_window: float = 0.0
    window: int = 0
    bound: bool = False

    def of_context(self, tokens: int) -> float:
        """Return the bytes of a context of ``tokens`` tokens."""
        return self.per_token * tokens + self.in_window * min(tokens, self.window)


def with_common_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the common names of its layers, heads and width."""
    named = dict(config)
    names: dict[str, tuple[str, ...]] = dict(_NAMES)
    if config.get("model_type") == "gpt_neo":
        names["num_attention_heads"] = ("num_heads",)
    for name, others in names.items():
        if not integer(named, name):
            named |= next(({name: config[o]} for o in others if integer(config, o)), {})
    kinds = named.get("layers_block_type")
    if isinstance(kinds, list) and not integer(named, "num_hidden_layers"):  # Nemotron-H
        named["num_hidden_layers"] = len(kinds)
    return named


def cache_size(config: Mapping[str, Any], options: Mapping[str, Any]) -> CacheSize | None:
    """Return the KV cache of a model; None if its config does not tell.

    Args:
        config: The model's config, with common names.
        options: The engine's options.
    """
    layers = integer(config, "num_hidden_layers")
    heads = integer(config, "num_attention_heads")
    hidden = integer(config, "hidden_size")
    if not (layers and heads and hidden):
        return None
    size = _element_bytes(options)
    latent = integer(config, "kv_lora_rank")
    if latent:
        if config.get("model_type") == "longcat_flash":  # a layer attends twice
            layers *= 2
        return CacheSize(size * layers * (latent + integer(config, "qk_rope_head_dim")))
    head_sizes = (length for name in _HEAD_SIZES if (length := integer(config, name)))
    head_size = next(head_sizes, hidden // heads)
    a_head = size * 2 * head_size
    blocks = config.get("block_configs")
    if isinstance(blocks, list) and blocks:
        return CacheSize(a_head * sum(_heads_of_block(block, heads) for block in blocks))
    full, sliding, window, bound = _layers(config, layers)
    if options.get("disable_hybrid_kv_cache_manager") is True:
        full, sliding = full + sliding, 0
    a_layer = a_head * kv_heads(config)
    a_full_layer = a_layer
    if str(config.get("model_type")).startswith("gemma4"):
        a_full_layer = size * 2 * _gemma4_width(config)
    return CacheSize(a_full_layer * full, a_layer * sliding, window, bound)


def kv_heads(config: Mapping[str, Any]) -> int:
    """Return the number of heads of keys and values; 0 if it is not known.

    If the layers differ, it is the fewest.
    """
    heads = integer(config, "num_attention_heads")
    blocks = config.get("block_configs")
    if isinstance(blocks, list) and heads:
        found = [count for block in blocks if (count := _heads_of_block(block, heads))]
        if found:
            return min(found)
    # Falcon's first architecture, whose config may have num_kv_heads too: it is not used then.
    one = config.get("multi_query", config.get("model_type") in _MULTI_QUERY)
    if one is True and config.get("new_decoder_architecture") is not True:
        return 1
    found = [count for name in _KV_HEADS if (count := integer(config, name))]
    attention = config.get("attn_config")  # DBRX, MPT
    nested = integer(attention, "kv_n_heads") if isinstance(attention, Mapping) else 0
    return found[0] if found else nested or heads


def _gemma4_width(config: Mapping[str, Any]) -> int:
    """Return the numbers of a key in one of Gemma 4's layers that keep every token.

    Configs that transformers 5.19 or later wrote list these layers, others have global values.
    """
    layers = config.get("per_layer_config")
    parts = layers.values() if isinstance(layers, Mapping) else ()
    layer: Mapping[str, Any] = next((part for part in parts if isinstance(part, Mapping)), {})
    head = integer(layer, "head_dim") or integer(config, "global_head_dim") or _GEMMA4_HEAD
    heads = integer(layer, "num_key_value_heads")
    if not heads and config.get("attention_k_eq_v", True):
        heads = integer(config, "num_global_key_value_heads")
    return head * (heads or kv_heads(config))


def integer(values: Mapping[str, Any], name: str) -> int:
    """Return a value that is a whole number above zero, else 0.

    Files of models hold nulls and texts in its place.
    """
    value = values.get(name)
    return (
        int(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15
        else 0
    )


def _element_bytes(options: Mapping[str, Any]) -> float:
    kind = str(options.get("kv_cache_dtype") or "auto")
    if kind.startswith("fp8"):
        return 1.0
    # "auto" is the model's own type, which has 32 bits only if these are asked for.
    return 4.0 if kind == "auto" and options.get("dtype") in ("float32", "float") else 2.0


def _heads_of_block(block: Any, heads: int) -> int:
    """Return the heads of keys and values of a layer.

    ``block`` is a layer's entry in the config of Nemotron's searched architectures.
    """
    attention = block.get("attention") if isinstance(block, Mapping) else None
    if not isinstance(attention, Mapping):
        return heads
    if attention.get("no_op") is True or attention.get("replace_with_linear") is True:
        return 0
    group = integer(attention, "n_heads_in_group")
    return max(1, heads // group) if group else heads


def _layers(config: Mapping[str, Any], layers: int) -> tuple[int, int, int, bool]:
    """Return how many layers keep every token, and how many keep a window.

    The result is the number of layers that keep every token, the number that keep a window, the
    window's tokens, and whether the first number is an upper bound.
    """
    window = integer(config, "sliding_window")
    pattern = config.get("hybrid_override_pattern")  # Nemotron-H, Nemotron Nano 2: "M-M*-..."
    if isinstance(pattern, str) and pattern:
        return pattern.count("*"), 0, 0, False
    for name in _LAYER_LISTS:
        kinds = config.get(name)
        if isinstance(kinds, list) and len(kinds) == layers:
            return _by_kind(kinds, window)
    kinds = config.get("attn_type_list")  # MiniMax-Text-01: 1 for full attention, 0 for linear
    if isinstance(kinds, list) and len(kinds) == layers:
        return sum(kind == 1 for kind in kinds), 0, 0, False
    interval = integer(config, "full_attention_interval")  # Qwen3-Next, Qwen3.5
    if interval:
        return layers // interval, 0, 0, False
    period = integer(config, "attn_layer_period")  # Jamba
    if period:
        offset = integer(config, "attn_layer_offset")
        return sum(layer % period == offset for layer in range(layers)), 0, 0, False
    if window:
        full = _full_beside_windows(config, layers)
        if full is not None:
            return full, layers - full, window, False
    unread = any(value and _HINTS.search(str(name)) for name, value in config.items())
    if config.get("use_sliding_window") is False:
        unread = any(
            value and _HINTS.search(str(name)) and "window" not in str(name)
            for name, value in config.items()
        )
    return layers, 0, 0, unread


def _by_kind(kinds: Sequence[Any], window: int) -> tuple[int, int, int, bool]:
    sliding = sum(kind in _SLIDING for kind in kinds) if window else 0
    none = sum(kind in _NO_CACHE for kind in kinds)
    known = none + sum(kind in (*_FULL, *_SLIDING) for kind in kinds)
    # A layer of an unknown kind counts as one that keeps every token.
    return len(kinds) - none - sliding, sliding, window, known < len(kinds)


def _full_beside_windows(config: Mapping[str, Any], layers: int) -> int | None:
    """Return how many layers of a model with a sliding window keep every token.

    None if its config does not tell.
    """
    if config.get("use_sliding_window") is False:  # Qwen2
        return None
    pattern = config.get("sliding_window_pattern", config.get("_sliding_window_pattern"))
    if isinstance(pattern, str) and pattern:  # EXAONE 4: "LLLG"
        return sum(pattern[layer % len(pattern)] == "G" for layer in range(layers))
    kind = str(config.get("model_type"))
    every = integer({"pattern": pattern}, "pattern") or _PATTERNS.get(kind, 0)
    if every:  # Gemma 2 and 3, Cohere 2
        return layers // every
    return 0 if kind in _ALL_SLIDING else None
