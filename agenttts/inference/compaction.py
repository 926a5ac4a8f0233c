"""Many small shards of a sample store made into one, while other jobs read and write there.

Nothing is locked. A shard is removed only when a larger one has held its samples for a while, so a reader that listed the
directory before, or sees it late (NFS keeps what it knows of a directory for a minute), still finds every sample in one of
the two. A process killed anywhere leaves some samples twice, which is harmless; none is ever missing.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import polars as pl

from agenttts.files.atomic import atomic_write
from agenttts.inference.store import SCHEMA, UNREADABLE

log = logging.getLogger(__name__)

# Before any writer's name in the order of names: of equal samples the first shard's counts.
_PREFIX = "+compacted-"
# In a shard's own metadata: the names of those whose samples it holds.
_HOLDS = "agenttts.holds"

FEWEST = 100
"""So many shards are no trouble: a look-up among them takes milliseconds."""
LARGEST_BYTES = 16 << 20
"""A shard larger than this stays as it is."""
MOST_BYTES = 256 << 20
"""So much is read at once, at most."""
SETTLE_SECONDS = 120.0
"""So long a shard stays after its samples are in another."""


def compact(
    directory: Path,
    *,
    fewest: int = FEWEST,
    settle_seconds: float = SETTLE_SECONDS,
) -> tuple[int, int]:
    """Write the small shards of a store as one, and remove those that an earlier call has so written.

    Returns how many shards were written anew, and how many were removed. Damaged shards, and those of other versions, are
    left to those who read samples. Raises `OSError` when the disk fails; nothing is lost then.
    """
    shards = sorted(directory.glob("[!.]*.parquet"))
    held = _held(shards)
    removed = _remove(held, settle_seconds)
    fresh = [shard for shard in shards if shard not in held]
    return (_write(directory, fresh) if len(fresh) >= fewest else 0), removed


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


def _write(directory: Path, shards: Sequence[Path]) -> int:
    """One shard of the samples of others; how many these are."""
    frames, names, size = [], [], 0
    for shard in shards:
        try:
            bytes_ = shard.stat().st_size
            if bytes_ > LARGEST_BYTES:
                continue
            if size + bytes_ > MOST_BYTES:
                break
            frame = pl.read_parquet(shard, schema=SCHEMA, glob=False)
        except (*UNREADABLE, FileNotFoundError):
            continue
        frames.append(frame)
        names.append(shard.name)
        size += bytes_
    if len(frames) < 2:
        return 0
    # The first of equals, by the shards' names, as a look-up takes it.
    whole = pl.concat(frames).unique(["key", "index"], keep="first", maintain_order=True)

    def write(stream: BinaryIO) -> None:
        whole.write_parquet(stream, metadata={_HOLDS: json.dumps(names)})

    atomic_write(directory / f"{_PREFIX}{secrets.token_hex(6)}.parquet", write)
    log.info("%d shards of the sample store %s are now one", len(names), directory)
    return len(names)
