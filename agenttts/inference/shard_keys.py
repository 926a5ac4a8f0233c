"""Where the samples of each key are in a shard, by the footer of its file.

A reader of many shards reads their footers, not their keys: for 2,048 samples of 128 prompts the
part of the footer is 2 KB. Metadata of a Parquet file are text, so every byte of a record has seven
bits. A reader keeps the records like that and decodes those that it needs (`rows_of`). Shards that
earlier versions wrote do not have this part, and earlier versions ignore it. The pages of a shard
are small, because a reader of some rows decodes whole pages.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

_RUNS = "agenttts.runs.2"
"""The key of the runs in a file's metadata; another form of them gets another number."""
RUN = np.dtype([("hash", "<u8"), ("start", "<u4"), ("length", "<u4")])
"""A run of consecutive rows with one key: `key_hashes` of the key, the first row, and how many.

The numbers have seven bits in each byte (`rows_of`).
"""
ROW_GROUP = 2048
"""Rows of a group: a reader of some rows decodes pages of their groups only."""
PAGE_BYTES = 64 << 10
"""Bytes of a page, before compression.

With 64 KiB, 50 prompts from anywhere in a shard of 100,000 samples take 19 ms, with Polars' default
of 1 MiB 67 ms; the file is 16 % larger (CPU time, Polars 2.1, 2026-11).
"""
_SEVEN_BITS = 0x7F7F7F7F_7F7F7F7F
"""A mask for the seven lower bits of each byte."""
_TAIL_BYTES = 8 << 10
"""Bytes at the end of a file that are read first; few footers are longer.

That of 2,048 samples of 128 prompts has 4 KB. Reading 16 KiB takes 1.4 times as long (2026-11).
"""
_MAGIC_BYTES = 8
"""Bytes after a Parquet file's footer: its length (4 bytes, little-endian) and ``PAR1``."""


def key_hashes(keys: Iterable[str]) -> NDArray[np.uint64]:
    """Return a hash of each key that is the same in all processes and versions.

    Each of its eight bytes has seven bits.
    """
    digests = b"".join(blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, "<u8").astype(np.uint64) & np.uint64(_SEVEN_BITS)


def runs_of(keys: pl.Series) -> NDArray[np.void]:
    """Return the runs of the keys of all rows, as records of `RUN`."""
    runs = keys.rle().struct.unnest()
    return _records(key_hashes(runs["value"].fill_null("")), runs["len"].to_numpy())


def _records(hashes: NDArray[np.uint64], lengths: NDArray[np.uint32]) -> NDArray[np.void]:
    records = np.empty(len(hashes), RUN)
    records["hash"] = hashes
    records["start"] = _in_seven_bits(lengths.cumsum(dtype=np.uint32) - lengths)
    records["length"] = _in_seven_bits(lengths)
    return records


def rows_of(
    starts: NDArray[np.uint32], lengths: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the first rows of runs and the rows after their last ones.

    Args:
        starts: The field ``start`` of runs.
        lengths: The field ``length`` of the same runs.
    """
    first = _from_seven_bits(starts)
    return first, first + _from_seven_bits(lengths)


def shard_options(
    samples: pl.DataFrame, metadata: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the options of Polars' ``write_parquet`` for a shard.

    Args:
        samples: The samples of the shard.
        metadata: Other texts for the footer.
    """
    text = runs_of(samples["key"]).tobytes().decode("ascii")
    return {
        "row_group_size": ROW_GROUP,
        "data_page_size": PAGE_BYTES,
        "metadata": {**(metadata or {}), _RUNS: text},
    }


def footer_of(shard: str | Path) -> bytes:
    """Return the end of a file, with the whole footer if it is a Parquet file.

    Raises:
        OSError: The file cannot be read.
    """
    descriptor = os.open(shard, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        length = int.from_bytes(tail[-_MAGIC_BYTES:-4], "little") + _MAGIC_BYTES
        if len(tail) < length <= size:
            tail = os.pread(descriptor, length, size - length)
    finally:
        os.close(descriptor)
    return tail


def is_whole(shard: Path) -> bool:
    """Return whether a file begins and ends as a whole Parquet file does.

    Raises:
        OSError: The file cannot be read.
    """
    with shard.open("rb") as file:
        begin = file.read(4)
    footer = footer_of(shard)
    length = int.from_bytes(footer[-_MAGIC_BYTES:-4], "little") + _MAGIC_BYTES
    return begin == footer[-4:] == b"PAR1" and length + len(begin) <= shard.stat().st_size


def runs_text(footer: bytes) -> bytes | None:
    """Return the runs in a file's footer, as text for `runs_in`.

    None if it has none that can be read.
    """
    text = _metadata(footer, _RUNS)
    return text if text is not None and text.isascii() and not len(text) % RUN.itemsize else None


def runs_in(texts: bytes) -> NDArray[np.void]:
    """Return the runs in the joined texts of footers, as records of `RUN`."""
    return np.frombuffer(texts, RUN)


def _in_seven_bits(numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return numbers below 2**28 with seven bits in each byte: ASCII."""
    found: NDArray[np.uint32] = np.bitwise_or.reduce(
        [(numbers >> 7 * place & 0x7F) << 8 * place for place in range(4)]
    )
    return found


def _from_seven_bits(numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    found: NDArray[np.uint32] = np.bitwise_or.reduce(
        [(numbers >> 8 * place & 0x7F) << 7 * place for place in range(4)]
    )
    return found


def _metadata(footer: bytes, key: str) -> bytes | None:
    """Return a value of a Parquet file's metadata; None if the footer has none.

    Polars would read the whole footer for it, which takes three times as long. The key and the
    value are fields 1 and 2 of a structure of Thrift's compact protocol: 0x18, the number of bytes
    as a varint, the bytes (parquet-format, ``KeyValue``).
    """
    begin = b"\x18" + bytes([len(key)]) + key.encode("ascii") + b"\x18"
    place = footer.rfind(begin)
    if place < 0 or not footer.endswith(b"PAR1"):
        return None
    place += len(begin)
    length = 0
    for number, byte in enumerate(footer[place : place + 5]):
        length |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            first = place + number + 1
            return footer[first : first + length]
    return None
