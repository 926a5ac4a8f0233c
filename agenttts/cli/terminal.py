"""Writing to whatever standard output and error are: not every terminal takes every character."""

from __future__ import annotations

import codecs
import io
import json
import sys
from typing import Any, TextIO

# What the package prints beyond ASCII, as a terminal without it shows it.
_PLAIN = {"→": "->", "×": "x", "…": "...", "–": "-", "—": "-", "·": "-", "≤": "<=", "≥": ">=", "±": "+-"}  # fmt: skip
_HANDLER = "agenttts.plain"


def any_terminal(*streams: TextIO) -> None:
    """Have streams write what their encoding lacks in other characters, where they would raise
    `UnicodeEncodeError`.
    """
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def json_text(document: Any) -> str:
    """A JSON document for standard output, which takes all of it whatever its encoding is."""
    encoding = codecs.lookup(sys.stdout.encoding or "utf-8").name
    text = json.dumps(document, ensure_ascii=encoding != "utf-8", default=str)
    # Halves of surrogate pairs (bytes of odd file names) have no UTF-8, but an escape.
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    escape = "".join(
        _PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking
    )
    return escape, error.end


codecs.register_error(_HANDLER, _plain)
