"""What Linux says of this machine's processes (proc(5)) and of the group they run in (cgroups(7))."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# A process that another program is about to replace, or that has just been started, has a program and no arguments yet, for
# milliseconds; one that blanked its arguments has none for good.
_PATIENCE_S = 0.5
# PF_EXITING of the kernel's sched.h.
_EXITING = 0x4


def command_line(pid: int | str) -> bytes:
    """A process's command line, its arguments ended by zero bytes; empty when there is no such process."""
    try:
        folder = Path(f"/proc/{int(pid)}")
    except ValueError:
        return b""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            command = (folder / "cmdline").read_bytes()
            if command or time.monotonic() > deadline:
                return command
            # Fails for a thread of the kernel and for a process that has ended: neither will have arguments.
            (folder / "exe").readlink()
        except OSError:
            return b""
        time.sleep(0.002)


def pids() -> list[str]:
    """The numbers of all processes, in order."""
    found = (entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return sorted(found, key=int)


def process_identity(pid: int | str) -> str | None:
    """What tells a process from a later one with the same pid: the boot and the moment of its start; None without it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {_stat(Path(f'/proc/{int(pid)}'))[19]}"  # starttime (22), in clock ticks since the boot
    except (OSError, ValueError):
        return None


def is_dying(pid: int | str) -> bool:
    """Whether a process has been killed (SIGKILL) or is ending, and only looks alive until the kernel has cleared it away."""
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


def _stat(folder: Path) -> list[str]:
    """The fields of a process's ``stat`` behind its program's name, which may hold spaces and brackets: from state (3) on."""
    text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()


def parents(pid: int | str) -> Iterator[str]:
    """A process's parent, that one's parent, and so on."""
    while True:
        try:
            pid = _stat(Path(f"/proc/{pid}"))[1]
        except OSError:  # ended meanwhile
            return
        if pid == "0":
            return
        yield pid


def end_process(pid: int, patience: float) -> None:
    """SIGTERM, and SIGKILL when it has not ended within ``patience`` seconds."""
    deadline = time.monotonic() + patience
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while command_line(pid):  # none once it has ended, a zombie's included
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.05)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and its living descendants have used, those of inner PID namespaces included."""
    children: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = _stat(entry)  # parent (4), utime and stime (14, 15)
        except OSError:  # ended meanwhile
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
        used[int(entry.name)] = int(fields[11]) + int(fields[12])
    total, waiting = 0.0, [pid]
    while waiting:
        one = waiting.pop()
        total += used.get(one, 0.0)
        waiting += children.get(one, [])
    return total / os.sysconf("SC_CLK_TCK")


def oom_kills(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")) -> int:
    """How many processes the kernel has killed in this process's memory control group, 0 where it does not say."""
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
