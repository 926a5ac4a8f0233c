"""The sample store: several writers at once, flushes meanwhile, damaged shards."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.inference import shard_index
from agenttts.inference import store as store_module
from agenttts.inference.shard_index import ShardIndex
from agenttts.inference.store import SampleStore, StoredSample
from tests.support.waiting import until


def sample(key: str, index: int, text: str = "") -> StoredSample:
    return StoredSample(key, index, text or f"{key}{index}", 3, "stop", 7, False, "m")


def filled(directory, *samples, writer="w"):
    store = SampleStore(directory, writer)
    for one in samples:
        store.add(one)
    store.flush()
    return store


def texts(found):
    return {key: [s.text for _, s in sorted(samples.items())] for key, samples in found.items()}


def test_an_empty_store_has_nothing(tmp_path):
    assert SampleStore(tmp_path / "none", "w").lookup({"a": 3}) == {"a": {}}
    assert not (tmp_path / "none").exists(), "looking makes no directory"


def test_what_is_added_is_found_at_once_here_and_after_a_flush_elsewhere(tmp_path):
    here, there = SampleStore(tmp_path, "here"), SampleStore(tmp_path, "there")
    here.add(sample("a", 0))
    assert texts(here.lookup({"a": 5})) == {"a": ["a0"]}
    assert there.lookup({"a": 5}) == {"a": {}}
    here.flush()
    assert there.lookup({"a": 5}) == here.lookup({"a": 5}) == {"a": {0: sample("a", 0)}}
    here.flush()
    assert len(list(tmp_path.iterdir())) == 1, "nothing new, nothing written"


@given(st.sets(st.integers(0, 12)), st.integers(0, 14))
def test_lookup_gives_what_is_there_also_after_a_gap(tmp_path_factory, there, wanted):
    directory = tmp_path_factory.mktemp("store")
    store = filled(directory, *(sample("a", index) for index in sorted(there, reverse=True)))
    found = store.lookup({"a": wanted, "b": 2})
    assert found == {"a": {i: sample("a", i) for i in there if i < wanted}, "b": {}}


def test_of_two_samples_of_one_address_every_reader_takes_the_same(tmp_path):
    first = filled(tmp_path, sample("a", 0, "one"), writer="x")
    second = filled(tmp_path, sample("a", 0, "other"), writer="b")
    assert first.lookup({"a": 1}) == second.lookup({"a": 1}) == SampleStore(tmp_path, "c").lookup({"a": 1})  # fmt: skip
    assert texts(first.lookup({"a": 1})) == {"a": ["other"]}, "the first shard by name"


WRITER = """
import sys
from pathlib import Path
from agenttts.inference.store import SampleStore, StoredSample
store = SampleStore(Path(sys.argv[1]), "same-name")
for index in range(30):
    store.add(StoredSample(sys.argv[2], index, f"{sys.argv[2]}{index}", 1, "stop", 1, False, "m"))
    store.flush()
    assert len(store.lookup({sys.argv[2]: 99})[sys.argv[2]]) == index + 1
