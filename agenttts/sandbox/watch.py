"""The resources that a tree of processes uses, read from /proc (proc(5)).

psutil is not used, because the launcher, which looks every 10 ms, runs without site packages.
"""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from agenttts.sandbox.filesystem import MOST_ENTRIES

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """The resources that a tree of processes uses.

    ``processes`` counts threads. ``memory`` is resident bytes (shared pages count for each
    process). ``ticks`` are CPU clock ticks. ``asleep`` says that no process runs or waits for a
    disk.
    """

    processes: int
    memory: int
    ticks: int
    asleep: bool


def usage(first: int, enough: int) -> Usage:
    """Return the resources of ``first`` and its living descendants.

    The count stops above ``enough`` processes. A program may fork faster than its processes are
    counted, so a complete count would not end.
    """
    processes = memory = ticks = 0
    asleep = True
    for pid in _tree(first):
        # The process has ended meanwhile.
        with suppress(OSError, ValueError, IndexError):
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            fields = stat.rpartition(")")[2].split()
            state = fields[0]
            if state == "Z":
                continue
            processes += int(fields[17])
            ticks += sum(int(field) for field in fields[11:15])
            memory += int(fields[21]) * _PAGE
            asleep &= state == "S"
            if processes > enough:
                break
    return Usage(processes, memory, ticks, asleep)


def disk_bytes(folder: Path, enough: int) -> int:
    """Return the bytes of the files below a folder; an empty file counts as 1 kB.

    The count stops above ``enough``. If a directory cannot be read (its path is too long, or its
    mode was changed), the result is above ``enough``.
    """
    total = entries = 0
    folders = [str(folder)]
    while folders and total <= enough:
        try:
            listing = os.scandir(folders.pop())
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError:
            return enough + 1
        with listing:
            for entry in listing:
                entries += 1
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    # Allocated blocks, not length, because a file may be sparse.
                    total += max(1024, entry.stat(follow_symlinks=False).st_blocks * 512)
                if total > enough or entries > MOST_ENTRIES:
                    return enough + 1
    return total


def unlinked_bytes(first: int, enough: int) -> int:
    """Return the bytes of the open files without a name.

    They are the files that ``first`` and its descendants hold open, for at most ``enough``
    processes. Mapped files are not seen.
    """
    found: dict[tuple[int, int], int] = {}
    for pid in islice(_tree(first), enough):
        with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as listing:
            for entry in listing:
                with suppress(OSError):
                    state = entry.stat()
                    if modes.S_ISREG(state.st_mode) and state.st_nlink == 0:
                        found[state.st_dev, state.st_ino] = state.st_blocks * 512
    return sum(found.values())


def _tree(first: int) -> Iterator[int]:
    children = _children_by_file if _HAS_CHILDREN_FILE else _children_by_search()
    waiting = [first]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children(pid)


def _children_by_file(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def _children_by_search() -> Callable[[int], list[int]]:
    """Return a function that gives the children of a process, from all of /proc.

    For kernels built without CONFIG_PROC_CHILDREN. Every process names its parent.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    return lambda pid: children.get(pid, [])


_HAS_CHILDREN_FILE = Path(f"/proc/self/task/{os.getpid()}/children").exists()
