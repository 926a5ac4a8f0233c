"""Processes of this machine, by psutil, and facts that psutil does not give.

psutil does not count the kills in a control group, and does not say whether a process is ending.
Its start time changes with the wall clock. These facts are read from /proc and /sys (proc(5),
cgroups(7)).
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

# For milliseconds after its start, and around an exec, a process has a program and no arguments. A
# process that blanked its arguments never has any.
_PATIENCE_S = 0.5
# PF_EXITING in the kernel's sched.h.
_EXITING = 0x4
_PR_SET_PDEATHSIG = 1
# Loaded at import, because a child between fork and exec must not load libraries: another thread
# may have held the loader's lock at the fork.
_LIBC = ctypes.CDLL(None)
CPUS_VARIABLE = "SLURM_CPUS_PER_TASK"
"""The variable with the cores of a Slurm job, which is passed into its container."""


def command_line(pid: int | str) -> bytes:
    """Return the arguments, each ended by a zero byte; empty for no such process."""
    deadline = time.monotonic() + _PATIENCE_S
    try:
        process = psutil.Process(int(pid))
        while True:
            arguments = process.cmdline()
            # A kernel thread has no program, and never gets arguments.
            if arguments or time.monotonic() > deadline or not process.exe():
                return b"".join(os.fsencode(argument) + b"\0" for argument in arguments)
            time.sleep(0.002)
    except (ValueError, psutil.Error):  # not a number, or the process has ended
        return b""


def environment(pid: int | str) -> dict[str, str]:
    """Return the variables of a process at its start; empty for no such process."""
    try:
        return dict(psutil.Process(int(pid)).environ())
    except (ValueError, psutil.Error):
        return {}


def pids() -> list[str]:
    """Return the numbers of all processes, in order."""
    return [str(pid) for pid in psutil.pids()]


def children(pid: int | str) -> list[str]:
    """Return the numbers of the child processes; empty for no such process."""
    # `psutil.Process.children` raises where other users' processes cannot be read (hidepid=1).
    found = psutil.process_iter(["ppid"])
    return [str(child.pid) for child in found if str(child.info["ppid"]) == str(pid)]


def parents(pid: int | str) -> list[str]:
    """Return a process's parent, the parent of that process, and so on."""
    found: list[str] = []
    with suppress(ValueError, psutil.Error):  # one has ended: those found before it count
        process = psutil.Process(int(pid)).parent()
        while process is not None:
            found.append(str(process.pid))
            process = process.parent()
    return found


def process_identity(pid: int | str) -> str | None:
    """Return what distinguishes a process from a later one with the same pid.

    It is the boot, and the clock ticks from the boot to the process's start.
    `psutil.Process.create_time` uses the boot's time of day instead, which changes when the
    machine's clock is set.

    Returns:
        The identity; None if there is no such process.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # starttime (22), in clock ticks since the boot
        return f"{boot} {_stat(Path(f'/proc/{int(pid)}'))[19]}"
    except (OSError, ValueError):
        return None


def is_dying(pid: int | str) -> bool:
    """Return whether a process is ending, was killed (SIGKILL), or does not exist."""
    folder = Path(f"/proc/{pid}")
    try:
        if int(_stat(folder)[6]) & _EXITING:  # flags (9)
            return True
        lines = (folder / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError, IndexError):
        return True  # it has ended meanwhile
    pending = [
        int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd:", "ShdPnd:"))
    ]
    return any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending)


def group_lives(leader: int) -> bool:
    """Return whether a process group has a process that has not ended.

    One that has ended and was not reaped does not count, unless it has threads left (proc(5)).
    """
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    for pid in pids():
        with suppress(OSError):
            fields = _stat(Path(f"/proc/{pid}"))
            # state (3), ppid, pgrp (5), ..., num_threads (20)
            ended = fields[0] in "ZX" and int(fields[17]) <= 1
            if int(fields[2]) == leader and not ended:
                return True
    return False


def _stat(folder: Path) -> list[str]:
    """Return the fields of a process's ``stat`` from state (3) on.

    They follow the program's name, which may hold spaces and brackets.
    """
    text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()


def end_process(pid: int, patience: float) -> None:
    """Send SIGTERM, and SIGKILL if the process has not ended after ``patience``.

    Args:
        pid: The process.
        patience: Seconds.
    """
    deadline = time.monotonic() + patience
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while command_line(pid):  # empty once it has ended, also for a zombie
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.05)


def cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process and its living descendants.

    Inner PID namespaces are included.
    """
    started: dict[int | None, list[int]] = {}
    used: dict[int, float] = {}
    for process in psutil.process_iter(["ppid", "cpu_times"]):
        started.setdefault(process.info["ppid"], []).append(process.pid)
        if times := process.info["cpu_times"]:  # None for a process that may not be read
            used[process.pid] = times.user + times.system
    total, waiting = 0.0, [pid]
    while waiting:
        one = waiting.pop()
        total += used.get(one, 0.0)
        waiting += started.get(one, [])
    return total


def usable_cpus(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")) -> int:
    """Return the cores that this process may use.

    It is the least of the process's affinity, Slurm's count (Slurm may bind no cores), and the
    quota of processor time of its control group, version 2, and those above it.
    """
    limits = [len(os.sched_getaffinity(0))]
    given = os.environ.get(CPUS_VARIABLE, "")
    if given.isdecimal():
        limits.append(int(given))
    with suppress(OSError):
        for line in of.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            place = root / path.lstrip("/")
            for group in [place, *place.parents] if not controllers else []:
                if group.is_relative_to(root) and (cores := _quota(group)):
                    limits.append(cores)
    return min(limit for limit in limits if limit > 0)


def job_cpus(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that tells a container the cores of its Slurm job.

    The result is empty outside a Slurm job.
    """
    return {name: environment[name] for name in (CPUS_VARIABLE,) if name in environment}


def _quota(group: Path) -> int:
    """Return the cores of a control group's quota, rounded up; 0 without one."""
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return 0


def oom_kills(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")) -> int:
    """Return the kernel's count of kills in this process's memory control group.

    It is 0 if unknown.
    """
    try:
        lines = of.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    count = 0
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            count += _count(root / path.lstrip("/") / "memory.events", "oom_kill")
        elif "memory" in controllers.split(","):
            count += _count(root / "memory" / path.lstrip("/") / "memory.oom_control", "oom_kill")
    return count


def _count(file: Path, name: str) -> int:
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(" ")
            if key == name and value.strip().isdigit():
                return int(value)
    except OSError:
        return 0
    return 0


def die_with_parent(sent: int = signal.SIGTERM) -> None:
    """Let the kernel send this process a signal if its parent dies (prctl(2))."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, sent)