"""


@pytest.mark.processes
def test_two_writers_at_once_lose_nothing(tmp_path):
    """They have one name, as processes of equal number on two nodes do, and read what the other
    is writing.
    """
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), key]) for key in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    found = SampleStore(tmp_path, "reader").lookup({"a": 30, "b": 30})
    assert texts(found) == {key: [f"{key}{n}" for n in range(30)] for key in "ab"}


def test_text_of_any_kind_survives(tmp_path):
    odd = 'a "quote"\n\u2028 line, a null \x00, 日本 and \\u0041'
    filled(tmp_path, sample("a", 0, odd))
    assert texts(SampleStore(tmp_path, "r").lookup({"a": 1})) == {"a": [odd]}


def damage_cut(shard):
    shard.write_bytes(shard.read_bytes()[:-20])


def damage_empty(shard):
    shard.write_bytes(b"")


def damage_foreign(shard):
    pl.DataFrame({"x": [1]}).write_parquet(shard)


def damage_garbled(shard):
    content = bytearray(shard.read_bytes())
    content[4:60] = bytes(56)
    shard.write_bytes(content)


def damage_end(shard):
    content = shard.read_bytes()
    shard.write_bytes(content[:-40] + bytes(40))


def damage_middle(shard):
    content = shard.read_bytes()
    shard.write_bytes(content[:4] + content[-60:])


def garble_footer(shard):
    """As a later version of the format could be."""
    content = bytearray(shard.read_bytes())
    length = int.from_bytes(content[-8:-4], "little")
    content[-8 - length : -8] = bytes([0xFF]) * length
    shard.write_bytes(content)


@pytest.mark.parametrize("damage", [damage_cut, damage_empty, damage_end, damage_middle])
def test_a_damaged_shard_is_set_aside_and_its_samples_drawn_again(tmp_path, damage, caplog):
    for key in "abc":
        filled(tmp_path, sample(key, 0), writer=key)
    victim = sorted(tmp_path.iterdir())[1]
    damage(victim)
    wanted = {"a": 1, "b": 1, "c": 1}
    store = SampleStore(tmp_path, "r")
    assert texts(store.lookup(wanted)) == {"a": ["a0"], "b": [], "c": ["c0"]}
    assert not victim.exists()
    assert victim.with_name(victim.name + ".damaged").exists()
    assert f"{victim} is damaged" in caplog.text
    store.add(sample("b", 0))
    store.flush()
    caplog.clear()
    assert texts(SampleStore(tmp_path, "s").lookup(wanted)) == {"a": ["a0"], "b": ["b0"], "c": ["c0"]}  # fmt: skip
    assert not caplog.text


@pytest.mark.parametrize("damage", [damage_garbled, garble_footer])
def test_a_whole_shard_that_cannot_be_read_is_left_where_it_is(tmp_path, damage, caplog):
    """A later Polars may have written it, for a colleague who can read it."""
    for key in "abc":
        filled(tmp_path, sample(key, 0), writer=key)
    unread = sorted(tmp_path.iterdir())[1]
    damage(unread)
    content = unread.read_bytes()
    store = SampleStore(tmp_path, "r")
    for _ in range(2):
        found = store.lookup({"a": 1, "b": 1, "c": 1})
        assert texts(found) == {"a": ["a0"], "b": [], "c": ["c0"]}
    assert unread.read_bytes() == content
    assert caplog.text.count(f"{unread} cannot be read with Polars {pl.__version__} (") == 1
    assert len([*tmp_path.iterdir()]) == 3


def test_a_damaged_shard_that_cannot_be_moved_is_not_used(tmp_path, monkeypatch, caplog):
    filled(tmp_path, sample("a", 0))
    [victim] = tmp_path.iterdir()
    damage_cut(victim)

    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(victim), "rename", refuse)
    store = SampleStore(tmp_path, "r")
    assert texts(store.lookup({"a": 1})) == {"a": []}
    assert "cannot be moved aside (Permission denied)" in caplog.text
    caplog.clear()
    assert texts(store.lookup({"a": 1})) == {"a": []}
    assert not caplog.text, "told once"


def test_a_shard_that_may_not_be_read_is_not_used(tmp_path, monkeypatch, caplog):
    """Of a colleague whose files nobody else may read; tests may run as root, who may."""
    filled(tmp_path, sample("a", 0))
    filled(tmp_path, sample("a", 1), sample("b", 0), writer="colleague")
    [closed] = tmp_path.glob("colleague*")
    footer_of = shard_index.footer_of

    def refuse(shard):
        if Path(shard) == closed:
            raise PermissionError(13, "Permission denied", str(shard))
        return footer_of(shard)

    monkeypatch.setattr(shard_index, "footer_of", refuse)
    store = SampleStore(tmp_path, "r")
    for _ in range(2):
        assert texts(store.lookup({"a": 2, "b": 1})) == {"a": ["a0"], "b": []}
    assert caplog.text.count(f"{closed} cannot be read (Permission denied) and is not used") == 1
    assert closed.exists()


def test_another_program_s_file_is_left_where_it_is(tmp_path, caplog):
    filled(tmp_path, sample("a", 0))
    damage_foreign(tmp_path / "mine.parquet")
    assert texts(SampleStore(tmp_path, "r").lookup({"a": 1})) == {"a": ["a0"]}
    assert (tmp_path / "mine.parquet").exists()
    assert "is not a shard of this version's sample store" in caplog.text


@pytest.mark.parametrize(
    "change", [lambda f: f.drop("text"), lambda f: f.with_columns(pl.col("index").cast(pl.String))]
)
@pytest.mark.parametrize("few", [0, 9])
def test_a_shard_with_other_columns_is_left_where_it_is(tmp_path, change, few, monkeypatch, caplog):
    monkeypatch.setattr(store_module, "_FEW_READS", few)
    filled(tmp_path, sample("a", 0))
    [shard] = tmp_path.iterdir()
    other = change(pl.read_parquet(shard))
    other.write_parquet(tmp_path / "other.parquet")
    assert texts(SampleStore(tmp_path, "r").lookup({"a": 1})) == {"a": ["a0"]}
    assert (tmp_path / "other.parquet").exists()
    assert "other.parquet is not a shard of this version's sample store" in caplog.text


@pytest.mark.parametrize("few", [0, 9])
def test_a_directory_may_have_any_name(tmp_path, few, monkeypatch):
    """Polars takes ``NAME=VALUE`` in a path for a column, and ``*`` for a pattern."""
    monkeypatch.setattr(store_module, "_FEW_READS", few)
    folder = tmp_path / "index=3 [a]*"
    filled(folder, sample("a", 0))
    assert texts(SampleStore(folder, "r").lookup({"a": 1})) == {"a": ["a0"]}


@pytest.mark.parametrize("few", [0, 9])
def test_a_shard_of_a_later_version_is_read(tmp_path, few, monkeypatch):
    monkeypatch.setattr(store_module, "_FEW_READS", few)
    filled(tmp_path, sample("a", 0))
    [shard] = tmp_path.iterdir()
    pl.read_parquet(shard).with_columns(later=pl.lit(1)).write_parquet(shard)
    assert texts(SampleStore(tmp_path, "r").lookup({"a": 1})) == {"a": ["a0"]}


def test_a_shard_of_an_earlier_version_is_read(tmp_path):
    """Its footer does not say where its keys are, and its columns may be in another order."""
    filled(tmp_path, *(sample("ab"[n % 2], n // 2) for n in range(8)))
    [shard] = tmp_path.iterdir()
    frame = pl.read_parquet(shard)
    frame.select(reversed(frame.columns)).sort("index").write_parquet(shard)
    filled(tmp_path, sample("a", 4), writer="z")
    found = SampleStore(tmp_path, "r").lookup({"a": 9, "b": 2})
    assert texts(found) == {"a": [f"a{n}" for n in range(5)], "b": ["b0", "b1"]}


def test_samples_of_a_key_are_written_together(tmp_path):
    """An engine finishes those of many prompts in turn; of equal ones the first counts."""
    filled(tmp_path, sample("b", 1), sample("a", 0), sample("b", 0, "one"), sample("a", 1), sample("b", 0, "other"))  # fmt: skip
    [shard] = tmp_path.iterdir()
    assert pl.read_parquet(shard)["key"].to_list() == [*"bbbaa"]
    assert texts(SampleStore(tmp_path, "r").lookup({"b": 2})) == {"b": ["one", "b1"]}


def test_samples_are_found_wherever_they_are_in_a_large_shard(tmp_path, monkeypatch):
    """By some reads of a few rows, or by one of all."""
    monkeypatch.setattr(shard_index, "_GAP", 1)
    everything = [sample(f"k{n % 40}", n // 40) for n in range(400)]
    filled(tmp_path, *everything)
    for most in (2, 99):
        monkeypatch.setattr(shard_index, "_MOST_READS", most)
        found = SampleStore(tmp_path, "r").lookup({"k3": 10, "k30": 4})
        assert found == {
            "k3": {n: sample("k3", n) for n in range(10)},
            "k30": {n: sample("k30", n) for n in range(4)},
        }


def test_shards_of_several_versions_are_indexed_together(tmp_path, monkeypatch):
    filled(tmp_path, sample("a", 0), writer="w0")
    [shard] = tmp_path.iterdir()
    later = pl.read_parquet(shard).with_columns(key=pl.lit("b"), more=pl.lit(1))
    later.select(reversed(later.columns)).write_parquet(tmp_path / "w1.parquet")
    filled(tmp_path, sample("c", 0), writer="w2")
    added: list[int] = []
    add = ShardIndex.add
    monkeypatch.setattr(ShardIndex, "add", lambda i, shards: added.append(len(shards)) or add(i, shards))  # fmt: skip
    found = SampleStore(tmp_path, "r").lookup({"a": 1, "b": 1, "c": 1})
    assert texts(found) == {"a": ["a0"], "b": ["a0"], "c": ["c0"]}
    assert added == [3]


def test_a_shard_that_vanishes_is_no_error(tmp_path, monkeypatch):
    """Another job sets a damaged one aside between this one's listing and its reading."""
    filled(tmp_path, sample("a", 0))
    filled(tmp_path, sample("b", 0), writer="z")
    store = SampleStore(tmp_path, "r")
    gone = sorted(tmp_path.iterdir())[0]
    listed = store._list()
    monkeypatch.setattr(store, "_list", lambda: listed)
    gone.unlink()
    assert texts(store.lookup({"a": 1, "b": 1})) == {"a": [], "b": ["b0"]}


