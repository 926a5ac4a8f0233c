"""Standard output that loses lines on a full disk.

A log may be on the file system that a program needs for its results. If that is full, ``print``
raises an error, which would end work that needs no space.

This module imports nothing but Python's own.
"""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from typing import Any


def lose_output_on_full_disk() -> None:
    """Let what this program prints be lost where it cannot be written."""
    sys.stdout, sys.stderr = lossy(1), lossy(2)


def lossy(descriptor: int) -> io.TextIOWrapper:
    """Return a stream to an open file that drops what the file does not take."""
    # At once, as a log is read while its program runs: nothing is left to fail at the end.
    raw = _Lossy(descriptor, "w", closefd=False)
    return io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)


class _Lossy(io.FileIO):
    def write(self, content: Any) -> int:
        """Write the bytes, or drop them."""
        left = memoryview(content).cast("B")
        size = len(left)
        with suppress(OSError):
            while left:
                left = left[super().write(left) or len(left) :]
        return size
