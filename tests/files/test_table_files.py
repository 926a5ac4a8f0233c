"""Tables in open files: no Python in the threads of Polars, and errors with their numbers."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import polars as pl
import pytest

from agenttts.files.table_files import atomic_write_parquet, write_csv, write_parquet
from tests.support.full_disk import full_disk

MESSAGE = r"^\[Errno \d+\] "
FRAME = pl.DataFrame({"a": range(5_000), "b": [f"é{n}" for n in range(5_000)]})
Write = Callable[[pl.DataFrame, BinaryIO], None]
formats = pytest.mark.parametrize("write", [write_parquet, write_csv])


def read(content: bytes, write: Write) -> pl.DataFrame:
    return pl.read_parquet(content) if write is write_parquet else pl.read_csv(content)


def read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read()


class Watched(io.BytesIO):
    """A stream that notes the threads that write to it."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def write(self, content: object) -> int:
        self.threads.add(threading.get_ident())
        return super().write(content)  # type: ignore[arg-type]


@formats
def test_a_table_follows_what_is_in_the_file(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "table"
    with path.open("wb") as stream:
        stream.write(b"before")
        write(FRAME, stream)
        stream.write(b"after")
    content = path.read_bytes()
    assert content.startswith(b"before")
    assert content.endswith(b"after")
    assert read(content[6:-5], write).equals(FRAME)


@formats
def test_a_stream_of_python_is_written_by_the_calling_thread(write: Write) -> None:
    stream = Watched()
    write(FRAME, stream)
    assert stream.threads == {threading.get_ident()}
    assert read(stream.getvalue(), write).equals(FRAME)


@formats
def test_a_pipe_takes_a_table(write: Write) -> None:
    output, input_ = os.pipe()
    parts: list[bytes] = []
    reader = threading.Thread(target=lambda: parts.append(read_all(output)))
    reader.start()
    with os.fdopen(input_, "wb") as stream:
        write(FRAME, stream)
    reader.join()
    assert read(parts[0], write).equals(FRAME)


@formats
def test_errors_of_the_system_keep_their_numbers(write: Write) -> None:
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(OSError, match=MESSAGE) as raised,
    ):
        write(FRAME, full)
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.strerror == os.strerror(errno.ENOSPC)
    output, input_ = os.pipe()
    os.close(output)
    with os.fdopen(input_, "wb", buffering=0) as closed, pytest.raises(BrokenPipeError):
        write(FRAME, closed)


@formats
def test_a_table_above_the_limit_of_files_is_an_error(tmp_path: Path, write: Write) -> None:
    with (
        (tmp_path / "a").open("wb") as file,
        full_disk(2_000),
        pytest.raises(OSError, match=MESSAGE) as raised,
    ):
        write(FRAME, file)
    assert raised.value.errno == errno.EFBIG


@pytest.mark.parametrize("columns", [1, 30])
def test_a_disk_that_is_full_at_any_byte_is_an_error_of_the_system(
    tmp_path: Path, columns: int
) -> None:
    """Polars says "Invalid thrift: transport error" if it is full at the header of a page."""
    frame = pl.DataFrame({f"c{n}": [[{"a": i, "b": n}] for i in range(9)] for n in range(columns)})
    path = tmp_path / "a.parquet"
    atomic_write_parquet(path, frame)
    size = path.stat().st_size
    for room in [*range(0, size, size // 100), size - 1]:
        with full_disk(room), pytest.raises(OSError, match=MESSAGE) as raised:
            atomic_write_parquet(tmp_path / "b.parquet", frame)
        assert raised.value.errno == errno.EFBIG, room
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_is_written_where_an_error_without_a_cause_has_passed(tmp_path: Path) -> None:
    path = tmp_path / "a"

    class Failing(pl.DataFrame):
        def write_parquet(self, file: BinaryIO, **options: object) -> None:  # type: ignore[override]
            if not isinstance(file, io.BytesIO):
                file.write(b"half a table")
                raise pl.exceptions.ComputeError("Invalid thrift: transport error")
            FRAME.write_parquet(file)

    with path.open("wb") as file:
        file.write(b"before")
        write_parquet(Failing(), file)
        file.write(b"after")
    content = path.read_bytes()
    assert (content[:6], content[-5:]) == (b"before", b"after")
    assert pl.read_parquet(content[6:-5]).equals(FRAME)


def test_parquet_replaces_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    atomic_write_parquet(path, FRAME.head(3))
    atomic_write_parquet(path, FRAME, metadata={"x": "y"})
    assert pl.read_parquet(path).equals(FRAME)
    assert pl.read_parquet_metadata(path)["x"] == "y"
    with full_disk(2_000), pytest.raises(OSError, match=MESSAGE) as raised:
        atomic_write_parquet(path, FRAME.vstack(FRAME))
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(path))
    assert pl.read_parquet(path).equals(FRAME)
    assert list(tmp_path.iterdir()) == [path]


def test_faults_of_a_table_stay_what_they_are(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file, pytest.raises(pl.exceptions.PolarsError):
        write_csv(pl.DataFrame({"a": [[1]]}), file)
