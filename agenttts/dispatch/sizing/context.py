"""The longest context of a model.

An engine must have room for it if its options give no ``max_model_len``. Source: vLLM's
``_get_and_verify_max_len`` and ``derive_max_model_len_and_key``, 0.32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agenttts.dispatch.sizing.kv_cache import integer
from agenttts.inference.model_files import (
    LENGTH_KEYS,
    ROPE_KEYS,
    language_part,
    ropes,
    stated_context,
)

# Kinds of RoPE scaling whose factor is already in max_position_embeddings.
_SCALED_ALREADY = (
    "su",
    "longrope",
    "llama3",
    "yarn",
    "deepseek_yarn",
    "deepseek_llama_scaling",
)
# Kinds whose factor no version of vLLM applies.
_NEVER_SCALED = ("su", "longrope", "llama3")
_YARN = ("yarn", "deepseek_yarn")


def longest_context(config: Mapping[str, Any], *, asked: bool = False) -> int:
    """Return the tokens of the longest context by a model's config; 0 if not known.

    ``asked`` says that an option gives the length, so that the default for LongRoPE is not used.

    For YaRN it is ``max_position_embeddings``, which states the scaled length. Versions of vLLM
    before 0.32 took ``factor`` times the original length.
    """
    longest = stated_context(config)
    if longest is None:
        return 0
    if "gemma3" in str(config.get("model_type")):
        return longest
    scaled = float(longest)
    for kind, rope in ropes(config):
        if kind == "longrope" and not asked:
            # vLLM takes the shorter length by default, to keep the quality of short prompts.
            scaled = float(integer(config, "original_max_position_embeddings") or longest)
        elif kind not in _SCALED_ALREADY:
            scaled = max(scaled, longest * _factor(rope))
    return int(scaled)


def refused_above(config: Mapping[str, Any]) -> int:
    """Return the tokens above which vLLM of any version refuses a context.

    0 if that is not known. Versions differ in which of several lengths counts, and in YaRN. Of a
    multimodal model only the lengths of its language part count. A part that states none has the
    default of its class.
    """
    part = language_part(config)
    most = max(integer(part, key) for key in LENGTH_KEYS)
    longest = float(most)
    for kind, rope in ropes(config):
        if kind in _YARN:
            trained = integer(rope, "original_max_position_embeddings") or most
            longest = max(longest, trained * _factor(rope))
        elif kind not in _NEVER_SCALED:
            longest = max(longest, most * _factor(rope))
    return int(longest)


def overridden(config: Mapping[str, Any], overrides: object) -> dict[str, Any]:
    """Return a config with vLLM's ``hf_overrides``, which replace values.

    In the parts of a multimodal model's config, values are replaced one by one.
    """
    changed = dict(config)
    if not isinstance(overrides, Mapping):
        return changed
    for key, value in overrides.items():
        part = changed.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(part, Mapping)
            and str(key).endswith("_config")
        ):
            changed[key] = overridden(part, value)
            continue
        if key in ROPE_KEYS:
            for name in ROPE_KEYS:
                changed.pop(name, None)
        changed[key] = value
    return changed


def _factor(rope: Mapping[str, Any]) -> float:
    factor = rope.get("factor")
    if isinstance(factor, int | float) and not isinstance(factor, bool) and 0 < factor < 1e6:
        return float(factor)
    return 1.0
