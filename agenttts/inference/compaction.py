"""Many small shards of a sample store made into one, while other jobs read and write there.

Nothing is locked. A shard is removed only when a larger one has held its samples for a while, so a
reader that listed the directory before, or sees it late (NFS keeps what it knows of a directory for
a minute), still finds every sample in one of the two. A process killed anywhere leaves some samples
twice, which is harmless; none is ever missing.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import polars as pl

from agenttts.files.atomic import atomic_write
from agenttts.inference.store import SCHEMA, UNREADABLE

log = logging.getLogger(__name__)

# Before any writer's name in the order of names: of equal samples the first shard's counts.
_PREFIX = "+compacted-"
# Text that repeats itself is a hundred times as large in memory: shards larger than this are looked
# into before they are read.
_PROBED_BYTES = 256 << 10
_PROBED_ROWS = 64
# In a shard's own metadata: the names of those whose samples it holds.
_HOLDS = "agenttts.holds"

FEWEST = 100
"""So many shards are no trouble: a look-up among them takes milliseconds."""
LARGEST_BYTES = 4 << 20
"""A shard larger than this on the disk stays as it is: it holds hundreds of samples already."""
MOST_BYTES = 64 << 20
"""So much is read at once, at most, as it is in memory.

About three times as much is needed while it is written (measured with Polars 2.1: 2.6 times),
beside a controller that has 2 GB by default.
"""
SETTLE_SECONDS = 120.0
"""So long a shard stays after its samples are in another."""


def compact(
    directory: Path,
    *,
    fewest: int = FEWEST,
    settle_seconds: float = SETTLE_SECONDS,
) -> tuple[int, int]:
    """Write the small shards of a store as few, each of up to `MOST_BYTES`, and remove those that
    an earlier call has so written.

    Returns how many shards were written anew, and how many were removed. Damaged shards, and those
    of other versions, are left to those who read samples. Raises `OSError` when the disk fails;
    nothing is lost then.
    """
    shards = sorted(directory.glob("[!.]*.parquet"))
    held = _held(shards)
    removed = _remove(held, settle_seconds)
    fresh = [shard for shard in shards if shard not in held]
    written = 0
    if len(fresh) >= fewest:
        together = secrets.token_hex(6)
        for number, (frames, names) in enumerate(_portions(fresh)):
            # In the order of the shards: of equal samples in two of them the first one's counts as
            # before.
            target = directory / f"{_PREFIX}{together}-{number:05}.parquet"
            written += _write(target, frames, names)
            frames.clear()  # before the next ones are read
    return written, removed


def _held(shards: Sequence[Path]) -> dict[Path, Path]:
    """The shards whose samples another holds, and which that is."""
    there = set(shards)
    held: dict[Path, Path] = {}
    for shard in shards:
        if not shard.name.startswith(_PREFIX):
            continue
        try:
            names = json.loads(pl.read_parquet_metadata(shard).get(_HOLDS, "[]"))
        except (*UNREADABLE, OSError, ValueError):
            continue  # it holds nothing that can be read, so nothing may go for it
        held |= {path: shard for name in names if (path := shard.with_name(name)) in there}
    return held


def _remove(held: dict[Path, Path], settle_seconds: float) -> int:
    """Remove the shards that another has held for long enough; how many."""
    removed = 0
    for shard, holder in held.items():
        try:
            if time.time() - holder.stat().st_mtime >= settle_seconds:
                shard.unlink()
                removed += 1
        except FileNotFoundError:
            continue  # another run that shares the store was faster
    return removed


def _portions(shards: Sequence[Path]) -> Iterator[tuple[list[pl.DataFrame], list[str]]]:
    """The samples of small shards and the shards' names, as many together as may be read at
    once.
    """
    frames: list[pl.DataFrame] = []
    names: list[str] = []
    size: float = 0
    for shard in shards:
        frame = _read(shard)
        if frame is None:
            continue
        if frames and size + frame.estimated_size() > MOST_BYTES:
            yield frames, names
            frames, names, size = [], [], 0
        frames.append(frame)
        names.append(shard.name)
        size += frame.estimated_size()
    if frames:
        yield frames, names


def _read(shard: Path) -> pl.DataFrame | None:
    """The samples of a shard; None for one that is large, damaged, of another version, or gone."""
    try:
        bytes_ = shard.stat().st_size
        if bytes_ > LARGEST_BYTES:
            return None
        if bytes_ > _PROBED_BYTES and _size_in_memory(shard) > MOST_BYTES:
            return None
        return pl.read_parquet(shard, schema=SCHEMA, glob=False)
    except (*UNREADABLE, FileNotFoundError):
        return None


def _size_in_memory(shard: Path) -> float:
    """Bytes that a shard takes in memory, if its other rows are as large as its first ones."""
    head = pl.read_parquet(shard, schema=SCHEMA, glob=False, n_rows=_PROBED_ROWS)
    rows = pl.scan_parquet(shard, schema=SCHEMA, glob=False).select(pl.len()).collect().item()
    return head.estimated_size() / max(1, head.height) * float(rows)


def _write(target: Path, frames: Sequence[pl.DataFrame], names: Sequence[str]) -> int:
    """One shard of the samples of others; how many these are."""
    if len(frames) < 2:
        return 0
    # The first of equals, by the shards' names, as a look-up takes it.
    whole = pl.concat(frames).unique(["key", "index"], keep="first", maintain_order=True)

    def write(stream: BinaryIO) -> None:
        whole.write_parquet(stream, metadata={_HOLDS: json.dumps(names)})

    atomic_write(target, write)
    log.info("%d shards of the sample store %s are now one", len(names), target.parent)
    return len(names)
