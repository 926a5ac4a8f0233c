"""Write a file so that readers see the old content or the new, never a part.

The steps in order, with the purpose of each:

1. Make a temporary file in the *same directory* as the target, because a rename is atomic only
   within one file system.
2. The caller writes to it.
3. Flush and fsync it, so that its bytes are on the disk before its name is.
4. Rename it over the target. At this moment readers change from the old content to the new.
5. Fsync the directory, so that the rename itself survives a power cut.

Trade-offs: A write takes two fsyncs (milliseconds on a parallel file system), so it suits results
and markers, not logs. Without steps 3 and 5 (``durable=False``) a kill of the process still leaves
the old content or the new, but after a power cut the file may be empty: for notes of what a process
does at the moment. The target becomes a new inode, so hard links to the old one keep the old
content. A target that is a symbolic link is followed, not replaced. If two processes write at once,
the last to rename wins, with its whole content. A process killed between steps 1 and 4 leaves a
temporary file. It is hidden, ends in `TEMPORARY_SUFFIX`, matches no pattern that this package reads
(`*.parquet`, `*.json`), and is safe to delete.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY_SUFFIX = ".agenttts-tmp"
_MOST_LINKS = 40
"""The most links of one path that are followed, as in Linux (path_resolution(7))."""


def atomic_write(path: Path, write: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Write ``path`` whole or not at all; the module describes the steps.

    If this raises, the target is unchanged and the temporary file is gone.

    Args:
        path: The target.
        write: Gets a binary stream to write the content to.
        durable: Whether the content is on the disk afterwards.

    Raises:
        OSError: The file cannot be written.
        Exception: Whatever ``write`` raises.
    """
    path = path.resolve()
    # The length of a name is limited in bytes (255 on Linux), of which a character may take four.
    name = os.fsencode(path.name)[:100].decode(errors="ignore")
    temporary = path.with_name(f".{name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    try:
        # "x" creates the file with the permissions of the user's umask. The 0600 of tempfile would
        # hide results from the group.
        with temporary.open("xb") as stream:
            write(stream)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a write to an open file
            error.filename = str(path)
        raise
    if durable:
        _sync_directory(path.parent)


def write_output(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write to a place that a user has named, e.g. a pipe, a device or an open file.

    A rename would replace the pipe or device by a file, or the file that ``/dev/stdout`` stands
    for, with what others have written to it. All else is written by `atomic_write`.

    Raises:
        OSError: The place cannot be written to.
        Exception: Whatever ``write`` raises.
    """
    descriptor = _own_descriptor(path)
    if descriptor is not None:
        with os.fdopen(os.dup(descriptor), "wb") as stream:
            write(stream)
    elif path.exists() and not (path.is_file() or path.is_dir()):
        with path.open("wb") as stream:
            write(stream)
    else:
        atomic_write(path, write)


def atomic_write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """`atomic_write` of bytes."""

    def write(stream: BinaryIO) -> None:
        stream.write(content)

    atomic_write(path, write, durable=durable)


def atomic_write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """`atomic_write` of UTF-8 text."""
    atomic_write_bytes(path, text.encode("utf-8"), durable=durable)


def atomic_write_json(
    path: Path, obj: Any, *, indent: int | None = 2, durable: bool = True
) -> None:
    """`atomic_write` of a JSON document.

    Raises:
        ValueError: The document has NaN or infinities, which JSON lacks.
    """
    text = json.dumps(obj, ensure_ascii=False, allow_nan=False, indent=indent) + "\n"
    atomic_write_text(path, text, durable=durable)


def _own_descriptor(path: Path) -> int | None:
    """Return the open file of this process that a path (``/dev/stdout``) means."""
    own = Path("/proc/self/fd").resolve()
    for _ in range(_MOST_LINKS):  # links may lead to each other
        if not path.is_symlink():
            break
        folder = path.parent.resolve()
        if folder == own:
            return int(path.name)
        path = folder / path.readlink()
    return None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems do not support fsync of a directory. The rename has
        # happened all the same.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
    finally:
        os.close(descriptor)
