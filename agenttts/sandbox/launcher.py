"""The process between a trial and a sandboxed program.

It sets the sandbox up, watches the program, ends it and reports how it ended. There are three
processes: this one (in the outer process tree, so that it sees all processes of the program), the
first process of the new tree (PID 1 there: when it exits, the kernel kills every process of the
tree), and the program. This process reads one JSON document from standard input and writes one to
standard output. It uses the standard library alone. The interpreter is started without the caller's
environment.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from agenttts.sandbox import filesystem, seccomp, system
from agenttts.sandbox.base import MB, Limits, Stop
from agenttts.sandbox.watch import Usage, disk_bytes, unlinked_bytes, usage

_POLL_SECONDS = 0.01
_DISK_SECONDS = 0.2
_INNER_ID = 1000
_USER = "user"
# Programs have a lower priority than the process that watches them. The kernel does not limit the
# number of root's processes. A fork bomb at equal priority made thousands of processes before the
# watcher stopped it (2026-11). See also `_watch_in_real_time`.
_NICENESS = 15
# Of these the machine has none left at the moment; they are no refusal. A kernel refuses by others.
_USED_UP = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
)


class _Refused(Exception):
    """The machine does not allow the sandbox; no program has come to its end.

    Args:
        why: What it does not allow.
        fix: What helps, if it is not what helps with the kernel's refusals.
    """

    def __init__(self, why: str, fix: str | None = None) -> None:
        super().__init__(why)
        self.fix = fix


def main() -> None:
    """Run one program; see the module."""
    task = json.load(sys.stdin)
    limits = Limits(**task["limits"])
    base, shown = Path(task["base"]), [Path(path) for path in task["shown"]]
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        report = _supervise(base, shown, task["command"], limits)
    except _Refused as error:
        report = {"refused": str(error), "fix": error.fix}
    except OSError as error:
        report = _failure(error)
    json.dump(report, sys.stdout)


def _supervise(
    base: Path, shown: list[Path], command: list[str], limits: Limits
) -> dict[str, object]:
    filesystem.prepare(base, shown)
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    _watch_in_real_time()
    _enter_namespaces()
    try:
        memory = filesystem.give_memory(base, limits.disk_mb)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return {"exit_code": None, "stopped": "disk", "seconds": 0.0}
    status_in, status_out = os.pipe()
    # The pipe is held open and never written to, so that a program that reads its input waits.
    stdin_in, _stdin_out = os.pipe()
    # The program must not read process 1 through /proc, above all its open files. Process 1
    # inherits this, so that it is as visible here from its start as it will be.
    system.prctl(system.PR_SET_DUMPABLE, 0)
    started = time.monotonic()
    first = os.fork()
    if first == 0:
        # Processes that one in real time starts have the niceness 0, not the job's.
        os.nice(max(0, niceness - os.getpriority(os.PRIO_PROCESS, 0)))
        _first_process(base, shown, command, limits, memory is not None, stdin_in, status_out)
    os.close(status_out)
    os.close(stdin_in)
    disk_is_full = _disk_check(first, base, memory, limits)
    hidden = usage(first, 1).processes == 0 and not _ended(first)
    stop = None if hidden else _watch(first, disk_is_full, limits, started)
    with suppress(ProcessLookupError):
        os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    if hidden:
        raise _Refused(
            "/proc hides processes (hidepid), so that a program could not be watched",
            fix="run the trials in a container, or on nodes whose /proc is mounted without hidepid",
        )
    seconds = time.monotonic() - started
    with os.fdopen(status_in) as stream:
        status = json.loads(stream.read() or "{}")
    if "refused" in status:
        raise _Refused(status["refused"])
    if "error" in status:
        raise OSError(*status["error"])
    return {
        "exit_code": None if stop else status.get("exit_code"),
        "stopped": stop,
        "seconds": seconds,
    }


def _failure(error: OSError) -> dict[str, object]:
    """Return what to report of an error that kept the program from running."""
    if error.errno in _USED_UP:
        return {"error": [error.errno, error.strerror, error.filename]}
    return {"refused": str(error)}


def _watch_in_real_time() -> None:
    """Let this process, but not those that it starts, run before all ordinary ones.

    Root's fork bomb, which no limit of the kernel stops, once outran the watcher on a busy machine
    in spite of its lower priority: its processes took 43 s to end (2026-11). Other users may not do
    this, and the kernel limits the number of their processes.
    """
    policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    with suppress(OSError):
        os.sched_setscheduler(0, policy, os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO)))


def _enter_namespaces() -> None:
    """Enter new user, process, network and IPC namespaces.

    The process itself stays in its process tree.
    """
    user, group = os.getuid(), os.getgid()
    try:
        system.unshare(
            system.CLONE_NEWUSER | system.CLONE_NEWPID | system.CLONE_NEWNET | system.CLONE_NEWIPC
        )
    except OSError as error:
        raise _Refused(f"the kernel does not allow user namespaces ({error.strerror})") from error
    # Root without capabilities may not map any id, and does not need to: the program then has the
    # id "nobody".
    with suppress(PermissionError):
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{_INNER_ID} {user} 1")
        _write("/proc/self/gid_map", f"{_INNER_ID} {group} 1")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _first_process(
    base: Path,
    shown: list[Path],
    command: list[str],
    limits: Limits,
    has_memory: bool,
    stdin: int,
    status: int,
) -> NoReturn:
    """Run as process 1 of the new tree: start the program, report how it ended."""
    result: dict[str, object] = {}
    try:
        system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
        out = os.open(base / "stdout", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        err = os.open(base / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        filesystem.enter(base, shown, has_memory=has_memory)
        system.drop_capabilities()
        program = os.fork()
        if program == 0:
            _program(command, limits, stdin, out, err)
        while True:
            pid, how = os.wait()
            if pid == program:
                result = {"exit_code": os.waitstatus_to_exitcode(how)}
                break
    except OSError as error:
        result = _failure(error)
    finally:
        os.write(status, json.dumps(result).encode())
        os._exit(0)


def _program(command: list[str], limits: Limits, stdin: int, out: int, err: int) -> NoReturn:
    try:
        os.setsid()
        for target, descriptor in enumerate((stdin, out, err)):
            os.dup2(descriptor, target)
        os.closerange(3, 1 << 16)
        os.umask(0o077)
        os.chdir(f"/{filesystem.PROGRAM}")
        os.nice(_NICENESS)
        _limit(limits)
        seccomp.install()
        os.execve(command[0], command, _environment())
    except BaseException as error:
        os.write(2, f"the program could not be started: {error}\n".encode())
        os._exit(127)


def _environment() -> dict[str, str]:
    home = f"/{filesystem.PROGRAM}"
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        # There is no /etc/passwd, in which getpass.getuser() would look next.
        "USER": _USER,
        "LOGNAME": _USER,
        # One thread: otherwise a numeric library would start one for each core of the node.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _limit(limits: Limits) -> None:
    bounds = {
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_AS: limits.memory_mb * MB,
        resource.RLIMIT_FSIZE: limits.file_mb * MB,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if _processes_count_by_namespace():
        bounds[resource.RLIMIT_NPROC] = limits.processes
    for what, bound in bounds.items():
        resource.setrlimit(what, (bound, bound))


def _processes_count_by_namespace() -> bool:
    """Return whether the limit of processes counts by namespace (Linux 5.14 on).

    Before, the limit counts all of the user's processes on the node, engines included.
    """
    major, minor = platform.release().split(".")[:2]
    return (int(major), int("".join(c for c in minor if c.isdigit()) or 0)) >= (5, 14)


def _disk_check(first: int, base: Path, memory: Path | None, limits: Limits) -> Callable[[], bool]:
    """Return a function that says whether the program has used up its disk.

    The kernel says it if it bounds the disk; otherwise the files are counted.
    """
    if memory is not None:
        return lambda: filesystem.is_full(memory)
    bound = limits.disk_mb * MB
    folders = [base / name for name in filesystem.WRITABLE]

    def counted() -> bool:
        named = sum(disk_bytes(folder, bound) for folder in folders)
        return named + unlinked_bytes(first, limits.processes + 1) > bound

    return counted


def _watch(
    first: int, disk_is_full: Callable[[], bool], limits: Limits, started: float
) -> Stop | None:
    """Wait for process 1 to end.

    The kernel does not limit totals, so they are polled.

    Returns:
        The limit that was passed; None if none was.
    """
    last, last_change, next_disk = Usage(0, 0, 0, False), started, started + _DISK_SECONDS
    while True:
        if _ended(first):
            return "disk" if disk_is_full() else None
        now = time.monotonic()
        enough = limits.processes + 1  # process 1 is not the program's
        current = usage(first, enough)
        if current.processes > enough:
            return "processes"
        if current.memory > limits.memory_mb * MB:
            return "memory"
        if now - started > limits.seconds:
            return "time"
        if current.ticks != last.ticks or not current.asleep:
            last, last_change = current, now
        elif now - last_change > limits.idle_seconds:
            return "idle"
        if now > next_disk:
            next_disk = now + _DISK_SECONDS
            if disk_is_full():
                return "disk"
        time.sleep(_POLL_SECONDS)


def _ended(pid: int) -> bool:
    """Return whether a child has ended, without reaping it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
