"""Write tables as Parquet or CSV to open files.

Polars writes in threads of its own. Given an object of Python, such as `io.BytesIO`, they call
Python for each part of the table. Given a file of the operating system they take its descriptor. So
everything here goes through such a file.

Those threads also read variables of the environment (Polars 2.1.0). No other thread may add one
meanwhile: glibc (2.36) may then free the list that they read, and the process ends with a
segmentation fault.

Polars turns most errors of the operating system into errors of its own, without a number. The
number stands in the text of most, and they are raised as `OSError` again. Others say nothing: a
full disk may be "Invalid thrift: transport error" (Polars 2.1). After such an error the table is
made in memory and written from there, which fails with the error of the operating system.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

from agenttts.files.atomic import atomic_write

if TYPE_CHECKING:  # Polars takes a tenth of a second to import
    from pathlib import Path

    import polars as pl

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def write_parquet(frame: pl.DataFrame, stream: BinaryIO, **options: Any) -> None:
    """Write a table as Parquet; ``options`` are those of Polars.

    Raises:
        OSError: The stream cannot be written to.
    """
    _write(lambda file: frame.write_parquet(file, **options), stream)


def write_csv(frame: pl.DataFrame, stream: BinaryIO) -> None:
    """Write a table as CSV in UTF-8.

    Raises:
        OSError: The stream cannot be written to.
    """
    _write(frame.write_csv, stream)


def atomic_write_parquet(path: Path, frame: pl.DataFrame, **options: Any) -> None:
    """`atomic_write` of a table as Parquet; ``options`` are those of Polars."""
    atomic_write(path, lambda stream: write_parquet(frame, stream, **options))


def _write(write: Callable[[BinaryIO], object], stream: BinaryIO) -> None:
    try:
        stream.fileno()
    except io.UnsupportedOperation:  # an object of Python
        with tempfile.TemporaryFile() as file:
            _write(write, file)
            file.seek(0)
            shutil.copyfileobj(file, stream)
        return
    from polars.exceptions import PolarsError

    stream.flush()
    start = stream.tell() if stream.seekable() else None
    try:
        write(stream)
    except (PolarsError, OSError) as error:
        number = _SYSTEM_ERROR.search(str(error))
        if number is not None:
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        if start is None or isinstance(error, OSError):
            raise
        # Threads of Polars call Python now, which is slow, and happens only here. A file in memory
        # (memfd_create(2)) would fail as well where the size of files is limited.
        content = io.BytesIO()
        write(content)  # a fault of the table is raised again
        stream.seek(start)
        stream.truncate()
        stream.write(content.getbuffer())
        stream.flush()
