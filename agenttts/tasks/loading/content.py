"""The content of a data file: uncompressed, and as text."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

from agenttts.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_UNDECODED = re.compile("[\udc80-\udcff]")
"""The characters that ``surrogateescape`` makes of bytes that are not UTF-8."""


def read_content(path: Path) -> bytes:
    """Return the bytes of a data file; gzip is uncompressed, whatever the file's name.

    Raises:
        UserError: The file cannot be read, or is not a whole gzip file.
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
    """Return the text of a file's content.

    Raises:
        UserError: The content is not UTF-8; the message names the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8 text ({error.reason})") from None


def decode_leniently(content: bytes) -> str:
    """Return the text of a file's content, with bytes that are not UTF-8 escaped.

    `undecoded` finds the escaped bytes.
    """
    return content.decode("utf-8-sig", "surrogateescape")


def undecoded(text: str) -> str:
    """Return what is wrong with a text of `decode_leniently`; empty if nothing is.

    A text is wrong if it holds a byte that is not UTF-8.
    """
    found = _UNDECODED.search(text)
    if found is None:
        return ""
    return f"not UTF-8 text (byte 0x{ord(found[0]) - 0xDC00:02x} at character {found.start() + 1})"
