"""Compaction of the sample store: the same samples in fewer shards, whoever reads or is killed
meanwhile.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttts.inference import compaction
from agenttts.inference.compaction import compact
from agenttts.inference.store import SampleStore, StoredSample
from tests.support.full_disk import full_disk


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
    return {key: [s.text for _, s in sorted(samples.items())] for key, samples in found.items()}


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


def test_a_shard_that_may_not_be_read_is_left_out(tmp_path, monkeypatch):
    filled(tmp_path)
    [closed, *_] = names(tmp_path)
    read = pl.read_parquet

    def refuse(shard, **options):
        if Path(shard).name == closed:
            raise PermissionError(13, "Permission denied", str(shard))
        return read(shard, **options)

    monkeypatch.setattr(compaction.pl, "read_parquet", refuse)
    assert compact(tmp_path, fewest=2, settle_seconds=0) == (5, 0)
    assert compact(tmp_path, fewest=2, settle_seconds=0) == (0, 5)
    assert closed in names(tmp_path)


@pytest.mark.parametrize(
    ("mode", "of_the_result", "removed"),
    [
        (0o644, 0o600, 0),  # by a colleague with the umask 077
        (0o644, 0o640, 0),
        (0o640, 0o600, 0),
        (0o640, 0o640, 6),
        (0o600, 0o600, 6),
        (0o600, 0o644, 6),
    ],
)
def test_a_shard_that_more_people_may_read_than_the_result_stays(
    tmp_path, mode, of_the_result, removed
):
    filled(tmp_path)
    for shard in tmp_path.glob("*.parquet"):
        shard.chmod(mode)
    compact(tmp_path, fewest=2, settle_seconds=0)
    [made] = tmp_path.glob("+*.parquet")
    made.chmod(of_the_result)
    assert compact(tmp_path, fewest=2, settle_seconds=0) == (0, removed)
    assert len(names(tmp_path)) == 7 - removed


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may give files to others")
@pytest.mark.parametrize(
    ("mode", "user", "group", "removed"),
    [
        (0o640, 0, 77, 0),
        (0o640, 66, 77, 0),
        (0o640, 66, 0, 1),
        (0o600, 66, 0, 1),
        (0o600, 66, 77, 0),
    ],
)
def test_a_shard_of_another_user_stays_if_he_may_not_read_the_result(
    tmp_path, mode, user, group, removed
):
    filled(tmp_path)
    [other, *rest] = tmp_path.glob("*.parquet")
    for shard in rest:
        shard.chmod(0o600)
    other.chmod(mode)
    os.chown(other, user, group)
    compact(tmp_path, fewest=2, settle_seconds=0)
    [made] = tmp_path.glob("+*.parquet")
    made.chmod(0o640)
    os.chown(made, 0, 0)
    assert compact(tmp_path, fewest=2, settle_seconds=0) == (0, 5 + removed)
    assert other.exists() != bool(removed)


def test_a_shard_that_may_not_be_removed_keeps_no_other_from_it(tmp_path, monkeypatch):
    """As in a directory with the sticky bit, where a colleague's files cannot be removed."""
    filled(tmp_path)
    [kept, *_] = names(tmp_path)
    unlink = Path.unlink

    def refuse(path, missing_ok=False):
        if path.name == kept:
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    compact(tmp_path, fewest=2, settle_seconds=0)
    filled(tmp_path, writer="later-t")
    assert compact(tmp_path, fewest=2, settle_seconds=0) == (7, 5)
    assert kept in names(tmp_path)


@pytest.mark.parametrize("part", ["end", "samples"])
def test_a_damaged_result_costs_no_shard(tmp_path, part):
    filled(tmp_path)
    before = everything(tmp_path)
    compact(tmp_path, fewest=2, settle_seconds=0)
    [made] = tmp_path.glob("+*.parquet")
    content = made.read_bytes()
    made.write_bytes(content[:-40] if part == "end" else b"PAR1" + bytes(200) + content[204:])
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
    write = compaction.atomic_write_parquet

    def between(path, frame, **options):
        monkeypatch.setattr(compaction, "atomic_write_parquet", write)
        compact(tmp_path, fewest=2, settle_seconds=0)
        compact(tmp_path, fewest=2, settle_seconds=0)
        write(path, frame, **options)

    monkeypatch.setattr(compaction, "atomic_write_parquet", between)
    compact(tmp_path, fewest=2, settle_seconds=0)
    for _ in range(3):
        compact(tmp_path, fewest=2, settle_seconds=0)
        assert everything(tmp_path) == before


