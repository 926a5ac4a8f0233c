"""Compaction of the sample store: the same samples in fewer shards, whoever reads or is killed meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from agenttts.inference import compaction
from agenttts.inference.compaction import compact
from agenttts.inference.store import SampleStore, StoredSample


def sample(key: str, index: int, text: str) -> StoredSample:
    return StoredSample(key, index, text, 3, "stop", 7, False, "m")


def filled(directory: Path, shards: int = 6, writer: str = "run-t") -> None:
    """Shards of two keys each; every index is in two shards, under other texts."""
    for number in range(shards):
        store = SampleStore(directory, f"{writer}{number}")
        for index in (number, number + 1):
            store.add(sample(f"k{index % 2}", index // 2, f"{writer}{number}"))
        store.flush()


def everything(directory: Path) -> dict[str, list[str]]:
    found = SampleStore(directory, "reader").lookup({"k0": 50, "k1": 50})
    return {key: [s.text for s in samples] for key, samples in found.items()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.parquet"))


def test_the_samples_stay_and_the_shards_become_one(tmp_path):
    filled(tmp_path)
    before = everything(tmp_path)
    assert compact(tmp_path, fewest=2, settle_seconds=0) == (6, 0)
    assert len(names(tmp_path)) == 7, "what was read stays for those who have listed it"
    assert everything(tmp_path) == before
    assert compact(tmp_path, fewest=2, settle_seconds=0) == (0, 6)
    assert len(names(tmp_path)) == 1
    assert everything(tmp_path) == before


def test_it_goes_on_with_what_is_new_and_with_its_own(tmp_path):
    for round_ in range(4):
        filled(tmp_path, writer=f"run{round_}-t")
        before = everything(tmp_path)
        compact(tmp_path, fewest=2, settle_seconds=0)
        assert everything(tmp_path) == before
    compact(tmp_path, fewest=2, settle_seconds=0)
    assert everything(tmp_path) == before
    assert len(names(tmp_path)) <= 2


def test_nothing_goes_before_its_time_nor_where_there_is_little(tmp_path):
    filled(tmp_path)
    assert compact(tmp_path, fewest=7) == (0, 0)
    compact(tmp_path, fewest=2)
    assert compact(tmp_path, fewest=2) == (0, 0)
    assert len(names(tmp_path)) == 7


def test_a_reader_that_listed_before_finds_all_of_it(tmp_path):
    filled(tmp_path)
    store = SampleStore(tmp_path, "reader")
    listed = store._list()
    compact(tmp_path, fewest=2, settle_seconds=3600)
    wanted = {"k0": 50, "k1": 50}
    assert len(store._read(listed, wanted)) == 12


@pytest.mark.parametrize("content", [b"", b"PAR1 no shard", None])
def test_damage_is_left_for_readers_and_takes_nothing_with_it(tmp_path, content):
    filled(tmp_path)
    before = everything(tmp_path)
    damaged = tmp_path / "a-damaged-00000.parquet"
    if content is None:
        pl.DataFrame({"something": ["else"]}).write_parquet(damaged)
    else:
        damaged.write_bytes(content)
    assert compact(tmp_path, fewest=2, settle_seconds=0) == (6, 0)
    compact(tmp_path, fewest=2, settle_seconds=0)
    assert damaged.exists()
    assert everything(tmp_path) == before


def test_a_damaged_result_costs_no_shard(tmp_path):
    filled(tmp_path)
    before = everything(tmp_path)
    compact(tmp_path, fewest=2, settle_seconds=0)
    [made] = tmp_path.glob("+*.parquet")
    made.write_bytes(made.read_bytes()[:-40])
    assert compact(tmp_path, fewest=2, settle_seconds=0)[1] == 0
    assert everything(tmp_path) == before


def test_killed_before_the_removal_ends_the_same(tmp_path):
    filled(tmp_path)
    before = everything(tmp_path)
    copies = tmp_path / "copies"
    copies.mkdir()
    for path in tmp_path.glob("*.parquet"):
        shutil.copy(path, copies)
    compact(tmp_path, fewest=2, settle_seconds=0)
    compact(tmp_path, fewest=2, settle_seconds=0)
    for path in copies.glob("*.parquet"):
        shutil.copy(path, tmp_path)  # as if none had been removed
    assert everything(tmp_path) == before
    compact(tmp_path, fewest=2, settle_seconds=0)
    assert len(names(tmp_path)) == 1
    assert everything(tmp_path) == before


def test_two_at_once_lose_nothing(tmp_path, monkeypatch):
    """Another run's compaction comes between the reading and the writing of this one."""
    filled(tmp_path)
    before = everything(tmp_path)
    write = compaction.atomic_write

    def between(path, content):
        monkeypatch.setattr(compaction, "atomic_write", write)
        compact(tmp_path, fewest=2, settle_seconds=0)
        compact(tmp_path, fewest=2, settle_seconds=0)
        write(path, content)

    monkeypatch.setattr(compaction, "atomic_write", between)
    compact(tmp_path, fewest=2, settle_seconds=0)
    for _ in range(3):
        compact(tmp_path, fewest=2, settle_seconds=0)
        assert everything(tmp_path) == before


def test_large_shards_stay(tmp_path, monkeypatch):
    filled(tmp_path)
    monkeypatch.setattr(compaction, "LARGEST_BYTES", 10)
    assert compact(tmp_path, fewest=2, settle_seconds=0) == (0, 0)
    monkeypatch.setattr(compaction, "LARGEST_BYTES", 1 << 20)
    monkeypatch.setattr(compaction, "MOST_BYTES", 2 * max(p.stat().st_size for p in tmp_path.iterdir()))  # fmt: skip
    assert compact(tmp_path, fewest=2, settle_seconds=0)[0] in (2, 3)


def test_a_disk_that_fails_loses_nothing(tmp_path, monkeypatch):
    filled(tmp_path)
    before = everything(tmp_path)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compaction, "atomic_write", full)
    with pytest.raises(OSError, match="No space"):
        compact(tmp_path, fewest=2, settle_seconds=0)
    assert everything(tmp_path) == before
