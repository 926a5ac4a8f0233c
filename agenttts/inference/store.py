"""The sample store: samples by address, in Parquet shards of a directory.

Trials (and runs) share it. Each shard is written once, whole, by one writer. A reader reads once
where the keys are in every shard (`agenttts.inference.shard_index`), and then only the rows that it
needs. Nothing is locked and nothing is rewritten, so any number of jobs may use a directory at
once. Two jobs that draw the same sample at the same time both store it. A `lookup` takes the sample
in the first shard by name; `lookup_new` takes the one that it reads first.

A damaged shard is renamed to ``NAME.parquet.damaged``, and its samples are drawn again. A shard of
another version, or a file of another program, is left where it is and not used. So is a whole file
that cannot be read: a later version of Polars may have written it for others who have that version.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import polars as pl

from agenttts.files.table_files import atomic_write_parquet
from agenttts.files.trouble import passing_trouble
from agenttts.inference.shard_index import ShardIndex
from agenttts.inference.shard_keys import is_whole, shard_options
from agenttts.inference.shard_names import file_name, shard_names

log = logging.getLogger(__name__)
T = TypeVar("T")

DAMAGED = ".damaged"
SCHEMA = pl.Schema(
    {
        "key": pl.String(),  # inference.base.sample_key: 32 hex digits; `_read` takes it first
        "index": pl.Int32(),
        "text": pl.String(),
        "decode_tokens": pl.Int32(),
        "finish_reason": pl.String(),
        "prompt_tokens": pl.Int32(),
        "truncated": pl.Boolean(),
        "model": pl.String(),
    }
)


_PATIENCE_S = 600.0
"""Seconds for which finished samples wait for a file system in trouble, such as a full disk.

A job that waits holds its GPUs. Without the samples it would compute them again."""
_FEW_READS = 4
"""Reads of some rows for which Polars is given the schema, so that it does not read it first.

