"""Locks of files (flock(2)), which the kernel releases when their holder ends.

On a file system without locks, `locked` and `is_locked` treat every lock as free. A run may be on
such a file system: the controller's token and the queue then keep processes apart.

Standard library only: the sandbox's launcher imports it in an interpreter without site packages.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

_POLL_S = 0.1
# How long another error, such as one of a network file system, is retried.
_ERROR_PATIENCE_S = 5.0
# The file whose lock is held while the file of a lost lock is removed.
_REMOVAL = ".removal"
# Some file systems answer EACCES for a lock that another process holds.
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
# NFS without a lock service, file systems without flock, and those mounted without it.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class LockResult(Enum):
    """The result of an attempt to lock."""

    ACQUIRED = "acquired"
    BUSY = "busy"
    UNSUPPORTED = "unsupported"


class LockBusy(Exception):
    """Another process has held a lock for too long; ``holder`` is the file's content."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(
            f"{path} is locked by another process ({holder or 'the holder is not known'})"
        )
        self.holder = holder


def try_lock(descriptor: int, *, shared: bool = False) -> LockResult:
    """Try once for the lock of an open file or directory.

    Closing the descriptor releases it. A ``shared`` lock excludes only locks that are not shared.

    Raises:
        OSError: The file system failed, so it is not known whether the lock is free.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return LockResult.BUSY
        if error.errno in _UNSUPPORTED:
            return LockResult.UNSUPPORTED
        raise
    return LockResult.ACQUIRED


def is_locked(path: Path) -> bool:
    """Return whether another process holds the lock of a file.

    It is False if the file does not exist or the file system has no locks.

    Raises:
        OSError: The file system failed, so it is not known.
    """
    try:
        # Shared, so that two processes that ask at once do not take each other for the holder.
        with path.open("rb") as stream:
            result = try_lock(stream.fileno(), shared=True)
            if result is LockResult.ACQUIRED:
                _release(stream.fileno())
            return result is LockResult.BUSY
    except FileNotFoundError:
        return False


@contextmanager
def locked(
    path: Path, patience: float = math.inf, is_lost: Callable[[str], bool] | None = None
) -> Iterator[IO[str]]:
    """Hold the lock of a file.

    The file is created if it does not exist; its directory is not.

    Args:
        path: The file. It stays when the lock is released: removing it would let two processes lock
            two files of one name.
        patience: For how many seconds to wait for another process.
        is_lost: Asked, with the file's content, each time another process holds the lock: whether
            that process is gone with its host. An NFS server keeps the locks of a host that has
            crashed until the host is back. The file is then replaced by a new one, by one of those
            that wait (`_discard`). What it raises ends the wait.

    Yields:
        The open file, for a text that names the holder. Other processes can read the text.

    Raises:
        LockBusy: Another process has not released the lock within ``patience``.
        OSError: The file cannot be opened.
    """
    started = time.monotonic()
    while True:
        with path.open("a+", encoding="utf-8", errors="replace") as stream:
            result = _try_patiently(stream.fileno(), path, started, patience)
            # The file may have been removed, with its directory, while this waited: another process
            # then locks a new file of this name.
            if result is LockResult.UNSUPPORTED or (
                result is LockResult.ACQUIRED and _is_at(path, stream.fileno())
            ):
                try:
                    yield stream
                finally:
                    if result is LockResult.ACQUIRED:
                        _release(stream.fileno())
                return
            if result is LockResult.BUSY:
                stream.seek(0)
                holder = stream.read().strip()
                if is_lost is not None and is_lost(holder):
                    _discard(path, stream.fileno(), holder)
                elif time.monotonic() - started > patience:
                    raise LockBusy(path, holder)
        time.sleep(_POLL_S)


def _release(descriptor: int) -> None:
    """Release a lock before its file is closed.

    A child that another thread starts at this moment has the open file too, until it runs its
    program: closing the file here would leave the lock held so long.
    """
    with suppress(OSError):  # closing the file releases it
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _try_patiently(
    descriptor: int, path: Path, started: float, patience: float
) -> LockResult | None:
    """Return the result of `try_lock`; None after an error, to try again.

    If errors go on for some time, the result is UNSUPPORTED.
    """
    try:
        return try_lock(descriptor)
    except OSError as error:
        if time.monotonic() - started <= min(patience, _ERROR_PATIENCE_S):
            return None
        log.warning("%s cannot be locked (%s); continuing without the lock", path, error.strerror)
        return LockResult.UNSUPPORTED


def _discard(path: Path, descriptor: int, holder: str) -> None:
    """Remove a lost lock's file if it is still the open one, with the same holder.

    Several processes may find the same holder lost. The first replaces the file; the others must
    not remove its new one. So the look and the removal happen under a lock of their own, in a file
    that stays. If that lock cannot be had, nothing is removed, and the caller looks again.
    """
    with path.with_name(f"{path.name}{_REMOVAL}").open("ab") as removal:
        try:
            if try_lock(removal.fileno()) is LockResult.BUSY:
                return
            # Opened, because on NFS only opening a file is sure to find the one of now.
            with path.open(encoding="utf-8", errors="replace") as found:
                same_file = os.path.samestat(os.fstat(found.fileno()), os.fstat(descriptor))
                if same_file and found.read().strip() == holder:
                    path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s of a lost holder was not removed: %s", path, error.strerror)


def write_holder(stream: IO[str], text: str) -> None:
    """Write the holder into the file of a held lock. A full disk is not an error."""
    try:
        # Past the stream's buffer, which would try again when the stream is closed.
        os.ftruncate(stream.fileno(), 0)
        os.write(stream.fileno(), text.encode())
        # Otherwise other hosts of a network file system read the last holder's name for a while.
        os.fsync(stream.fileno())
    except OSError as error:
        log.warning(
            "the holder of the lock could not be written to %s: %s", stream.name, error.strerror
        )


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether a path still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