def test_what_a_killed_writer_left_is_no_shard(tmp_path):
    filled(tmp_path, sample("a", 0))
    (tmp_path / ".w-00001.parquet.abc.agenttts-tmp").write_bytes(b"half")
    (tmp_path / ".hidden.parquet").write_bytes(b"half")
    assert texts(SampleStore(tmp_path, "r").lookup({"a": 1})) == {"a": ["a0"]}


def test_what_is_added_during_a_flush_is_written_by_the_next(tmp_path, monkeypatch):
    store = SampleStore(tmp_path, "w")
    write = store_module.atomic_write_parquet

    def slow(path, frame, **options):
        store.add(sample("a", 1))
        assert texts(store.lookup({"a": 9})) == {"a": ["a0", "a1"]}
        write(path, frame, **options)

    store.add(sample("a", 0))
    with monkeypatch.context() as patched:
        patched.setattr(store_module, "atomic_write_parquet", slow)
        store.flush()
    other = SampleStore(tmp_path, "other")
    assert texts(other.lookup({"a": 9})) == {"a": ["a0"]}
    store.flush()
    assert texts(other.lookup({"a": 9})) == texts(store.lookup({"a": 9})) == {"a": ["a0", "a1"]}


def test_a_regular_flush_that_fails_is_repeated_and_told_once(tmp_path, monkeypatch, caplog):
    store = SampleStore(tmp_path, "w")
    write = store_module.atomic_write_parquet
    failures = iter(range(2))

    def failing(path, frame, **options):
        if next(failures, None) is not None:
            raise OSError(116, "Stale file handle")
        write(path, frame, **options)

    monkeypatch.setattr(store_module, "atomic_write_parquet", failing)
    with store.flushed_regularly(0.01):
        store.add(sample("a", 0))
        until(lambda: list(tmp_path.glob("*.parquet")), "a shard")
        store.add(sample("a", 1))
    assert texts(SampleStore(tmp_path, "r").lookup({"a": 9})) == {"a": ["a0", "a1"]}
    assert caplog.text.count("Stale file handle") == 1


