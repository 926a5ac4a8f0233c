"""What a model takes of GPU memory, from its own files.

Weights are counted once, the KV cache by token (`agenttts.dispatch.sizing.kv_cache`). Bytes are
decimal throughout.

Sources: Hugging Face's layout of checkpoints (index files, ``quantization_config``), vLLM 0.33's
model loader (which of several copies of the weights it reads).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttts.dispatch.sizing.context import longest_context, overridden, refused_above
from agenttts.dispatch.sizing.kv_cache import (
    CacheSize,
    cache_size,
    integer,
    kv_heads,
    with_common_names,
)
from agenttts.files.documents import read_object
from agenttts.inference.model_files import may_be_mistral, weight_files, with_language_part

_FLOAT_BITS = {"float32": 32, "float": 32, "bfloat16": 16, "float16": 16, "half": 16, "float8": 8}
_DEFAULT_BITS = 16.0
# Bits of a weight by the method's name, if the method's config does not give them.
_METHOD_BITS = {
    "fp8": 8.0,
    "fbgemm_fp8": 8.0,
    "ptpc_fp8": 8.0,
    "finegrained_fp8": 8.0,
    "deepspeedfp": 8.0,
    "int8": 8.0,
    "experts_int8": 8.0,
    "awq": 4.0,
    "awq_marlin": 4.0,
    "gptq": 4.0,
    "gptq_marlin": 4.0,
    "bitsandbytes": 4.0,
    "mxfp4": 4.0,
    "nvfp4": 4.0,
    "modelopt_fp4": 4.0,
    "modelopt": 8.0,
    "aqlm": 2.0,
    "compressed-tensors": 8.0,
}
_DEFAULT_GROUP = 128
_GROUPED = ("awq", "gptq", "auto-round", "auto_round", "intel/auto-round")
"""Methods whose config has the size of a group of quantised weights at its top."""
_LOADING_ENGINES = ("vllm", "transformers")
"""Engines that load weights. A scripted model and a server's model have none here."""


@dataclass(frozen=True)
class ModelFacts:
    """A model's size. Zero means not known.

    Attributes:
        params: Its parameters: by its files if they are not quantised, else the nominal number.
        weight_bytes: Bytes of the weights.
        weights_from: What the bytes were worked out from, in words.
        cache: The KV cache; None if the config does not tell.
        cache_copied: Whether every GPU of an engine holds the whole cache (latent attention).
        layers: Layers.
        heads: Attention heads.
        kv_heads: Heads of keys and values.
        context: Tokens of the longest context that the engine must take.
        context_fits: Whether the engine shortens its context to what it has room for.
        longest: Tokens of the longest context by the model's config.
        refused_above: Tokens above which every version of vLLM refuses a context.
        widths: Lengths of the sides along which weights are divided among GPUs.
        vocabulary: Rows of the embeddings, which are divided too.
        group_size: Elements of a side that must stay together, because quantised ones share a
            scale.
    """

    params: float
    weight_bytes: float
    weights_from: str
    cache: CacheSize | None
    cache_copied: bool
    layers: int
    heads: int
    kv_heads: int
    context: int
    context_fits: bool
    longest: int
    refused_above: int
    widths: tuple[int, ...]
    vocabulary: int
    group_size: int


def model_facts(
    path: str, params: float, options: Mapping[str, Any], engine: str = "vllm"
) -> ModelFacts | None:
    """Return the facts of the model at ``path``; None if its engine loads no weights.

    Args:
        path: A directory, a GGUF file, or a hub id without files on this machine.
        params: Its nominal number of parameters. The size of the weights is worked out from it if
            the files are not here.
        options: The engine's options.
        engine: The engine's name.
    """
    if engine not in _LOADING_ENGINES:
        return None
    config = read_config(_config_place(path, options), options.get("hf_overrides"))
    quantisation = _quantisation(config, options)
    found, absent = _bytes_on_disk(Path(path), str(options.get("load_format", "")))
    if found is None:
        bits = _bits(config, options, quantisation, engine)
        weights, source = _worked_out(params, bits, config, quantisation), f"{params:g} parameters"
        if absent:
            source += f"; {len(absent)} of its weight files are missing: {', '.join(absent[:2])}"
            source += ", ..." if len(absent) > 2 else ""
    else:
        weights, source = (
            found,
            "its index; some of the files in it are missing" if absent else "its files",
        )
        if not path.endswith(".gguf") and not _quantisation(config, {}):
            params = found * 8 / _stored_bits(config)  # the nominal number may be any
        if _quantised_while_loading(config, options):
            weights *= _METHOD_BITS["bitsandbytes"] / _DEFAULT_BITS
        elif not quantisation and not path.endswith(".gguf"):
            weights *= _loaded_bits(config, options, engine) / _stored_bits(config)
    draft = _draft_bytes(options)
    if draft:
        weights, source = weights + draft, f"{source} and its draft model's"
    asked = integer(options, "max_model_len")
    longest = longest_context(config, asked=bool(asked))
    return ModelFacts(
        params=params,
        weight_bytes=weights,
        weights_from=source,
        cache=cache_size(config, options),
        cache_copied=bool(integer(config, "kv_lora_rank")),
        layers=integer(config, "num_hidden_layers"),
        heads=integer(config, "num_attention_heads"),
        kv_heads=kv_heads(config),
        context=asked or longest,
        longest=longest,
        refused_above=0 if may_be_mistral(Path(path), options) else refused_above(config),
        context_fits=options.get("max_model_len") in (-1, "-1", "auto"),
        widths=tuple(
            width
            for name in ("intermediate_size", "moe_intermediate_size")
            if (width := integer(config, name))
        ),
        vocabulary=integer(config, "vocab_size"),
        group_size=_group_size(quantisation),
    )


