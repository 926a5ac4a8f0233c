"""The limits of processes (``ulimit``), which Slurm's jobs get from a shell.

Slurm passes on the soft limits of the shell that submits (PropagateResourceLimits of slurm.conf, by
default ALL), so that a limit that a site sets for its login nodes also holds for engines.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttts.dispatch.check import Check
from agenttts.files.processes import pids

WHAT = "limits (ulimit)"
_GB = 10**9
# A GPU job of one engine has some hundred threads, and jobs share a node.
_FREE_THREADS = 1000
# What most systems set, with which engines of one node run.
_OPEN_FILES = 1024
# Libraries and weights of a small model on the CPU.
_ADDRESSES = 16 * _GB
_FILE_BYTES = _GB


@dataclass(frozen=True)
class _Limit:
    """A limit of `resource.getrlimit`, ulimit's option for it, and what it counts."""

    number: int
    option: str
    what: str
    unit: int = 1
    unit_name: str = ""


_LIMITS: Mapping[str, _Limit] = {
    "nofile": _Limit(resource.RLIMIT_NOFILE, "-n", "open files"),
    "nproc": _Limit(resource.RLIMIT_NPROC, "-u", "processes and threads"),
    "as": _Limit(resource.RLIMIT_AS, "-v", "virtual memory", _GB, " GB"),
    "data": _Limit(resource.RLIMIT_DATA, "-d", "data", _GB, " GB"),
    "fsize": _Limit(resource.RLIMIT_FSIZE, "-f", "file size", _GB, " GB"),
    "cpu": _Limit(resource.RLIMIT_CPU, "-t", "CPU time of a process", 1, " s"),
    "memlock": _Limit(resource.RLIMIT_MEMLOCK, "-l", "locked memory", 10**6, " MB"),
}


def limit_facts() -> dict[str, int | None]:
    """Return the soft limits of this process by name; None: unlimited.

    ``threads`` is the number of threads that the user has on this machine.
    """
    found: dict[str, int | None] = {}
    for name, limit in _LIMITS.items():
        soft, _ = resource.getrlimit(limit.number)
        found[name] = None if soft == resource.RLIM_INFINITY else soft
    return {**found, "threads": _threads()}


def limit_check(
    facts: Mapping[str, int | None], *, on_gpus: bool, seconds: float, fix: str
) -> Check:
    """Return whether the limits allow what a job does.

    Args:
        facts: As of `limit_facts`.
        on_gpus: Whether engines use GPUs.
        seconds: For how long an engine may run.
        fix: How to raise the limits.
    """
    needed: dict[str, tuple[float, str]] = {
        "nofile": (_OPEN_FILES, ""),
        "nproc": (
            (facts["threads"] or 0) + _FREE_THREADS,
            f" ({facts['threads']} of them in use here)",
        ),
        # CUDA reserves addresses for the memory of the node and of its GPUs.
        "as": (float("inf") if on_gpus else _ADDRESSES, ""),
        "data": (_ADDRESSES, ""),
        "fsize": (_FILE_BYTES, ""),
        "cpu": (seconds, ""),
    }
    low = [
        f"{_said(name, facts[name])}{more}, {_least(name, least)}"
        for name, (least, more) in needed.items()
        if (value := facts[name]) is not None and value < least
    ]
    if low:
        return Check(WHAT, False, "; ".join(low), fix)
    return Check(WHAT, True, ", ".join(_said(name, facts[name]) for name in _LIMITS))


def limits_fix(section: Mapping[str, Any] | None) -> str:
    """Return how to raise limits.

    Args:
        section: The options of sbatch of the job's section; None: the job is no Slurm job.
    """
    if section is None:
        return "raise them with 'ulimit' in the shell that launches, or ask the administrators"
    if str(section.get("propagate", "")).upper() == "NONE":
        return (
            "they are the node's own: ask the administrators, or raise them up to the hard limits "
            "with 'ulimit -S' in the profile's setup"
        )
    return (
        "set 'sbatch: {propagate: NONE}' in this section of the profile, so that jobs get the "
        "node's own limits and not those of the shell that launches, or raise them there"
    )


def _said(name: str, value: int | None) -> str:
    limit = _LIMITS[name]
    amount = "unlimited" if value is None else f"{value / limit.unit:.4g}{limit.unit_name}"
    if value is not None and limit.unit == 1:
        amount = f"{value}{limit.unit_name}"
    return f"{limit.what} ({limit.option}) {amount}"


def _least(name: str, least: float) -> str:
    if least == float("inf"):
        return "and engines on GPUs need it unlimited"
    limit = _LIMITS[name]
    return f"and {least / limit.unit:.0f}{limit.unit_name} are needed"


def _threads() -> int:
    """Return the number of the user's threads on this machine."""
    me = Path("/proc/self").stat().st_uid
    found = 0
    for pid in pids():
        with suppress(OSError):  # it has ended in the meantime
            if Path("/proc", pid).stat().st_uid == me:
                found += sum(1 for _ in Path("/proc", pid, "task").iterdir())
    return found
