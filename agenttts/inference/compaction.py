"""Compact the small shards of a sample store while other jobs use it.

Nothing is locked. A shard is removed only after a larger shard has held its samples for a while. A
reader may have listed the directory before, or may see it late (NFS caches a directory for a
minute); it still finds every sample in one of the two shards. A process that is killed at any point
leaves some samples twice, which is harmless. No sample is ever missing.

Several users may share a store. A shard that more people may read than the larger one stays.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from agenttts.files.table_files import atomic_write_parquet
from agenttts.inference.shard_keys import shard_options
from agenttts.inference.shard_names import shard_names
from agenttts.inference.store import SCHEMA, UNREADABLE

log = logging.getLogger(__name__)

# The prefix sorts before the name of any writer. Of equal samples the one in the first shard
# counts.
_PREFIX = "+compacted-"
# Repetitive text is a hundred times as large in memory. Shards larger than this are probed before
# they are read.
_PROBED_BYTES = 256 << 10
_PROBED_ROWS = 64
# A key in a shard's own metadata: the names of the shards whose samples it holds.
_HOLDS = "agenttts.holds"

FEWEST = 100
"""Fewer shards are not compacted: a look-up among them takes milliseconds."""
LARGEST_BYTES = 4 << 20
"""A shard larger on the disk stays as it is; it holds hundreds of samples."""
MOST_BYTES = 64 << 20
"""Bytes in memory that are read at once, at most.

About three times as much is needed while it is written (measured with Polars 2.1: 2.6 times),
beside a controller that has 2 GB by default.
"""
SETTLE_SECONDS = 120.0
"""How long a shard stays after its samples are in another shard."""


def compact(
    directory: Path,
    *,
    fewest: int = FEWEST,
    settle_seconds: float = SETTLE_SECONDS,
) -> tuple[int, int]:
    """Write the small shards of a store as few large ones.

    A new shard holds up to `MOST_BYTES`. Shards whose samples an earlier call has written to a
    larger shard are removed. Damaged shards and shards of other versions are left to the readers.

    Args:
        directory: The store's directory.
        fewest: With fewer small shards than this nothing is written.
        settle_seconds: How long a shard stays after its samples are in another shard.

    Returns:
        How many shards were written anew, and how many were removed.

    Raises:
        OSError: The disk fails; no sample is lost then.
    """
    shards = [directory / name for name in shard_names(directory)]
    held = _held(shards)
    removed = _remove(held, settle_seconds)
    fresh = [shard for shard in shards if shard not in held]
    written = 0
    if len(fresh) >= fewest:
        together = secrets.token_hex(6)
        for number, (frames, names) in enumerate(_portions(fresh)):
            # In the order of the shards, so that of equal samples in two shards the first one's
            # counts as before.
            target = directory / f"{_PREFIX}{together}-{number:05}.parquet"
            written += _write(target, frames, names)
            frames.clear()  # before the next ones are read
    return written, removed


def _held(shards: Sequence[Path]) -> dict[Path, Path]:
    """Return the shards whose samples another shard holds, and that other shard."""
    there = set(shards)
    held: dict[Path, Path] = {}
    for shard in shards:
        if not shard.name.startswith(_PREFIX):
            continue
        try:
            names = json.loads(pl.read_parquet_metadata(shard).get(_HOLDS, "[]"))
        except (*UNREADABLE, OSError, ValueError):
            continue  # nothing readable in it, so no shard may be removed for it
        held |= {path: shard for name in names if (path := shard.with_name(name)) in there}
    return held


def _remove(held: dict[Path, Path], settle_seconds: float) -> int:
    """Remove the shards that another shard has held for long enough.

    A shard stays if some of those who may read it may not read the other one, and if the other one
    cannot be read whole: its end says what it holds, and may be all that is left of it.

    Returns:
        Their number.
    """
    removed = 0
    whole: dict[Path, bool] = {}
    for shard, holder in held.items():
        try:
            found = holder.stat()
            settled = time.time() - found.st_mtime >= settle_seconds
            if not settled or not _as_readable(found, shard.stat()):
                continue
            if holder not in whole:
                whole[holder] = _is_readable(holder)
            if whole[holder]:
                shard.unlink()
                removed += 1
        except FileNotFoundError:
            continue  # another run that shares the store was faster
        except PermissionError:
            continue  # a colleague's, in a directory with the sticky bit
    return removed


def _is_readable(shard: Path) -> bool:
    """Return whether all samples of a shard can be read."""
    try:
        pl.read_parquet(shard, schema=SCHEMA, glob=False)
    except (*UNREADABLE, OSError):
        return False
    return True


def _as_readable(file: os.stat_result, other: os.stat_result) -> bool:
    """Return whether all readers of ``other`` may read ``file``, by their modes."""
    if file.st_mode & stat.S_IROTH:
        return True
    if other.st_mode & stat.S_IROTH:
        return False
    if file.st_mode & stat.S_IRGRP and file.st_gid == other.st_gid:
        return True
    return file.st_uid == other.st_uid and not other.st_mode & stat.S_IRGRP


def _portions(shards: Sequence[Path]) -> Iterator[tuple[list[pl.DataFrame], list[str]]]:
    """Yield portions of small shards: their samples, and their names.

    The samples of a portion take at most `MOST_BYTES` of memory. Other shards are left out.
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
    """Return the samples of a shard.

    None if the shard is large, damaged, of another version, gone, or may not be read.
    """
    try:
        bytes_ = shard.stat().st_size
        if bytes_ > LARGEST_BYTES:
            return None
        if bytes_ > _PROBED_BYTES and _size_in_memory(shard) > MOST_BYTES:
            return None
        return pl.read_parquet(shard, schema=SCHEMA, glob=False)
    except (*UNREADABLE, FileNotFoundError, PermissionError):
        return None


def _size_in_memory(shard: Path) -> float:
    """Return the bytes that a shard takes in memory.

    The estimate takes its other rows to be as large as its first ones.
    """
    head = pl.read_parquet(shard, schema=SCHEMA, glob=False, n_rows=_PROBED_ROWS)
    rows = pl.scan_parquet(shard, schema=SCHEMA, glob=False).select(pl.len()).collect().item()
    return head.estimated_size() / max(1, head.height) * float(rows)


def _write(target: Path, frames: Sequence[pl.DataFrame], names: Sequence[str]) -> int:
    """Write the samples of several shards to one shard.

    Returns:
        The number of those shards.
    """
    if len(frames) < 2:
        return 0
    # The first of equal samples by the shards' names, as in a look-up. Those of a prompt that was
    # cut for two contexts are not equal.
    equal = ["key", "index", "truncated", "prompt_tokens"]
    whole = pl.concat(frames).unique(equal, keep="first", maintain_order=True)
    atomic_write_parquet(target, whole, **shard_options(whole, {_HOLDS: json.dumps(names)}))
    log.info("%d shards of the sample store %s were merged into one", len(names), target.parent)
    return len(names)
