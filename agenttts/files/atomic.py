"""Writing a file so that a reader sees the old one or the new one, never a part.

The steps, in order, and what each is for:

1. a temporary file in the *same directory* as the target, since a rename is atomic only within one
  file system;
2. the caller writes to it;
3. flush and fsync, so that its bytes are on the disk before its name is;
4. rename over the target: the one moment at which readers change from old to new;
5. fsync of the directory, so that the rename itself outlives a power cut.

Trade-offs: two fsyncs a write (milliseconds on a parallel file system), so for results and markers,
not for logs; the target becomes a new inode, so hard links to the old one keep the old content, and
a target that is a symbolic link is followed first rather than replaced. Of two writers at once the
last to rename wins, whole. A process killed between 1 and 4 leaves a temporary file behind: hidden,
ending in `TEMPORARY_SUFFIX`, matched by no pattern this package reads (`*.parquet`, `*.json`), and
safe to delete.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:  # Polars takes a tenth of a second to import; writers of text need none of it
    import polars as pl

TEMPORARY_SUFFIX = ".agenttts-tmp"


def atomic_write(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write ``path`` whole or not at all: ``write`` gets a binary stream (see the module for the
    steps).

    Raises whatever ``write`` raises and any `OSError`; the target is then as it was and the
    temporary file is gone.
    """
    path = path.resolve()
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    try:
        # "x" creates with the permissions of the user's umask; tempfile's 0600 would hide results
        # from the group.
        with temporary.open("xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """`atomic_write` of bytes."""

    def write(stream: BinaryIO) -> None:
        stream.write(content)

    atomic_write(path, write)


def atomic_write_text(path: Path, text: str) -> None:
    """`atomic_write` of UTF-8 text."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: Path, obj: Any, *, indent: int | None = 2) -> None:
    """`atomic_write` of a JSON document.

    NaN and infinities, which JSON lacks, raise `ValueError`.
    """
    atomic_write_text(
        path, json.dumps(obj, ensure_ascii=False, allow_nan=False, indent=indent) + "\n"
    )


def atomic_write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """`atomic_write` of a table as Parquet."""
    # In memory first: of what the operating system refuses Polars makes an error of its own,
    # without a number.
    content = io.BytesIO()
    frame.write_parquet(content)
    atomic_write_bytes(path, content.getvalue())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems know no fsync of a directory; the rename has happened
        # all the same.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
    finally:
        os.close(descriptor)
