"""Telling memory exhaustion from other failures by what the libraries say, since they share no
exception type.
"""

from __future__ import annotations

import re

_SAYS_SO = re.compile(
    r"out of memory|outofmemoryerror"  # torch, CUDA, ROCm
    r"|can't allocate memory|not enough memory|cannot allocate memory"  # torch on a CPU, the C library
    r"|no available memory for the cache blocks"  # vLLM: the weights left nothing for the KV cache
    r"|larger than the available kv cache memory"
    r"|free memory on device .* is less than desired",  # vLLM: something else holds the GPU
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException | str) -> bool:
    """Whether an error, or a library's log output, tells of exhausted memory (of the GPU or of
    the host).
    """
    return isinstance(error, MemoryError) or bool(_SAYS_SO.search(_text(error)))


def _text(error: BaseException | str) -> str:
    return error if isinstance(error, str) else f"{type(error).__name__}: {error}"
