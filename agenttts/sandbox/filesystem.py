"""The root file system of a sandboxed program.

The program sees parts of the machine read-only, and may write to its directory and to a /dev/shm of
its own, where the C library keeps semaphores and shared memory. The mount points are made as
ordinary directories before any namespace exists (`prepare`). A process whose user id is not mapped
in its user namespace (root in a container without capabilities) may mount there but not make files.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from agenttts.sandbox import system
from agenttts.sandbox.base import MB

ROOT, PROGRAM = "root", "program"
"""Folders of a run's scratch directory.

They are the mount points, and the program's own files (``/program`` inside).
"""

_STORE = "store"
"""One more, where the file system in memory is mounted."""

WRITABLE = {PROGRAM: PROGRAM, "shm": "dev/shm"}
"""The folders that the program may write to, with their places below its root."""

MOST_ENTRIES = 5_000
"""Files and directories that a program may have at a time."""

SHOWN_CPUS = 4
"""The number of CPUs that a program is told.

A pool has as many processes, and each has threads: those for all cores of a node would pass the
limit of processes.
"""
_CPU_LIST = "sys/devices/system/cpu/online"
"""The file in which the C library looks up the number of CPUs (get_nprocs(3))."""

_SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/alternatives",
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def prepare(base: Path, shown: Sequence[Path]) -> None:
    """Make the mount points under ``base``.

    They belong to the system and to the directories ``shown`` (the interpreter's).
    """
    root = base / ROOT
    for folder in (root, base / _STORE, root / "proc", root / "dev", root / "etc"):
        folder.mkdir(exist_ok=True)
    for name, inside in WRITABLE.items():
        (base / name).mkdir(exist_ok=True)
        (root / inside).mkdir(exist_ok=True)
    (root / _CPU_LIST).parent.mkdir(parents=True, exist_ok=True)
    (root / _CPU_LIST).write_text(f"0-{SHOWN_CPUS - 1}\n", encoding="ascii")
    for path in _visible(shown):
        place = root / path.relative_to("/")
        if _is_link(path):
            place.symlink_to(path.readlink())
        elif path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()


def give_memory(base: Path, megabytes: int) -> Path | None:
    """Mount a bounded file system in memory, with a copy of the program's files.

    The mount is in a new mount namespace. The program's /dev/shm is part of the file system, so
    that one bound holds for both.

    Returns:
        Where this process sees it. None if the kernel grants no writable one (for a process whose
        user id is not mapped in its user namespace, see the module). `enter` then shows the
        directories themselves, which have no bound of their own.

    Raises:
        OSError: The files alone are too large (ENOSPC).
    """
    _own_mounts()
    place = base / _STORE
    flags = system.MS_NOSUID | system.MS_NODEV
    # Entries are bounded too, because each takes a kilobyte of the kernel's memory, which ``size``
    # does not bound.
    data = f"size={megabytes * MB},nr_inodes={MOST_ENTRIES},mode=700"
    try:
        system.mount("tmpfs", str(place), "tmpfs", flags, data)
    except OSError:
        return None
    try:
        for name in WRITABLE:
            (place / name).mkdir()
            _copy(base / name, place / name)
    except OSError as error:
        system.unmount(str(place))
        if error.errno == errno.ENOSPC:
            raise
        return None
    return place


def is_full(place: Path) -> bool:
    """Return whether a bounded file system has no byte or no entry left."""
    state = os.statvfs(place)
    return state.f_bfree == 0 or state.f_ffree == 0


def enter(base: Path, shown: Sequence[Path], *, has_memory: bool) -> None:
    """Make the prepared directories this process's root, in a new mount namespace."""
    _own_mounts()
    root = base / ROOT
    system.mount(str(root), str(root), "", system.MS_BIND | system.MS_REC)
    for path in _visible(shown):
        if not _is_link(path):
            _bind(path, root / path.relative_to("/"))
    for name, place in WRITABLE.items():
        _bind((base / _STORE if has_memory else base) / name, root / place)
    # A /proc of the program's own process tree. If the kernel grants none (because parts of the
    # outer one are hidden), there is none. It is read-only, because a process that is root outside
    # owns the machine's settings in it, and an owner needs no capability to write.
    with suppress(OSError):
        flags = system.MS_NOSUID | system.MS_NODEV | system.MS_NOEXEC | system.MS_RDONLY
        system.mount("proc", str(root / "proc"), "proc", flags)
    writable = {str(root / place) for place in WRITABLE.values()}
    for mount in _mounts_under(str(root)):
        if mount not in writable:
            _make_read_only(mount)
    system.pivot_root(str(root))


def _own_mounts() -> None:
    system.unshare(system.CLONE_NEWNS)
    system.mount("none", "/", "", system.MS_REC | system.MS_PRIVATE)


def _copy(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir()
        else:
            place.write_bytes(path.read_bytes())


def _visible(shown: Sequence[Path]) -> list[Path]:
    """Return the paths of the machine that are visible inside, read-only."""
    paths = [Path(p) for p in (*_SYSTEM, *_DEVICES) if Path(p).exists()]
    for path in shown:
        if not any(path.is_relative_to(other) for other in paths):
            paths.append(path)
    return paths


def _is_link(path: Path) -> bool:
    """Return whether to show a link as a link, e.g. /bin, which is usr/bin.

    Other links may lead to paths that are not shown.
    """
    return str(path) in _SYSTEM and path.is_symlink()


def _bind(source: Path, target: Path) -> None:
    # Recursive, because in a new user namespace the mounts below a directory may not be uncovered.
    system.mount(str(source), str(target), "", system.MS_BIND | system.MS_REC)


def _make_read_only(place: str) -> None:
    """Mount again as read-only.

    Flags that the outer namespace has set are locked, and must be given again.
    """
    flags = os.statvfs(place).f_flag
    # These flags have the same value in statvfs(3) and mount(2); relatime has two values.
    kept = flags & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)
    kept |= system.MS_RELATIME if flags & os.ST_RELATIME else 0
    change = system.MS_REMOUNT | system.MS_BIND | system.MS_RDONLY | system.MS_NOSUID
    system.mount("none", place, "", change | kept)


def _mounts_under(root: str) -> Iterable[str]:
    """Yield the mount points at or below ``root``.

    They are read from /proc/self/mountinfo (proc(5)), with octal escapes decoded.
    """
    places = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        place = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split()[4])
        if place == root or place.startswith(root + "/"):
            places.append(place)
    return places