def test_the_last_flush_tells_of_its_failure(tmp_path, monkeypatch):
    store = SampleStore(tmp_path, "w")

    def failing(path, frame, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "atomic_write_parquet", failing)
    monkeypatch.setattr(store_module, "_PATIENCE_S", 0.1)
    with pytest.raises(OSError, match="No space"), store.flushed_regularly(0.01):
        store.add(sample("a", 0))
    assert texts(store.lookup({"a": 9})) == {"a": ["a0"]}, "it is kept for the next flush"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE])
def test_finished_samples_wait_for_a_disk_that_is_full_for_a_while(tmp_path, monkeypatch, number):
    store, write = SampleStore(tmp_path, "w"), store_module.atomic_write_parquet
    failures = iter(range(8))

    def failing(path, frame, **options):
        if next(failures, None) is not None:
            raise OSError(number, os.strerror(number))
        write(path, frame, **options)

    monkeypatch.setattr(store_module, "atomic_write_parquet", failing)
    with store.flushed_regularly(0.01):
        store.add(sample("a", 0))
    assert next(failures, None) is None
    assert texts(SampleStore(tmp_path, "r").lookup({"a": 9})) == {"a": ["a0"]}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_samples_wait_for_no_disk_if_the_job_is_stopped_or_it_will_not_pass(
    tmp_path, monkeypatch, number
):
    """A job that is preempted has seconds."""
    store, tries = SampleStore(tmp_path, "w"), []

    def failing(path, frame, **options):
        tries.append(path)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store_module, "atomic_write_parquet", failing)
    with pytest.raises(OSError, match=os.strerror(number)), store.flushed_regularly(60):  # noqa: PT012
        store.add(sample("a", 0))
        if number == errno.ENOSPC:
            raise KeyboardInterrupt
    assert len(tries) == 1


