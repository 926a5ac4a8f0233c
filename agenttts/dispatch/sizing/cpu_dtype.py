"""The data type of models on a CPU, decided at launch.

vLLM's CPU build takes bfloat16 on every CPU, and emulates it where it has no instructions for it.
With AVX2 alone, SmolLM2-135M takes 28 ms of CPU time a token of prompts and samples in float32 and
53 ms in bfloat16 (vLLM 0.32, 8 prompts of 117 tokens, 4 samples of 32, 2026-11-28, one run each).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agenttts.dispatch.sizing.model_facts import is_quantised

_CPUINFO = Path("/proc/cpuinfo")
_FLAGS = {
    # vLLM's kernels use either (`torch.cpu._is_avx512_bf16_supported`, vLLM 0.32).
    "x86_64": ("flags", {"avx512_bf16", "amx_bf16"}),
    "aarch64": ("Features", {"bf16"}),
}
"""By machine: the line of /proc/cpuinfo, and the flags of which one means native bfloat16."""


def lacks_bfloat16() -> bool:
    """Return whether this CPU is known to have no instructions for bfloat16."""
    if platform.machine() not in _FLAGS:
        return False
    key, native = _FLAGS[platform.machine()]
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    named = (line.partition(":") for line in lines)
    listed = next((flags.split() for name, _, flags in named if name.strip() == key), None)
    return listed is not None and native.isdisjoint(listed)


def cpu_dtype(
    path: str, engine: str, options: Mapping[str, Any], *, gpus: int | None, gpus_per_node: int
) -> str | None:
    """Return the data type that a model gets because its trials compute on a CPU.

    The CPU of the trials is taken to be this machine's. The run keeps the type, so all its samples
    are of one type, whatever CPU draws them.

    Args:
        path: The model's directory or hub id.
        engine: The engine's name.
        options: The engine's options.
        gpus: GPUs that the spec gives the model; None if it does not say.
        gpus_per_node: GPUs of a node of the profile.

    Returns:
        ``float32``, or None for the engine's own default: with GPUs, on a CPU with bfloat16, if
        ``dtype`` is given, and for a model that is quantised (its kernels do not take float32) or
        may be (a hub id).
    """
    if engine not in ("vllm", "transformers") or gpus or gpus_per_node:
        return None
    if options.get("dtype") is not None or not lacks_bfloat16():
        return None
    return "float32" if is_quantised(path, options) is False else None
