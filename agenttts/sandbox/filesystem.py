"""The root file system of a sandboxed program: what it may see, and the one directory it may write to.

The mount points are made as ordinary directories before any namespace exists (`prepare`), because a process whose user
id has no place in its user namespace (root in a container without capabilities) may mount there but not make files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from agenttts.sandbox import system

ROOT, PROGRAM = "root", "program"
"""Folders of a run's scratch directory: the mount points, and the program's own files (``/program`` inside)."""

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
    """Make the mount points under ``base``: the system's, and of the directories ``shown`` (the interpreter's)."""
    root = base / ROOT
    for folder in (root, base / PROGRAM, root / PROGRAM, root / "proc", root / "dev", root / "etc"):
        folder.mkdir(exist_ok=True)
    for path in _visible(shown):
        place = root / path.relative_to("/")
        if _is_link(path):
            place.symlink_to(path.readlink())
        elif path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()


def enter(base: Path, shown: Sequence[Path]) -> None:
    """Make the prepared directories this process's root, in a mount namespace of its own."""
    system.unshare(system.CLONE_NEWNS)
    system.mount("none", "/", "", system.MS_REC | system.MS_PRIVATE)
    root = base / ROOT
    system.mount(str(root), str(root), "", system.MS_BIND | system.MS_REC)
    for path in _visible(shown):
        if not _is_link(path):
            _bind(path, root / path.relative_to("/"))
    _bind(base / PROGRAM, root / PROGRAM)
    # A /proc of its own process tree. Where the kernel grants none (parts of the outer one are hidden), none at all.
    with suppress(OSError):
        flags = system.MS_NOSUID | system.MS_NODEV | system.MS_NOEXEC
        system.mount("proc", str(root / "proc"), "proc", flags)
    writable = {str(root / PROGRAM), str(root / "proc")}
    for place in _mounts_under(str(root)):
        if place not in writable:
            _make_read_only(place)
    system.pivot_root(str(root))


def _visible(shown: Sequence[Path]) -> list[Path]:
    """What of the machine is seen inside, read-only."""
    paths = [Path(p) for p in (*_SYSTEM, *_DEVICES) if Path(p).exists()]
    for path in shown:
        if not any(path.is_relative_to(other) for other in paths):
            paths.append(path)
    return paths


def _is_link(path: Path) -> bool:
    """Whether to show a link as a link: /bin, where it is usr/bin. Others may lead to what is not shown."""
    return str(path) in _SYSTEM and path.is_symlink()


def _bind(source: Path, target: Path) -> None:
    # Recursive: in a new user namespace, what is mounted below a directory may not be uncovered.
    system.mount(str(source), str(target), "", system.MS_BIND | system.MS_REC)


def _make_read_only(place: str) -> None:
    """Remount; flags that the outer namespace has set are locked, and must be named again."""
    flags = os.statvfs(place).f_flag
    # These have one value in statvfs(3) and mount(2); relatime has two.
    kept = flags & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)
    kept |= system.MS_RELATIME if flags & os.ST_RELATIME else 0
    change = system.MS_REMOUNT | system.MS_BIND | system.MS_RDONLY | system.MS_NOSUID
    system.mount("none", place, "", change | kept)


def _mounts_under(root: str) -> Iterable[str]:
    """Mount points at or below ``root``, from /proc/self/mountinfo (proc(5)); octal escapes undone."""
    places = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        place = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split()[4])
        if place == root or place.startswith(root + "/"):
            places.append(place)
    return places
