"""Whether this process can read a file, or write into a directory."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

ROOM_BYTES = 2**20
"""Free bytes without which a directory counts as full."""


def read_problem(path: Path) -> OSError | None:
    """Return why a file or directory cannot be read; None if it can.

    A directory must also let its files be opened. The error names the path.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return error
    wanted = os.R_OK | os.X_OK if stat.S_ISDIR(mode) else os.R_OK
    if os.access(path, wanted):
        return None
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def check_readable(path: Path) -> None:
    """Raise the error of `read_problem`."""
    problem = read_problem(path)
    if problem is not None:
        raise problem


def check_room(directory: Path, size: int = ROOM_BYTES) -> None:
    """Write ``size`` bytes into a directory, and remove them.

    Raises:
        OSError: They cannot be written, e.g. because the disk is full or the quota is used up.
    """
    try:
        with tempfile.TemporaryFile(dir=directory) as stream:
            stream.write(os.urandom(size))  # zeros take no space where files are compressed
            stream.flush()
            os.fsync(stream.fileno())  # some file systems look at quotas only now
    except OSError as error:
        error.filename = str(directory)
        raise