def params_by_files(directory: Path) -> float | None:
    """Return a model's parameters, worked out from the bytes of its weights.

    None if the bytes, or the bits of a quantised weight, are not known. A GGUF file does not tell.
    """
    found, _ = _bytes_on_disk(directory, "") if directory.is_dir() else (None, [])
    config = read_config(str(directory))
    quantisation = _quantisation(config, {})
    if found is None or not quantisation:
        return None if found is None else found * 8 / _stored_bits(config)
    bits = _bits(config, {}, quantisation, "vllm")
    if bits == _DEFAULT_BITS:  # of a method that is not known
        return None
    scales = _scale_bits(bits, quantisation)
    # As in `_worked_out`, solved for the parameters.
    plain = min(_plain_params(config), found * 8 / _DEFAULT_BITS)
    return plain + (found * 8 - plain * _DEFAULT_BITS) / (bits + scales)


def is_quantised(path: str, options: Mapping[str, Any]) -> bool | None:
    """Return whether a model's weights are quantised; None if its config is not here.

    Args:
        path: A directory, a GGUF file, or a hub id.
        options: The engine's options.
    """
    place = _config_place(path, options)
    # A hub id may be the name of a directory in the working directory.
    here = Path(place).is_absolute()
    config = read_config(place, options.get("hf_overrides")) if here else {}
    asked = options.get("quantization_config") or options.get("load_format") in (
        "gguf",
        "bitsandbytes",
    )
    if path.endswith(".gguf") or asked or _quantisation(config, options):
        return True
    return False if config else None


def _config_place(path: str, options: Mapping[str, Any]) -> str:
    """Return where the config of the model at ``path`` is."""
    elsewhere = options.get("hf_config_path")
    return elsewhere if isinstance(elsewhere, str) else path


def read_config(path: str, overrides: object = None) -> dict[str, Any]:
    """Return a model's config.json with an engine's ``hf_overrides``.

    It is empty if there is none. The values of a multimodal model's language part replace the
    others. Layers, heads and width have their common names.
    """
    # Empty for a hub id and for a model without a config: the nominal size is used.
    document = read_object(Path(path) / "config.json")
    if not document:
        return {}
    return with_common_names(with_language_part(overridden(document, overrides)))


def _bytes_on_disk(path: Path, load_format: str) -> tuple[float | None, list[str]]:
    """Return the bytes of the weights that an engine loads, and the absent files.

    The bytes are None if they cannot be known here.
    """
    try:
        if path.suffix == ".gguf" and path.is_file():
            return float(path.stat().st_size), []
        found = weight_files(path, load_format) if path.is_dir() else None
        if found is None:
            return None, []
        if found.absent:
            return found.said, [file.name for file in found.absent]
        return float(sum(file.stat().st_size for file in found.files)), []
    except OSError:  # a directory that is closed: the checks of a launch report it
        return None, []


def _draft_bytes(options: Mapping[str, Any]) -> float:
    """Return the bytes of the weights of the draft model that the engine loads too.

    0 without one, and for one whose files are not here.
    """
    draft = options.get("speculative_config")
    place = draft.get("model") if isinstance(draft, Mapping) else None
    place = place or options.get("spec_model")
    if not isinstance(place, str) or not place.startswith("/"):
        return 0.0
    return _bytes_on_disk(Path(place), "")[0] or 0.0


