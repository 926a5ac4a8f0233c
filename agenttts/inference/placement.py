"""Engine options that place or size an engine and do not change its results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARALLEL_OPTIONS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "prefill_context_parallel_size",
)
"""vLLM's options whose product is the GPUs of one engine (its ParallelConfig.world_size)."""
GPU_SHARE = 0.9
"""An engine's share of its GPUs' memory, if its options do not give gpu_memory_utilization.

vLLM's own default, 0.92 since 0.32, leaves less for engines that sleep beside it."""
UNUSED_GPU = 0.9
"""Free share of an unused GPU's memory.

The driver itself holds a few per cent (6 % were seen on an MI355X, under 2 % on an H100)."""
PLACING_OPTIONS = (
    *PARALLEL_OPTIONS,
    *("data_parallel_size", "decode_context_parallel_size", "enable_expert_parallel"),
    *("distributed_executor_backend", "max_parallel_loading_workers", "disable_log_stats"),
    *("gpu_memory_utilization", "kv_cache_memory_bytes", "enable_sleep_mode", "download_dir"),
    *("cpu_offload_gb", "kv_offloading_backend", "kv_offloading_size", "offload_backend"),
    *("max_num_seqs", "max_num_batched_tokens", "batch_size", "device_map", "max_memory"),
    # Of a model on a server: where it is, and how it is asked.
    *("base_url", "api_key_env", "use_proxy", "max_concurrent", "requests_per_minute"),
    *("timeout_seconds", "retry_seconds"),
)
"""Options that only place or size an engine.

Its samples are the same with any of their values, up to the numerics of batching.
"""


def over_gpus(options: Mapping[str, Any], gpus: int) -> dict[str, Any]:
    """Return vLLM's options for an engine of ``gpus`` GPUs.

    It is tensor parallel, unless the options set the parallelism themselves.
    """
    if gpus > 1 and not any(name in options for name in PARALLEL_OPTIONS):
        return {**options, "tensor_parallel_size": gpus}
    return dict(options)
