"""The log of a trial over all its attempts: an attempt's part of it, and its end."""

from __future__ import annotations

import os
import re
from pathlib import Path

from agenttts.dispatch.attempts import Attempt

LOG_FILE = "log.txt"
# Length of the end in which causes of a failure are looked for: each worker of an engine prints a
# traceback.
_END_BYTES = 256 * 1024
_LAST_LINES = 5
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def log_of(directory: Path, attempt: Attempt) -> Path:
    """Return the log of an attempt at the trial in ``directory``."""
    return directory / (attempt.log or LOG_FILE)


def log_size(log: Path) -> int:
    """Return the bytes logged so far; 0 if there is no log."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


def read_end(log: Path, start: int = 0) -> str:
    """Return the end of a log from byte ``start`` on, at most 256 KiB.

    It is empty if the log cannot be read.
    """
    try:
        with log.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(min(start, size), size - _END_BYTES))
            return stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def without_escapes(text: str) -> str:
    """Return a text without escape sequences, such as those of colours."""
    return _ESCAPES.sub("", text)


def last_lines(log: Path, text: str) -> str:
    """Return the last lines of an attempt's log and the log's path, for a message."""
    lines = without_escapes(text).strip().splitlines()[-_LAST_LINES:]
    return f"end of {log}: {' | '.join(lines)}" if lines else f"{log} is empty"
