"""The scratch directory of one run, removed even if the caller was killed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path

from agenttts.files.locks import LockResult, try_lock
from agenttts.files.temporary import temporary_directory

_PREFIX = "agenttts-run-"
# A directory that has just been made is not locked yet, so only older ones count as left behind.
_STALE_SECONDS = 3600.0


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory for one run, locked while it is in use and removed afterwards.

    Raises:
        OSError: It cannot be made.
    """
    place = temporary_directory()
    _remove_stale(place)
    base = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    lock = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some network file systems cannot lock a directory: `remove_stale` removes nothing there.
        with suppress(OSError):
            try_lock(lock)
        yield base
    finally:
        os.close(lock)
        # A file that cannot be removed must not hide the run's outcome.
        with suppress(OSError):
            remove_tree(base)


def remove_stale(folder: Path) -> None:
    """Remove what killed callers left below ``folder`` an hour ago or earlier.

    A directory in use is locked and stays.
    """
    for base in folder.glob(_PREFIX + "*"):
        with suppress(OSError):  # another user's, in use, or removed meanwhile by someone else
            if base.is_symlink() or time.time() - base.stat().st_mtime < _STALE_SECONDS:
                continue
            lock = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if try_lock(lock) is LockResult.ACQUIRED:
                    remove_tree(base)
            finally:
                os.close(lock)


@cache
def _remove_stale(folder: Path) -> None:
    """Once a process."""
    remove_stale(folder)


def remove_tree(base: Path) -> None:
    """Remove a directory of any depth, with any modes.

    It needs no recursion and no path longer than two names. (`shutil.rmtree` ends at Python's
    recursion limit.) What lies two levels down is moved up, until all is flat.
    """
    numbers = count()
    top = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        while names := _names(top):
            for name in names:
                if not _unlinked(name, top):
                    _flatten(name, top, numbers)
    finally:
        os.close(top)
    base.rmdir()


def _flatten(name: str, top: int, numbers: Iterator[int]) -> None:
    os.chmod(name, 0o700, dir_fd=top)
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    try:
        for inner in _names(folder):
            if not _unlinked(inner, folder):
                os.chmod(
                    inner, 0o700, dir_fd=folder
                )  # a directory is only moved by who may write to it
                moved = f"{os.getpid()}-{next(numbers)}"
                while _exists(moved, top):
                    moved = f"{os.getpid()}-{next(numbers)}"
                os.rename(inner, moved, src_dir_fd=folder, dst_dir_fd=top)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as listing:
        return [entry.name for entry in listing]


def _unlinked(name: str, folder: int) -> bool:
    """Remove it unless it is a directory."""
    try:
        os.unlink(name, dir_fd=folder)
    except (
        IsADirectoryError,
        PermissionError,
    ):  # as unlink(2) of a directory answers, by Linux and by POSIX
        return False
    return True


def _exists(name: str, folder: int) -> bool:
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True
