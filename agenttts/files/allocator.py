"""Keep Polars' allocator from giving memory back as some kernels get wrong.

Polars sets it (jemalloc) to give memory back by MADV_FREE: the kernel takes it only if it is short
of memory, and until then the process may use it again. The kernels of RHEL 9.5 to 9.8 can take it
although something was written there since, if they balance NUMA nodes and a job is near its limit
of memory. A table then changes unnoticed, or the process ends with a segmentation fault (Polars'
issues 29020 and 29061).
"""

from __future__ import annotations

import os

_VARIABLE = "_RJEM_MALLOC_CONF"
_AT_ONCE = "muzzy_decay_ms:0"


def give_memory_back_at_once() -> None:
    """Let the allocator use MADV_DONTNEED here and in children, as jemalloc does.

    It has an effect only before Polars is imported. Other settings of the user stay.
    """
    settings = os.environ.get(_VARIABLE, "")
    # Polars appends this variable to its own settings, and the last one counts. A child inherits
    # both.
    if _AT_ONCE not in settings:
        os.environ[_VARIABLE] = ",".join(filter(None, [settings, _AT_ONCE]))
