"""Work out how many GPUs a model takes.

The inputs are the model's facts (`agenttts.dispatch.sizing.model_facts`) and the GPU memory of the
profile. An engine is one process group on one node. Its number of GPUs comes from the first of
these that applies:

- the spec (``models.NAME.gpus``)
- the engine's options (tensor x pipeline parallel size)
- the fewest GPUs that hold the weights and the KV cache of `CONTEXTS` prompts at a time

CUDA shows a process one MIG device, so an engine takes no more than one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agenttts.dispatch.sizing.kv_cache import integer
from agenttts.dispatch.sizing.mig import mig_memory
from agenttts.dispatch.sizing.model_facts import ModelFacts
from agenttts.errors import KeyPath, Unavailable, UserError, counted
from agenttts.inference.placement import GPU_SHARE, PARALLEL_OPTIONS, over_gpus

_GB = 1e9
CONTEXTS = 32
"""Contexts of prompt and decode tokens that an engine should hold at a time.

With fewer contexts its batches are too small to use a GPU: a 32B model in bfloat16 on one card of
80 GB holds about 7 contexts of 2,200 tokens.
"""
_ALLOW_LONG = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
# Memory for activations, CUDA graphs and vLLM itself, besides weights and KV cache.
_OVERHEAD_BYTES = 3e9
# KV cache of all contexts, and length of a context, for a model whose config gives neither.
_UNKNOWN_CACHE_BYTES = 2e9
_UNKNOWN_CONTEXT = 8192
# vLLM rounds the rows of the embeddings up to a multiple of this before it divides them
# (DEFAULT_VOCAB_PADDING_SIZE).
_VOCABULARY_STEP = 64
# Options of engines on several nodes, or of several copies of one engine.
_SEVERAL = ("nnodes", "node_rank", "master_addr", "master_port")


@dataclass(frozen=True)
class GpuNeed:
    """The number of GPUs of one engine, and the reasoning in words.

    ``contexts`` is how many prompts it holds at a time, ``weight_bytes`` the size of its weights;
    None if that is not known.
    """

    gpus: int
    reasoning: str
    contexts: int | None = None
    weight_bytes: float | None = None


def check_context(
    facts: ModelFacts | None, options: Mapping[str, Any], env: Mapping[str, str]
) -> None:
    """Check that vLLM takes the context that its options ask for.

    Args:
        facts: The model's facts; None if its engine loads no weights.
        options: The engine's options.
        env: The environment of the trials.

    Raises:
        UserError: It is longer than the model's positions, whatever vLLM's version.
    """
    given, most = integer(options, "max_model_len"), facts.refused_above if facts else 0
    if not 0 < most < given or env.get(_ALLOW_LONG, "").strip().lower() in ("1", "true"):
        return
    raise UserError(
        f"{given} is above the {most} tokens of the model's config, which vLLM refuses; valid: 1 "
        f"to {most}; lower it, leave it out, or scale the positions with hf_overrides "
        f"({_ALLOW_LONG}: 1 in the profile's env allows it, but such positions give wrong text)",
        at=("max_model_len",),
    )


def gpu_need(
    name: str,
    facts: ModelFacts | None,
    *,
    gpus: int | None,
    engine: str,
    options: Mapping[str, Any],
    gpu_memory_gb: float | None,
    gpus_per_node: int,
    gpu_type: str | None = None,
    context_tokens: int | None = None,
) -> GpuNeed:
    """Return how many GPUs a model needs, and why.

    Args:
        name: The model's name in the spec, for errors.
        facts: The model's facts; None if its engine loads no weights.
        gpus: The number that the spec gives; None: work it out.
        engine: The engine that runs it.
        options: The engine's options.
        gpu_memory_gb: Memory of one GPU of the profile, in GB.
        gpus_per_node: GPUs of a node of the profile; 0: it has none.
        gpu_type: The type of GPU that the profile's trials request.
        context_tokens: Prompt and decode tokens of one sample, the maximum over the stages that use
            the model. None: one context of the model's own maximum length.

    Raises:
        UserError: Options contradict ``gpus`` or each other, or ask for several nodes.
        Unavailable: One node of the profile, or one MIG device, does not hold the model.
    """
    if engine == "endpoint":
        if gpus:
            raise UserError(
                "the model runs on a server, so a trial needs no GPU for it; leave gpus out",
                at=("models", name, "gpus"),
            )
        return GpuNeed(0, f"runs on the server at {options.get('base_url')}: needs none")
    if facts is None:
        return GpuNeed(
            gpus or 0,
            f"{gpus} (given in the spec)" if gpus else f"0: the {engine} engine needs no GPU",
        )
    parallel = parallel_gpus(name, options) if engine == "vllm" else None
    if parallel is not None and gpus is not None and parallel != gpus:
        raise UserError(
            f"gpus is {gpus}, and its options ({_said(options)}) make {parallel}; "
            "give one of them, or the same number",
            at=("models", name),
        )
    asked = gpus if gpus is not None else parallel
    key = "gpus" if gpus is not None else "options"
    on_mig = gpus_per_node > 0 and mig_memory(gpu_type or "") is not None
    if asked is not None and asked > 1 and on_mig:
        raise Unavailable(
            f"{asked} GPUs are asked for, but an engine can use only one MIG device (the profile's "
            f"gpu_type is {gpu_type})",
            fix="lower it to 1, or choose a profile with whole GPUs",
            at=("models", name, key),
        )
    if asked is not None and asked > gpus_per_node > 0:
        raise Unavailable(
            f"{asked} GPUs are more than the profile's gpus_per_node ({gpus_per_node})",
            fix="lower it, or choose a profile with larger nodes",
            at=("models", name, key),
        )
    if engine == "vllm" and asked:
        _check_division(facts, asked, options, ("models", name, key))
    if gpus_per_node == 0 and gpus is None:
        return GpuNeed(0, "0: the profile has no GPUs, so the model runs on the CPU")
    if gpu_memory_gb is None:
        if asked is not None:
            return GpuNeed(asked, _as_said(asked, gpus, options))
        return GpuNeed(1, "1: neither the model's gpus nor the profile's gpu_memory_gb is given")
    memory = _Memory(
        facts,
        context_tokens,
        _number(name, options, "gpu_memory_utilization", GPU_SHARE) * gpu_memory_gb * _GB,
        _number(name, options, "cpu_offload_gb", 0.0) * _GB,
    )
    if asked is not None:
        return _as_asked(asked, gpus, options, memory)
    if on_mig:
        where = f"the one MIG device ({gpu_type}, {gpu_memory_gb:g} GB) that an engine can use"
        return _fewest(name, memory, 1, where)
    where = f"the {counted(gpus_per_node, 'GPU')} of {gpu_memory_gb:g} GB of one node"
    return _fewest(name, memory, gpus_per_node, where)


def parallel_gpus(name: str, options: Mapping[str, Any]) -> int | None:
    """Return the GPUs that vLLM's own options ask for; None if they do not say.

    Raises:
        UserError: The options ask for several nodes or for several copies of an engine. The message
            says what to do instead.
    """
    for option, value in options.items():
        several = option in _SEVERAL or option.startswith("data_parallel_")
        if several and not (option in ("nnodes", "data_parallel_size") and value == 1):
            raise UserError(
                "each engine is one copy on one node; remove the option. The profile's "
                "max_running already sets how many trials run at the same time. A model that is "
                "too large for a node needs quantised weights or larger nodes",
                at=("models", name, "options", option),
            )
    sizes = {option: options[option] for option in PARALLEL_OPTIONS if option in options}
    for option, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(
                f"{value!r} is not a number of GPUs; valid: 1, 2, 4, ...",
                at=("models", name, "options", option),
            )
    return math.prod(sizes.values()) if sizes else None


def _check_division(facts: ModelFacts, asked: int, options: Mapping[str, Any], at: KeyPath) -> None:
    """Raise `UserError` if vLLM cannot divide a model as the spec asks."""
    among = over_gpus(options, asked).get("tensor_parallel_size", 1)
    undivided = _undivided(facts, among) if facts.heads else None
    if undivided is None:
        return
    valid = [str(n) for n in range(1, max(asked, 8) + 1) if _undivided(facts, n) is None]
    raise UserError(
        f"the model's {undivided} cannot be divided over {among} GPUs, and vLLM refuses it once a "
        f"job has its GPUs; valid: {', '.join(valid)}; or the option pipeline_parallel_size: "
        f"{among}, which divides layers",
        at=at,
    )


@dataclass(frozen=True)
class _Memory:
    """The memory that an engine of a model needs, and what its GPUs offer.

    ``share`` is the usable memory of each GPU and ``offload`` the weights that each GPU may keep in
    CPU memory, both in bytes.
    """

    facts: ModelFacts
    context_tokens: int | None
    share: float
    offload: float

    @property
    def context(self) -> int:
        """Tokens of one context."""
        return self.context_tokens or self.facts.context or _UNKNOWN_CONTEXT

    def contexts(self, count: int) -> float:
        """Return how many contexts ``count`` GPUs hold besides the weights.

        The number may be fractional. It is negative if the weights do not fit.
        """
        weights = max(0.0, self.facts.weight_bytes / count - self.offload)
        room = self.share - weights - _OVERHEAD_BYTES
        if room < 0:
            return -1.0
        if self.facts.cache is None:
            return CONTEXTS * room / (_UNKNOWN_CACHE_BYTES / count)
        return room / self._cache_per_gpu(count, self.context)

    def starts(self, count: int) -> bool:
        """Return whether vLLM starts.

        It needs room for one context of the greatest length that the model takes.
        """
        contexts = self.contexts(count)
        if self.facts.cache is None or not self.facts.context:
            return contexts >= 0
        if self.facts.context_fits:
            return contexts >= 1
        return self._short_bytes(count) <= 0

    def nearly_starts(self, count: int) -> bool:
        """Return whether vLLM may start even if `starts` is false.

        This is so if weights and KV cache fit without `_OVERHEAD_BYTES`, which is an estimate.
        """
        return self._short_bytes(count) <= _OVERHEAD_BYTES

    def _short_bytes(self, count: int) -> float:
        """Return how many bytes each of ``count`` GPUs lacks for the longest context."""
        room = self.contexts(count) * self._cache_per_gpu(count, self.context)
        return self._cache_per_gpu(count, self.facts.context) - room

    def _cache_per_gpu(self, count: int, tokens: int) -> float:
        """Return the bytes of a context on each of ``count`` GPUs.

        The heads are divided among the GPUs. They are copied if there are fewer heads than GPUs.
        """
        assert self.facts.cache is not None
        size = self.facts.cache.of_context(tokens) or 1.0  # a model without attention has none
        return size if self.facts.cache_copied else size / min(count, self.facts.kv_heads or count)


def _fewest(name: str, memory: _Memory, most: int, where: str) -> GpuNeed:
    """Return the fewest GPUs that hold the model and `CONTEXTS` contexts.

    If ``most`` GPUs are too few for these, return the number of GPUs that holds the most contexts.

    Args:
        name: The model's name in the spec, for errors.
        memory: The memory that is needed and offered.
        most: The most GPUs of an engine.
        where: These GPUs in words, for errors.

    Raises:
        Unavailable: They do not hold the weights and one context.
    """
    facts = memory.facts
    wanted = CONTEXTS if memory.context_tokens else 1
    fitting: list[int] = []
    for count in range(1, most + 1):
        if _divides(facts, count) and memory.starts(count) and memory.contexts(count) >= 1:
            fitting.append(count)
            if memory.contexts(count) >= wanted:
                return _need(memory, count, _why(memory, count))
    if fitting:
        best = max(fitting, key=memory.contexts)
        return _need(
            memory,
            best,
            f"{_why(memory, best)}; {wanted} contexts need more GPUs than an engine can have",
        )
    needed = math.ceil((facts.weight_bytes) / max(memory.share - _OVERHEAD_BYTES, 1))
    fix = "use a quantised model, or a profile with larger GPUs or nodes"
    holding = [
        count
        for count in range(1, most + 1)
        if _divides(facts, count) and memory.contexts(count) >= 0
    ]
    if holding and facts.cache is not None and facts.cache.bound:
        return GpuNeed(
            holding[-1],
            f"{holding[-1]}: weights {facts.weight_bytes / _GB:.1f} GB (by {facts.weights_from}) "
            "fit; its config.json does not say which layers cache a whole context. If all do, "
            f"one context does not fit: lower options.max_model_len (now {facts.context}) "
            "if the engine does not start",
        )
    nearly = [
        count for count in holding if memory.contexts(count) >= 1 and memory.nearly_starts(count)
    ]
    if nearly:
        return _need(
            memory,
            nearly[-1],
            f"{_why(memory, nearly[-1])}; lower options.max_model_len (now {facts.context}) if "
            "the engine does not start",
        )
    if any(memory.contexts(count) >= 1 for count in range(1, most + 1) if _divides(facts, count)):
        raise Unavailable(
            f"the weights ({facts.weight_bytes / _GB:.0f} GB) "
            f"and the KV cache of one context of {facts.context} tokens do not fit {where}",
            fix=(
                "set the option max_model_len to the number of tokens that your "
                "prompts and replies need"
            ),
            at=("models", name),
        )
    raise Unavailable(
        f"{facts.weight_bytes / _GB:.0f} GB of weights do not fit {where} (about "
        f"{counted(needed, 'GPU')} needed)",
        fix=fix,
        at=("models", name),
    )


def _divides(facts: ModelFacts, count: int) -> bool:
    """Return whether vLLM can divide a model over ``count`` GPUs (tensor parallelism)."""
    if not facts.heads:
        return not count & (count - 1)  # the heads of most models divide only by powers of two
    # Quantised weights are divided between groups, not within one.
    group = facts.group_size or 1
    return _undivided(facts, count) is None and all(
        width % (count * group) == 0 for width in facts.widths
    )


def _undivided(facts: ModelFacts, count: int) -> str | None:
    """Return what of a model vLLM cannot divide over ``count`` GPUs; None: nothing.

    The model's heads have to be known. Widths are left out: a mixture of experts may not use one
    of them.
    """
    if facts.heads % count:
        return f"{facts.heads} attention heads"
    if not facts.cache_copied and facts.kv_heads % count and count % facts.kv_heads:
        return f"{facts.kv_heads} key and value heads"
    if -(-facts.vocabulary // _VOCABULARY_STEP) * _VOCABULARY_STEP % count:
        return f"{facts.vocabulary} tokens of the vocabulary"
    return None


def _why(memory: _Memory, count: int) -> str:
    """Return the reasoning for a number of GPUs."""
    facts = memory.facts
    text = (
        f"{count}: weights {facts.weight_bytes / _GB:.1f} GB (by {facts.weights_from}) "
        f"over {count} x {memory.share / _GB:.0f} GB usable; {_held(memory, count)}"
    )
    if facts.heads and count > 1:
        text += f"; {facts.heads} heads divide by {count}"
    if 0 < facts.longest < facts.context:
        text += (
            f"; options.max_model_len ({facts.context}) is above the {facts.longest} tokens "
            f"of its config, which vLLM refuses ({_ALLOW_LONG}=1 in the profile's env allows it)"
        )
    fewer = [n for n in range(1, count) if _divides(facts, n) and memory.contexts(n) >= 1]
    if fewer and not memory.starts(fewer[-1]) and memory.contexts(fewer[-1]) >= CONTEXTS:
        text += f"; {fewer[-1]} would be enough with options.max_model_len below {facts.context}"
    return text


def _held(memory: _Memory, count: int) -> str:
    if memory.facts.cache is None:
        return "the KV cache of a context is not known"
    contexts = max(0, math.floor(memory.contexts(count)))
    least = "at least" if memory.facts.cache.bound else "about"
    return (
        f"KV cache for {least} {counted(contexts, 'context')} of {memory.context} tokens at a time"
    )


def _as_asked(asked: int, gpus: int | None, options: Mapping[str, Any], memory: _Memory) -> GpuNeed:
    """Return the need of a model whose number of GPUs the spec gives."""
    text = _as_said(asked, gpus, options)
    if asked == 0:
        return GpuNeed(0, text)
    if memory.contexts(asked) < 0:
        weights = memory.facts.weight_bytes / _GB
        text += (
            f"; weights {weights:.1f} GB do not fit {asked} x {memory.share / _GB:.0f} GB usable"
        )
        return GpuNeed(asked, text, 0, memory.facts.weight_bytes)
    return _need(memory, asked, f"{text}; {_held(memory, asked)}")


def _need(memory: _Memory, count: int, reasoning: str) -> GpuNeed:
    known = memory.facts.cache is not None
    contexts = math.floor(memory.contexts(count)) if known else None
    return GpuNeed(count, reasoning, contexts, memory.facts.weight_bytes)


def _as_said(asked: int, gpus: int | None, options: Mapping[str, Any]) -> str:
    return (
        f"{asked} (given in the spec)"
        if gpus is not None
        else f"{asked} (given in its options: {_said(options)})"
    )


def _said(options: Mapping[str, Any]) -> str:
    return " x ".join(f"{name} {options[name]}" for name in PARALLEL_OPTIONS if name in options)


def _number(name: str, options: Mapping[str, Any], option: str, default: float) -> float:
    """Return an option that must be a number of zero or more."""
    value = options.get(option)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise UserError(
            f"{value!r} is not a number; valid: e.g. {default or 4}",
            at=("models", name, "options", option),
        )
    return float(value)