def _quantisation(config: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the weights are quantised; empty if they are not.

    The model's config comes first, then the engine's option.
    """
    for name in ("quantization_config", "compression_config"):
        found = config.get(name)
        if isinstance(found, dict) and found:
            return found
    asked = options.get("quantization")
    return {"quant_method": asked} if isinstance(asked, str) else {}


def _group_size(quantisation: Mapping[str, Any]) -> int:
    """Return how many elements of a weight's side share a scale.

    These elements must be on one GPU. 0 means that there is no such bound.
    """
    block = quantisation.get("weight_block_size")
    if isinstance(block, list) and block:
        return integer({"side": block[0]}, "side")
    method = str(quantisation.get("quant_method") or "")
    if method.startswith(_GROUPED):
        return integer(quantisation, "group_size")
    return max((integer(weights, "group_size") for weights in _weights(quantisation)), default=0)


def _weights(quantisation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return how compressed-tensors quantises the weights, for each group of layers."""
    groups = quantisation.get("config_groups")
    found = groups.values() if isinstance(groups, dict) else ()
    weights = [group.get("weights") for group in found if isinstance(group, dict)]
    return [each for each in weights if isinstance(each, dict)]


def _quantised_while_loading(config: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Return whether an engine quantises weights layer by layer while it loads them.

    This is so for bitsandbytes if the weights on disk are not quantised. vLLM's other on-line
    methods (fp8) hold the original weights first, so they need the size of the files.
    """
    own = config.get("quantization_config")
    return options.get("quantization") == "bitsandbytes" and not (isinstance(own, dict) and own)


def _bits(
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    quantisation: Mapping[str, Any],
    engine: str,
) -> float:
    """Return the bits of a weight."""
    method = str(quantisation.get("quant_method") or quantisation.get("quant_algo") or "").lower()
    for name in ("bits", "w_bit", "nbits", "weight_bits"):
        bits = integer(quantisation, name)
        if 0 < bits <= 32:
            return float(bits)
    if method == "bitsandbytes" and quantisation.get("load_in_8bit"):
        return 8.0
    # compressed-tensors: the most bits of its groups
    bits = max((integer(weights, "num_bits") for weights in _weights(quantisation)), default=0)
    if 0 < bits <= 32:
        return float(bits)
    algorithm = str(quantisation.get("quant_algo") or "").lower()
    if "fp4" in algorithm or "w4" in algorithm or "int4" in algorithm:
        return 4.0
    if method:
        return _METHOD_BITS.get(method, _DEFAULT_BITS)
    return _loaded_bits(config, options, engine)


def _stored_bits(config: Mapping[str, Any]) -> float:
    """Return the bits of a weight that is not quantised, as in its file."""
    return _float_bits(config.get("torch_dtype") or config.get("dtype"))


def _loaded_bits(config: Mapping[str, Any], options: Mapping[str, Any], engine: str) -> float:
    """Return the bits of a weight that is not quantised, once it is loaded.

    They follow from ``dtype`` if it is given, else from the stored weights. By default, vLLM loads
    32 bits as 16.
    """
    asked = options.get("dtype")
    if asked not in (None, "auto"):
        return _float_bits(asked)
    stored = _stored_bits(config)
    return min(stored, 16.0) if engine == "vllm" else stored


def _float_bits(dtype: object) -> float:
    return float(_FLOAT_BITS.get(str(dtype).removeprefix("torch."), _DEFAULT_BITS))


def _worked_out(
    params: float, bits: float, config: Mapping[str, Any], quantisation: Mapping[str, Any]
) -> float:
    """Return the bytes of ``params`` parameters.

    Quantised parameters have a scale per group, and embeddings stay in 16 bits.
    """
    if not quantisation:
        return params * bits / 8
    plain = min(_plain_params(config), params)
    scales = _scale_bits(bits, quantisation)
    return ((params - plain) * (bits + scales) + plain * _DEFAULT_BITS) / 8


def _plain_params(config: Mapping[str, Any]) -> float:
    """Return the parameters of a quantised model that stay in 16 bits: its embeddings."""
    tables = 1 if config.get("tie_word_embeddings") else 2
    return float(tables * integer(config, "vocab_size") * integer(config, "hidden_size"))


def _scale_bits(bits: float, quantisation: Mapping[str, Any]) -> float:
    """Return the bits of scales for each quantised parameter.

    A group of them has one scale.
    """
    group = integer(quantisation, "group_size") or _DEFAULT_GROUP
    return 2 * _DEFAULT_BITS / group if bits < 8 else 0.0
