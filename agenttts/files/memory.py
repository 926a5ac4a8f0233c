"""How much memory a program may still take, on the host and on GPUs.

The host's limits are those of the machine, of its control group and of its job.

Sources: proc(5) meminfo; the kernel's cgroup-v2 documentation; sbatch(1), output environment
variables. Sizes are in bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from agenttts.files.commands import ask

MEMORY_VARIABLE = "AGENTTTS_JOB_MEMORY_MB"
"""The memory of the job in MiB, for programs in containers, which do not see Slurm's variables."""
_GPU_SECONDS = 5.0


def available_memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that this program and its children may still take.

    It is the least of what the machine has available, what the control group leaves, and what the
    job's limit leaves beside the processes that this program has started.
    """
    limits = [int(psutil.virtual_memory().available), *_left_in_groups(root)]
    megabytes = os.environ.get(MEMORY_VARIABLE, "")
    if megabytes.isdecimal() and int(megabytes) > 0:
        limits.append((int(megabytes) << 20) - _resident())
    return max(0, min(limits))


def gpu_memory() -> list[tuple[int, int]]:
    """Return the free bytes of each GPU of this process, and all that can be used.

    The list is empty if `nvidia-smi` does not say. It is also empty for MIG devices, because it
    would be the memory of all devices of the GPU, those of other jobs included.
    """
    fields = "memory.free,memory.used,mig.mode.current"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    answer = ask([*command, *(["-i", visible] if visible else [])], _GPU_SECONDS)
    rows = [line.split(",") for line in answer.text.splitlines()]
    try:
        sizes = [(int(free) << 20, int(used) << 20, mig) for free, used, mig in rows]
    except ValueError:  # "[N/A]", or an error in words
        return []
    if not answer.succeeded or any("Enabled" in mig for _, _, mig in sizes):
        return []
    return [(free, free + used) for free, used, _ in sizes]


def job_memory(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that tells a program the memory of its Slurm job.

    The result is empty outside a Slurm job.
    """
    whole = environment.get("SLURM_MEM_PER_NODE", "")
    a_cpu = environment.get("SLURM_MEM_PER_CPU", "")
    cpus = environment.get("SLURM_CPUS_ON_NODE", "")
    if whole.isdecimal() and int(whole) > 0:
        return {MEMORY_VARIABLE: whole}
    if a_cpu.isdecimal() and cpus.isdecimal() and int(a_cpu) > 0:
        return {MEMORY_VARIABLE: str(int(a_cpu) * int(cpus))}
    return {}


def _left_in_groups(root: Path) -> list[int]:
    """Return what the limits of this process's control group and those above it leave."""
    left = []
    for limit_name, usage_name, folder in (
        ("memory.max", "memory.current", root),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", root / "memory"),
    ):
        for group in _groups(folder):
            with suppress(OSError, ValueError):  # no such group, or "max"
                limit = int((group / limit_name).read_text(encoding="ascii"))
                used = int((group / usage_name).read_text(encoding="ascii"))
                left.append(limit - used)
    return left


def _groups(folder: Path) -> list[Path]:
    """Return the folders of this process's control group and of those that hold it."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" or "memory" in controllers.split(","):
                place = folder / path.lstrip("/")
                return [place, *(p for p in place.parents if p.is_relative_to(folder))]
    return []


def _resident() -> int:
    """Return the resident memory of this process and its descendants."""
    total = 0
    with suppress(psutil.Error):
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total
