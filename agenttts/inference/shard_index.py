"""Where samples are in the shards of a store: an index in memory, by key.

Shards never change, so the keys of each are read once in a process. A look-up then reads only the
rows that it needs. The index holds a hash, two row numbers and a shard's number for every run of
rows with one key: 20 bytes, for example for all samples of a prompt that were stored together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

_MOST_SEGMENTS = 32
"""Sorted arrays of the index, all of which are searched; more are merged."""
_BYTES_AT_ONCE = 32 << 20
"""Bytes of the shards whose keys are read at once."""
_GAP = 512
"""Rows between two wanted rows that are read too, because a new read costs more."""
_MOST_READS = 4
"""Reads of some rows of one shard.

To search the keys of all its rows takes as long as five reads (110,000 rows, Polars 2.1, 2026-11).
"""


@dataclass(frozen=True)
class _Segment:
    """Runs of rows, sorted by the hash of their key."""

    hashes: NDArray[np.uint64]
    starts: NDArray[np.uint32]
    ends: NDArray[np.uint32]
    shards: NDArray[np.uint32]

    def select(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> _Segment:
        return _Segment(self.hashes[rows], self.starts[rows], self.ends[rows], self.shards[rows])


class ShardIndex:
    """An index of shards by key; see the module."""

    def __init__(self) -> None:
        self._numbers: dict[Path, int] = {}
        self._next = 0
        self._segments: list[_Segment] = []

    def __contains__(self, shard: Path) -> bool:
        return shard in self._numbers

    def add(self, shards: Sequence[Path]) -> None:
        """Read the keys of shards that are not in the index yet.

        If that fails, none of them is in the index.

        Raises:
            pl.exceptions.PolarsError: A shard is damaged or another file.
            OSError: The disk fails.
        """
        segments: list[_Segment] = []
        numbers = {shard: self._next + place for place, shard in enumerate(shards)}
        for portion in _portions(shards):
            # Shards of later versions have more columns, also beside shards without them.
            scan = pl.scan_parquet(
                portion,
                glob=False,
                schema={"key": pl.String()},
                extra_columns="ignore",
                include_file_paths="path",
            )
            keys = scan.select(_HASH, "path").collect()
            segments.append(_runs(keys, numbers))
        self._numbers |= numbers
        self._next += len(shards)
        self._segments += segments
        if len(self._segments) > _MOST_SEGMENTS:
            self._segments = [_merged(self._segments)]

    def keep(self, shards: Set[Path]) -> None:
        """Forget all shards but some."""
        gone = [self._numbers.pop(shard) for shard in [*self._numbers] if shard not in shards]
        if gone:
            self._segments = [s.select(~np.isin(s.shards, gone)) for s in self._segments]

    def find(
        self, keys: pl.Series, shards: Sequence[Path]
    ) -> Iterator[tuple[Path, tuple[int, int] | None]]:
        """Yield the rows that may have one of the keys, in the order of the shards.

        Among them may be rows of other keys.

        Args:
            keys: The keys.
            shards: The shards to look into; all are in the index.

        Yields:
            A shard, and the number of a row and that after the last one; None for all its rows.
        """
        wanted = np.unique(keys.to_frame("key").select(_HASH)["key"].to_numpy())
        found: dict[int, list[tuple[int, int]]] = {}
        for segment in self._segments:
            first = np.searchsorted(segment.hashes, wanted, "left")
            last = np.searchsorted(segment.hashes, wanted, "right")
            for a, b in zip(first[first < last], last[first < last], strict=True):
                for run in range(a, b):
                    rows = int(segment.starts[run]), int(segment.ends[run])
                    found.setdefault(int(segment.shards[run]), []).append(rows)
        for shard in shards:
            ranges = list(_joined(found.get(self._numbers[shard], [])))
            if len(ranges) > _MOST_READS:
                yield shard, None
            else:
                yield from ((shard, rows) for rows in ranges)


_HASH = pl.col("key").hash(seed=0)  # equal keys have equal hashes within a process


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


def _runs(keys: pl.DataFrame, numbers: Mapping[Path, int]) -> _Segment:
    """Return the runs of equal keys.

    Args:
        keys: The hash of the key (``key``) and the shard (``path``) of every row.
        numbers: The numbers of the shards.
    """
    hashes, files = keys["key"].to_numpy(), keys["path"].rle().struct.unnest()
    lengths = files["len"].to_numpy()
    own = np.array([numbers[Path(path)] for path in files["value"]], np.uint32)
    file = np.repeat(np.arange(len(own)), lengths)  # by row
    first = (np.cumsum(lengths) - lengths).astype(np.intp)  # the first row, by file
    begins = np.ones(len(hashes), bool)
    begins[1:] = (hashes[1:] != hashes[:-1]) | (file[1:] != file[:-1])
    starts = np.flatnonzero(begins)
    ends = np.append(starts, len(hashes))[1:]
    file = file[starts]
    runs = _Segment(
        hashes[starts],
        (starts - first[file]).astype(np.uint32),
        (ends - first[file]).astype(np.uint32),
        own[file],
    )
    return runs.select(np.argsort(runs.hashes, kind="stable"))


def _merged(segments: Sequence[_Segment]) -> _Segment:
    whole = _Segment(
        np.concatenate([s.hashes for s in segments]),
        np.concatenate([s.starts for s in segments]),
        np.concatenate([s.ends for s in segments]),
        np.concatenate([s.shards for s in segments]),
    )
    return whole.select(np.argsort(whole.hashes, kind="stable"))


def _joined(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows in order, those near each other as one."""
    ranges = sorted(ranges)
    while ranges:
        start, end = ranges.pop(0)
        while ranges and ranges[0][0] - end <= _GAP:
            end = max(end, ranges.pop(0)[1])
        yield start, end
