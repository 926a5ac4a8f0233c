"""Where samples are in the shards of a store: an index in memory, by key.

Shards never change, so where the keys of each are is read once in a process: from its footer
(`agenttts.inference.shard_keys`), else from its keys. A look-up then reads only the rows that it
needs. The index holds a hash, two row numbers and a shard's number for every run of rows with one
key: 20 bytes, for example for all samples of a prompt that were stored together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from agenttts.inference.shard_keys import (
    RUN,
    footer_of,
    key_hashes,
    rows_of,
    runs_in,
    runs_of,
    runs_text,
)

_MOST_SEGMENTS = 32
"""Sorted arrays of the index, all of which are searched; more are merged."""
_BYTES_AT_ONCE = 32 << 20
"""Bytes of the shards whose keys are read at once."""
_READERS = 8
"""Threads that read footers, if the file system is slow to answer."""
_SLOW_SECONDS = 0.3e-3
"""Footers that take longer come from a slow file system, if there are several.

On a local disk a footer takes 0.03 ms, and threads would double the CPU time (2026-11).
"""
_GAP = 512
"""Rows between two wanted rows that are read too, because a new read costs more."""
_MOST_READS = 2
"""Reads of some rows of one shard, at least; otherwise the keys of all its rows are searched."""
_ROWS_A_READ = 8192
"""Rows of a shard for each further read: to search their keys takes as long (Polars 2.1)."""


@dataclass(frozen=True)
class _Segment:
    """Runs of rows of several shards, sorted by the hash of their key.

    ``starts`` and ``lengths`` are fields of `RUN`: few of them are ever decoded.
    """

    hashes: NDArray[np.uint64]
    starts: NDArray[np.uint32]
    lengths: NDArray[np.uint32]
    shards: NDArray[np.uint32]

    def select(self, runs: NDArray[np.intp] | NDArray[np.bool_]) -> _Segment:
        return _Segment(self.hashes[runs], self.starts[runs], self.lengths[runs], self.shards[runs])


class ShardIndex:
    """An index of the shards in a directory by key; see the module.

    A shard is given by the name of its file: paths take ten times as long to make and compare.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers: dict[str, int] = {}
        self._rows: dict[str, int] = {}
        self._next = 0
        self._segments: list[_Segment] = []

    def __contains__(self, shard: str) -> bool:
        return shard in self._numbers

    def add(self, shards: Sequence[str]) -> None:
        """Read the keys of shards that are not in the index yet.

        If that fails, none of them is in the index.

        Raises:
            pl.exceptions.PolarsError: A shard is damaged or another file.
            OSError: The disk fails.
        """
        if not shards:
            return
        # Paths of `pathlib` would take longer to make than the footers to read.
        footers = _runs_texts([f"{self._directory}/{shard}" for shard in shards])
        found = {s: text for s, text in zip(shards, footers, strict=True) if text is not None}
        counts = [len(text) // RUN.itemsize for text in found.values()]
        texts = [*found.values()]
        names = [*found]
        for portion in _portions([self._directory / s for s in shards if s not in found]):
            for name, part in _by_keys(portion).items():
                names.append(name)
                counts.append(len(part))
                texts.append(part.tobytes())
        every = runs_in(b"".join(texts))
        self._rows |= zip(names, _rows(every, counts), strict=True)
        self._numbers |= {name: self._next + place for place, name in enumerate(names)}
        self._segments.append(_segment(every, counts, self._next))
        self._next += len(names)
        if len(self._segments) > _MOST_SEGMENTS:
            self._segments = [_merged(self._segments)]

    def keep(self, shards: Set[str]) -> None:
        """Forget all shards but some."""
        gone = [self._numbers.pop(shard) for shard in [*self._numbers] if shard not in shards]
        if gone:
            self._rows = {shard: self._rows[shard] for shard in self._numbers}
            self._segments = [s.select(~np.isin(s.shards, gone)) for s in self._segments]

    def find(
        self, keys: pl.Series, shards: Sequence[str]
    ) -> Iterator[tuple[str, tuple[int, int] | None]]:
        """Yield the rows that may have one of the keys, in the order of the shards.

        Among them may be rows of other keys.

        Args:
            keys: The keys.
            shards: The shards to look into; all are in the index.

        Yields:
            A shard, and the number of a row and that after the last one; None for all its rows.
        """
        wanted = key_hashes(set(keys))
        found: dict[int, list[tuple[int, int]]] = {}
        for segment in self._segments:
            first = np.searchsorted(segment.hashes, wanted, "left")
            last = np.searchsorted(segment.hashes, wanted, "right")
            hits = zip(first[first < last], last[first < last], strict=True)
            runs = segment.select(np.array([run for a, b in hits for run in range(a, b)], np.intp))
            rows = np.transpose(rows_of(runs.starts, runs.lengths)).tolist()
            for shard_number, (start, end) in zip(runs.shards.tolist(), rows, strict=True):
                found.setdefault(shard_number, []).append((start, end))
        for shard in shards:
            ranges = list(_joined(found.get(self._numbers[shard], [])))
            if len(ranges) > _MOST_READS + self._rows[shard] // _ROWS_A_READ:
                yield shard, None
            else:
                yield from ((shard, rows) for rows in ranges)


def _runs_texts(shards: Sequence[str]) -> list[bytes | None]:
    """Return the text of the runs in each shard's footer; None for one without."""
    found: list[bytes | None] = []
    slow = 0
    for shard in shards:
        began = time.perf_counter()
        footer = footer_of(shard)
        slow += time.perf_counter() - began > _SLOW_SECONDS
        found.append(runs_text(footer))
        if slow > _READERS:
            break
    left = shards[len(found) :]
    if left:  # a file system on the network answers several at once
        with ThreadPoolExecutor(_READERS) as pool:
            parts = [left[first::_READERS] for first in range(_READERS)]
            read = pool.map(
                lambda part: [(shard, runs_text(footer_of(shard))) for shard in part], parts
            )
            texts = dict(pair for pairs in read for pair in pairs)
        found += [texts[shard] for shard in left]
    return found


def _portions(shards: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield consecutive shards whose keys may be read at once."""
    portion: list[Path] = []
    size = 0
    for shard in shards:
        bytes_ = shard.stat().st_size
        if portion and size + bytes_ > _BYTES_AT_ONCE:
            yield portion
            portion, size = [], 0
        portion.append(shard)
        size += bytes_
    if portion:
        yield portion


def _by_keys(shards: list[Path]) -> dict[str, NDArray[np.void]]:
    """Return the runs of shards by their keys, by name."""
    # Shards of later versions have more columns, also beside shards without them.
    rows = pl.scan_parquet(
        shards,
        glob=False,
        schema={"key": pl.String()},
        extra_columns="ignore",
        include_file_paths="path",
    ).collect()
    names = [shard.name for shard in shards]
    found = dict.fromkeys(names, np.empty(0, RUN))  # shards without rows
    first = 0
    for file in rows["path"].rle().struct.unnest().iter_rows(named=True):
        found[Path(file["value"]).name] = runs_of(rows["key"].slice(first, file["len"]))
        first += file["len"]
    return found


def _rows(runs: NDArray[np.void], counts: Sequence[int]) -> list[int]:
    """Return the number of rows of shards with so many runs each."""
    last = runs[(np.cumsum(counts, dtype=np.intp) - 1)[np.array(counts, bool)]]
    _, ends = rows_of(last["start"], last["length"])
    left = iter(ends.tolist())
    return [next(left) if count else 0 for count in counts]


def _segment(runs: NDArray[np.void], counts: Sequence[int], first: int) -> _Segment:
    """Return the runs of shards with so many each, numbered from ``first`` on."""
    shards = np.arange(first, first + len(counts), dtype=np.uint32)
    return _sorted(_Segment(runs["hash"], runs["start"], runs["length"], np.repeat(shards, counts)))


def _merged(segments: Sequence[_Segment]) -> _Segment:
    return _sorted(
        _Segment(
            np.concatenate([s.hashes for s in segments]),
            np.concatenate([s.starts for s in segments]),
            np.concatenate([s.lengths for s in segments]),
            np.concatenate([s.shards for s in segments]),
        )
    )


def _sorted(segment: _Segment) -> _Segment:
    return segment.select(_order(segment.hashes))


def _order(hashes: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Return the places of the hashes in ascending order.

    NumPy sorts numbers of 16 bits by counting them. Four such sorts take 0.6 times as long as one
    of the whole numbers (62,500 hashes, NumPy 2.3, 2026-11).
    """
    digits = np.ascontiguousarray(hashes.astype("<u8").view("<u2").reshape(-1, 4).T)
    order = np.argsort(digits[0], kind="stable")
    for digit in digits[1:]:
        order = order[np.argsort(digit[order], kind="stable")]
    return order


def _joined(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows in order, those near each other as one."""
    ranges = sorted(ranges)
    while ranges:
        start, end = ranges.pop(0)
        while ranges and ranges[0][0] - end <= _GAP:
            end = max(end, ranges.pop(0)[1])
        yield start, end
