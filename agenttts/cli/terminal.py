"""Write to standard output and standard error, whatever their encoding."""

from __future__ import annotations

import codecs
import io
import json
import sys
from typing import Any, TextIO

# Replacements for the characters beyond ASCII that the package prints, for terminals without them.
_PLAIN = {
    "→": "->",
    "×": "x",
    "…": "...",
    "–": "-",
    "—": "-",
    "·": "-",
    "≤": "<=",
    "≥": ">=",
    "±": "+-",
    **dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)),
}
_HANDLER = "agenttts.plain"


def any_terminal(*streams: TextIO) -> None:
    """Let streams write other characters in place of those that their encoding lacks.

    Without this they would raise `UnicodeEncodeError`.
    """
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def json_text(document: Any) -> str:
    """Return a JSON document that standard output takes whole, whatever its encoding."""
    encoding = codecs.lookup(sys.stdout.encoding or "utf-8").name
    text = json.dumps(document, ensure_ascii=encoding != "utf-8", default=str)
    # Halves of surrogate pairs (from bytes in file names) cannot be encoded in UTF-8, so they are
    # escaped.
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
