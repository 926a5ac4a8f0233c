"""The content of a data file: uncompressed, and as text."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

from agenttts.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_UNDECODED = re.compile("[\udc80-\udcff]")
"""What ``surrogateescape`` makes of a byte that is not UTF-8."""


def read_content(path: Path) -> bytes:
    """The bytes of a data file, uncompressed where they are gzip's, whatever its name is.

    Raises `UserError` for a file that cannot be read or is not a whole gzip file.
    """
    try:
        raw = path.read_bytes()
        if path.name.endswith(".gz") or raw.startswith(_GZIP_MAGIC):
            raw = gzip.decompress(raw)
        return raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: not a whole gzip file ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def decode(path: Path, content: bytes) -> str:
    """The text of a file's content; `UserError` naming the line when it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8 text ({error.reason})") from None


def decode_leniently(content: bytes) -> str:
    """The text of a file's content, where bytes that are not UTF-8 are left for `undecoded` to
    find.
    """
    return content.decode("utf-8-sig", "surrogateescape")


def undecoded(text: str) -> str:
    """What is wrong with a text of `decode_leniently`: it holds a byte that is not UTF-8; empty
    when it holds none.
    """
    found = _UNDECODED.search(text)
    if found is None:
        return ""
    return f"not UTF-8 text (byte 0x{ord(found[0]) - 0xDC00:02x} at character {found.start() + 1})"
