"""Recognize memory exhaustion by the messages of libraries.

The libraries share no exception type for it.
"""

from __future__ import annotations

import re

_SAYS_SO = re.compile(
    r"out of memory|outofmemoryerror"  # torch, CUDA, ROCm
    r"|can't allocate memory|not enough memory|cannot allocate memory"  # torch on a CPU, libc
    r"|no available memory for the cache blocks"  # vLLM: no memory left for the KV cache
    r"|larger than the available kv cache memory"
    r"|free memory on device .* is less than desired",  # vLLM: another program uses the GPU
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException | str) -> bool:
    """Return whether an error, or a library's log, reports exhausted memory.

    It may be the memory of the GPU or of the host.
    """
    return isinstance(error, MemoryError) or bool(_SAYS_SO.search(_text(error)))


def _text(error: BaseException | str) -> str:
    return error if isinstance(error, str) else f"{type(error).__name__}: {error}"
