"""The size of a MIG device, from the name of its type.

CUDA shows a process one MIG device.
"""

from __future__ import annotations

import re

# The end of the type of a MIG device: a100_1g.5gb, nvidia_h100_80gb_hbm3_1g.10gb, 1g.10gb+me.
_MIG = re.compile(r"(?:^|[^a-z0-9])(?P<slices>\d)g[._](?P<memory>\d+)gb", re.IGNORECASE)


def mig_memory(gpu_type: str) -> int | None:
    """Return the GB of a MIG device, from its type; None for a whole GPU."""
    match = _MIG.search(gpu_type)
    return int(match["memory"]) if match else None


def mig_slices(gpu_type: str) -> int | None:
    """Return the compute slices of a MIG device, from its type; None for a whole GPU."""
    match = _MIG.search(gpu_type)
    return int(match["slices"]) if match else None