def test_large_shards_stay(tmp_path, monkeypatch):
    filled(tmp_path)
    monkeypatch.setattr(compaction, "LARGEST_BYTES", 10)
    assert compact(tmp_path, fewest=2, settle_seconds=0) == (0, 0)
    monkeypatch.setattr(compaction, "LARGEST_BYTES", 1 << 20)
    before = everything(tmp_path)
    sizes = [pl.read_parquet(p).estimated_size() for p in tmp_path.iterdir()]
    monkeypatch.setattr(compaction, "MOST_BYTES", 2 * max(sizes))
    assert compact(tmp_path, fewest=2, settle_seconds=0) == (6, 0)
    assert len(names(tmp_path)) == 6 + 3
    assert everything(tmp_path) == before
    assert compact(tmp_path, fewest=9, settle_seconds=0) == (0, 6)
    assert everything(tmp_path) == before


def test_a_shard_that_is_large_in_memory_alone_stays(tmp_path, monkeypatch):
    """Replies that repeat themselves are tiny on the disk."""
    filled(tmp_path)
    store = SampleStore(tmp_path, "loops")
    for index in range(200):
        store.add(sample("loop", index, f"{index} again and again " * 2000))
    store.flush()
    [loops] = tmp_path.glob("loops*.parquet")
    assert loops.stat().st_size * 20 < pl.read_parquet(loops).estimated_size()
    monkeypatch.setattr(compaction, "_PROBED_BYTES", 1000)
    monkeypatch.setattr(compaction, "MOST_BYTES", 1 << 20)
    compact(tmp_path, fewest=2, settle_seconds=0)
    compact(tmp_path, fewest=2, settle_seconds=0)
    assert names(tmp_path)[1:] == [loops.name]


PEAK = """
import resource, sys
from pathlib import Path
from agenttts.inference import compaction
from tests.support.full_disk import full_disk
import polars as pl
pl.DataFrame({"a": [1]}).write_parquet("/dev/null")
compaction.MOST_BYTES = int(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
compaction.compact(Path(sys.argv[1]), fewest=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.processes
def test_memory_is_bounded_however_much_there_is(tmp_path):
    """100 MB of samples, read 8 MB at a time."""
    rng = random.Random(0)
    for number in range(50):
        store = SampleStore(tmp_path, f"w{number:02}")
        for index in range(100):
            store.add(sample(f"k{number}", index, rng.randbytes(10_000).hex()))
        store.flush()
    command = [sys.executable, "-c", PEAK, str(tmp_path), str(8 << 20)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) << 10 < 80 << 20, "kB"


@settings(max_examples=20)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=6), max_size=8),
    st.integers(1, 4000),
    st.integers(1, 3),
)
def test_whatever_is_in_the_shards_is_found_the_same_afterwards(shards, most, rounds):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(compaction, "MOST_BYTES", most)
        directory = Path(folder)
        for number, samples in enumerate(shards):
            store = SampleStore(directory, f"w{number}")
            for key, index in samples:
                store.add(sample(f"k{key}", index, f"{number}"))
            store.flush()
        wanted = {f"k{key}": 9 for key in range(4)}
        before = SampleStore(directory, "reader").lookup(wanted)
        for _ in range(rounds):
            compact(directory, fewest=2, settle_seconds=0)
            assert SampleStore(directory, "reader").lookup(wanted) == before


def test_samples_of_a_prompt_that_was_cut_for_two_contexts_both_stay(tmp_path):
    drawn = [StoredSample("k", 0, f"of {n}", 3, "stop", n, True, "m") for n in (60, 90, 60)]
    for number, one in enumerate(drawn):
        store = SampleStore(tmp_path, f"w{number}")
        store.add(one)
        store.flush()
    for _ in range(2):
        compact(tmp_path, fewest=2, settle_seconds=0)
    assert len(list(tmp_path.glob("*.parquet"))) == 1
    for length in (60, 90):
        found = SampleStore(tmp_path, "r").lookup(
            {"k": 1}, lambda s, n=length: s.prompt_tokens == n
        )
        assert found["k"][0].text == f"of {length}"


def test_a_full_disk_loses_nothing(tmp_path):
    filled(tmp_path)
    before = everything(tmp_path)

    with full_disk(300), pytest.raises(OSError, match="File too large"):
        compact(tmp_path, fewest=2, settle_seconds=0)
    assert everything(tmp_path) == before