More of them take a third less CPU time without (50 in compacted shards, Polars 2.1, 2026-11).
"""
# What Polars raises for damaged files. PanicException is not a subclass of Exception.
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


@dataclass(frozen=True)
class StoredSample:
    """Sample ``index`` under ``key``.

    ``prompt_tokens`` and ``truncated`` are those of its prompt.
    """

    key: str
    index: int
    text: str
    decode_tokens: int
    finish_reason: str
    prompt_tokens: int
    truncated: bool
    model: str


Usable = Callable[[StoredSample], bool]
"""Says whether a stored sample may be used."""


class SampleStore:
    """Samples in ``directory/*.parquet``.

    ``writer`` names this process in the names of the shards that it writes.

    This object's `lookup` finds added samples at once. Other objects find them after `flush`. Only
    `flush` may be called in another thread than the other methods, also while samples are added.
    """

    def __init__(self, directory: Path, writer: str) -> None:
        self._directory = directory
        # The random part distinguishes processes of the same number on two nodes, so that one does
        # not replace the shards of the other.
        self._writer = f"{file_name(writer)}-{secrets.token_hex(4)}"
        self._shards = 0
        self._seen: set[str] = set()
        self._unusable: set[str] = set()
        self._buffer: list[StoredSample] = []
        self._flushing = threading.Lock()
        self._index = ShardIndex(directory)

    def lookup(
        self, wanted: Mapping[str, int], usable: Usable = lambda sample: True
    ) -> dict[str, dict[int, StoredSample]]:
        """Return the samples that are stored under each key.

        Args:
            wanted: The number of samples wanted, by key. Samples with a larger index are left out.
            usable: Whether a sample may be used. Others are as if they were not stored.

        Returns:
            The samples by key and index. A sample may be there without those before it, because an
            engine finishes samples in any order.

        Raises:
            OSError: The disk fails.
        """
        return _by_key([*self._read(self._list(), wanted), *self._buffer], wanted, usable)

    def lookup_new(
        self, wanted: Mapping[str, int], usable: Usable = lambda sample: True
    ) -> dict[str, dict[int, StoredSample]]:
        """Return the samples that others stored since the last lookup.

        Args:
            wanted: The number of samples wanted, by key. Samples with a larger index are left out.
            usable: As for `lookup`.

        Returns:
            The samples by key and index.

        Raises:
            OSError: The disk fails.
        """
        if not wanted:
            return {}
        before = self._seen
        new = [shard for shard in self._list() if shard not in before]
        others = [shard for shard in new if not shard.startswith(f"{self._writer}-")]
        return _by_key(self._read(others, wanted), wanted, usable)

    def add(self, sample: StoredSample) -> None:
        """Keep a sample for the next `flush`."""
        self._buffer.append(sample)

    def flush(self) -> None:
        """Write the samples added since the last flush as one shard, atomically.

        Raises:
            OSError: The disk fails. The next flush writes the samples.
        """
        with self._flushing:
            samples = list(self._buffer)
            if not samples:
                return
            # Its parents are not made, because the directory of a removed run must not be made
            # again.
            self._directory.mkdir(exist_ok=True)
            # Samples of a prompt are read together. An engine finishes those of many in turn.
            places: dict[str, int] = {}
            ordered = sorted(samples, key=lambda s: places.setdefault(s.key, len(places)))
            columns = {name: [getattr(sample, name) for sample in ordered] for name in SCHEMA}
            frame = pl.DataFrame(columns, schema=SCHEMA)
            shard = self._directory / f"{self._writer}-{self._shards:05d}.parquet"
            atomic_write_parquet(shard, frame, **shard_options(frame))
            self._shards += 1
            del self._buffer[: len(samples)]  # meanwhile others may have been added

    @contextlib.contextmanager
    def flushed_regularly(self, seconds: float) -> Iterator[None]:
        """Flush every so many seconds in a thread, and in the end.

        A flush that fails is repeated with the next one. If the last one fails by trouble that may
        pass, it is repeated for some minutes, unless an error has ended the block.

        Raises:
            OSError: The last flush failed.
        """
        ended = threading.Event()

        def work() -> None:
            told = False
            while not ended.wait(seconds):
                try:
                    self.flush()
                except OSError as error:
                    if not told:
                        log.warning("samples are not stored yet: %s; it is tried again", error)
                    told = True

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        patience = 0.0
        try:
            yield
            patience = _PATIENCE_S
        finally:
            ended.set()
            thread.join()
            self._flush_patiently(patience, seconds)

    def _flush_patiently(self, patience: float, pause: float) -> None:
        """Flush; repeat it for ``patience`` seconds if the trouble may pass."""
        deadline = time.monotonic() + patience
        while True:
            try:
                self.flush()
            except OSError as error:
                left = deadline - time.monotonic()
                if left <= 0 or not passing_trouble(error):
                    raise
                # Each line shows the job that this is no stall.
                log.warning("samples wait to be stored, for at most %.0f s: %s", left, error)
                time.sleep(min(pause, left))
            else:
                return

    def _list(self) -> list[str]:
        """Return the names of the existing shards."""
        shards = shard_names(self._directory)
        self._seen = set(shards)
        self._index.keep(self._seen)
        return [shard for shard in shards if shard not in self._unusable]

    def _read(self, shards: list[str], wanted: Mapping[str, int]) -> list[StoredSample]:
        """Return the samples that the shards hold under the wanted keys."""
        if not shards or not wanted:
            return []
        self._index_new(shards)
        keys = pl.Series("key", list(wanted), pl.String())
        usable = [shard for shard in shards if shard in self._index]
        places = [(self._directory / shard, r) for shard, r in self._index.find(keys, usable)]
        try:
            many = len(places) > _FEW_READS
            frames = _collected([_rows(*place, keys, many) for place in places])
            frames = [_with_columns(frame) for frame in frames]
        except (*UNREADABLE, OSError):
            # Only when something is wrong, the shards are read one by one to find the damaged one.
            frames = [
                frame
                for shard, rows in places
                if (frame := self._checked(shard.name, partial(_read_rows, shard, rows, keys)))
                is not None
            ]
        # Between rows of wanted keys a few others were read. Polars would take longer to remove
        # them, in each of many small frames or in one of all.
        return [StoredSample(*row) for frame in frames for row in frame.rows() if row[0] in wanted]

    def _index_new(self, shards: list[str]) -> None:
        """Take the shards into the index that are not there yet."""
        new = [shard for shard in shards if shard not in self._index]
        try:
            self._index.add(new)
        except (*UNREADABLE, OSError):
            for shard in new:
                self._checked(shard, partial(self._index.add, [shard]))

    def _checked(self, name: str, read: Callable[[], T]) -> T | None:
        """Return what is read from one shard.

        None if the shard is damaged, not a shard of this version, or not readable for this user; it
        is not used from then on.
        """
        shard = self._directory / name
        try:
            return read()
        except FileNotFoundError:  # another job has set it aside
            return None
        except PermissionError as error:  # e.g. of a colleague with the umask 077
            self._unusable.add(name)
            log.warning("%s cannot be read (%s) and is not used", shard, error.strerror or error)
            return None
        except (pl.exceptions.ColumnNotFoundError, pl.exceptions.SchemaError) as error:
            self._unusable.add(name)
            log.warning(
                "%s is not a shard of this version's sample store (%s) and is not used",
                shard, _first_line(error),
            )  # fmt: skip
            return None
        except UNREADABLE:
            with contextlib.suppress(FileNotFoundError):
                shard.read_bytes()  # raises if the disk fails; the file is not damaged then
        try:
            return read()
        except FileNotFoundError:
            return None
        except UNREADABLE as error:
            self._unusable.add(name)
            self._set_aside(shard, _first_line(error))
            return None

    def _set_aside(self, shard: Path, reason: str) -> None:
        place = shard.with_name(shard.name + DAMAGED)
        try:
            if is_whole(shard):
                log.warning(
                    "%s cannot be read with Polars %s (%s): a later one wrote it, or it is "
                    "damaged. It is left where it is and not used, and its samples are drawn again",
                    shard,
                    pl.__version__,
                    reason,
                )
                return
            shard.rename(place)
        except FileNotFoundError:
            return  # another job was faster
        except OSError as error:
            log.warning(
                "%s is damaged (%s) and cannot be moved aside (%s); it is not used, "
                "and its samples are drawn again",
                shard,
                reason,
                error.strerror,
            )
            return
        log.warning(
            "%s is damaged (%s); it was moved aside to %s, and its samples are drawn again",
            shard,
            reason,
            place.name,
        )


def _by_key(
    samples: Iterable[StoredSample], wanted: Mapping[str, int], usable: Usable
) -> dict[str, dict[int, StoredSample]]:
    """Return the usable samples by key and index, below the numbers wanted.

    Of equal samples the first is taken.
    """
    found: dict[str, dict[int, StoredSample]] = {key: {} for key in wanted}
    for sample in samples:
        if sample.index < wanted.get(sample.key, 0) and usable(sample):
            found[sample.key].setdefault(sample.index, sample)
    return found


def _rows(
    shard: Path, rows: tuple[int, int] | None, keys: pl.Series, many: bool = False
) -> pl.LazyFrame:
    """Return the samples in some rows of a shard, or all that have one of the keys.

    ``many``: it is one of many reads, which Polars then plans by the footers.
    """
    if many and rows is not None:
        return pl.scan_parquet([shard], glob=False).slice(rows[0], rows[1] - rows[0])
    scan = pl.scan_parquet([shard], schema=SCHEMA, glob=False, extra_columns="ignore")
    if rows is not None:
        return scan.slice(rows[0], rows[1] - rows[0])
    return scan.filter(pl.col("key").is_in(keys.implode()))


def _collected(scans: list[pl.LazyFrame]) -> list[pl.DataFrame]:
    """Return what the scans read, in their order.

    Polars plans the scans of one call one after the other, which takes as long as to read them. So
    many are divided into two calls, which run beside each other.
    """
    if len(scans) <= _FEW_READS:
        return pl.collect_all(scans)
    half = len(scans) // 2
    with ThreadPoolExecutor(1) as other:
        second = other.submit(pl.collect_all, scans[half:])
        first = pl.collect_all(scans[:half])
        return [*first, *second.result()]


def _with_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of a shard in the order of the schema.

    Columns that a later version adds are left out: they do not change the meaning of these columns.

    Raises:
        pl.exceptions.ColumnNotFoundError: A column is missing.
        pl.exceptions.SchemaError: A column has another type.
    """
    if frame.schema == SCHEMA:
        return frame
    frame = frame.select(SCHEMA.names())
    if frame.schema != SCHEMA:
        other = [name for name, type_ in SCHEMA.items() if frame.schema[name] != type_]
        raise pl.exceptions.SchemaError(f"columns of another type: {', '.join(other)}")
    return frame


def _read_rows(shard: Path, rows: tuple[int, int] | None, keys: pl.Series) -> pl.DataFrame:
    return _with_columns(_rows(shard, rows, keys).collect())


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
