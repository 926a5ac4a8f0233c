"""Whether an engine may use what an earlier start of vLLM measured of memory.

With `STARTUP_PLAN`, vLLM keeps the size of the KV cache that it measured, and later starts use it
instead of measuring. It is found by vLLM's hash of the configuration, which leaves out options that
change the memory (``v1/worker/startup_plan.py`` and ``CacheConfig.compute_hash``, vLLM 0.32). So a
start with ``gpu_memory_utilization: 0.7`` would take the KV cache of one with 0.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agenttts.inference.placement import GPU_SHARE, PARALLEL_OPTIONS

STARTUP_PLAN = "VLLM_ENABLE_STARTUP_PLAN"
_SHARE = "gpu_memory_utilization"
# Options that are in the hash, and those that take no memory of a GPU.
_KNOWN = frozenset(
    {
        *PARALLEL_OPTIONS,
        *("dtype", "max_model_len", "quantization", "kv_cache_dtype", "enforce_eager"),
        *("max_num_seqs", "max_num_batched_tokens", "enable_sleep_mode", "compilation_config"),
        *("enable_prefix_caching", "seed", "revision", "trust_remote_code", "load_format"),
        *("tokenizer", "tokenizer_mode", "tokenizer_revision", "generation_config", "download_dir"),
        "disable_log_stats",
    }
)


def without_plan(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the variable that makes vLLM measure the memory at a start.

    It is empty if all options that change the memory are in vLLM's hash. The share of an engine
    with sleep mode counts as one if it is `GPU_SHARE`, which is the default of such engines.

    Args:
        options: The engine's options.
    """
    given = {name for name, value in options.items() if value is not None} - _KNOWN
    if options.get("enable_sleep_mode") and options.get(_SHARE) == GPU_SHARE:
        given.discard(_SHARE)
    return {STARTUP_PLAN: "0"} if given else {}