def test_a_look_up_reads_only_the_shards_that_have_its_keys(tmp_path, monkeypatch):
    """However many there are; their keys are read once."""
    for number in range(6):
        filled(tmp_path, sample("abcdef"[number], 0), sample("z", number), writer=f"w{number}")
    store, read, indexed = SampleStore(tmp_path, "r"), [], []
    rows, add = store_module._rows, ShardIndex.add
    monkeypatch.setattr(store_module, "_rows", lambda *more: read.append(more[0]) or rows(*more))
    monkeypatch.setattr(ShardIndex, "add", lambda i, shards: indexed.extend(shards) or add(i, shards))  # fmt: skip
    assert texts(store.lookup({"c": 3})) == {"c": ["c0"]}
    assert [shard.name[:2] for shard in read] == ["w2"]
    assert len(indexed) == 6
    assert texts(store.lookup({"a": 3, "none": 1})) == {"a": ["a0"], "none": []}
    assert [shard.name[:2] for shard in read] == ["w2", "w0"]
    assert len(indexed) == 6
    assert len(store.lookup({"z": 9})["z"]) == 6


def test_odd_writer_names_make_plain_file_names(tmp_path):
    filled(tmp_path, sample("a", 0), writer="../run name/é")
    [shard] = tmp_path.iterdir()
    assert shard.suffix == ".parquet"
    assert shard.name.isascii()


def test_news_are_what_others_have_stored_since_and_nothing_else_is_read(tmp_path, monkeypatch):
    read: list[str] = []
    rows = store_module._rows

    def recorded(shard, *more):
        read.append(shard.name)
        return rows(shard, *more)

    mine, other = SampleStore(tmp_path, "mine"), filled(tmp_path, sample("a", 0), writer="other")
    assert texts(mine.lookup({"a": 9})) == {"a": ["a0"]}
    mine.add(sample("a", 1))
    mine.flush()
    other.add(sample("a", 2))
    other.flush()
    monkeypatch.setattr(store_module, "_rows", recorded)
    assert mine.lookup_new({"a": 9, "b": 1}) == {"a": {2: sample("a", 2)}, "b": {}}
    assert len(read) == 1
    assert read[0].startswith("other-")
    assert mine.lookup_new({"a": 9}) == {"a": {}}
    assert mine.lookup_new({}) == {}
    assert len(read) == 1
