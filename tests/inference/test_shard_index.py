"""The index of shards: every row of a key is found, wherever it is."""

from __future__ import annotations

from threading import get_ident

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.inference import shard_index, shard_keys
from agenttts.inference.shard_index import ShardIndex
from agenttts.inference.shard_keys import (
    footer_of,
    key_hashes,
    rows_of,
    runs_in,
    runs_of,
    runs_text,
    shard_options,
)

KEYS = st.lists(st.sampled_from("abcd"), max_size=12)


def write(folder, shards, with_footers=()):
    """Shards of these keys; those of earlier versions have no runs in their footers."""
    paths = [folder / f"{number:03}.parquet" for number in range(len(shards))]
    for number, (path, keys) in enumerate(zip(paths, shards, strict=True)):
        frame = pl.DataFrame(
            {"key": list(keys), "row": range(len(keys))}, schema={"key": str, "row": int}
        )
        options = shard_options(frame) if number in with_footers else {}
        frame.write_parquet(path, **{**options, "row_group_size": 4})
    return paths


def rows(index, paths, *keys):
    shards = {path.name: path for path in paths}
    found = index.find(pl.Series("key", keys, pl.String()), list(shards))
    return [(shards[name], row) for name, rows in found for row in range(*rows)]


def names(paths):
    return [path.name for path in paths]


@given(
    first=st.lists(KEYS, max_size=5),
    later=st.lists(st.lists(KEYS, min_size=1, max_size=2), max_size=4),
    most=st.integers(1, 4),
    at_once=st.sampled_from([1, 1 << 30]),
    with_footers=st.sets(st.integers(0, 12)),
)
def test_the_rows_of_a_key_are_found_and_no_others(
    tmp_path_factory, first, later, most, at_once, with_footers
):
    """In shards that were added together, or one after the other."""
    shards = [*first, *(keys for added in later for keys in added)]
    folder = tmp_path_factory.mktemp("shards")
    paths = write(folder, shards, with_footers)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shard_index, "_GAP", 0)
        patched.setattr(shard_index, "_MOST_READS", 99)
        patched.setattr(shard_index, "_MOST_SEGMENTS", most)
        patched.setattr(shard_index, "_BYTES_AT_ONCE", at_once)
        index, left = ShardIndex(folder), names(paths)
        for count in [len(first), *map(len, later)]:
            index.add(left[:count])
            left = left[count:]
        assert all(name in index for name in names(paths))
        for key in "abcde":
            wanted = [(p, r) for p, keys in zip(paths, shards, strict=True) for r, k in enumerate(keys) if k == key]  # fmt: skip
            assert rows(index, paths, key) == wanted
        index.keep(set(names(paths[1:])))
        assert not paths or paths[0].name not in index
        assert [p for p, _ in rows(index, paths[1:], *"abcd")] == [p for p, keys in zip(paths[1:], shards[1:], strict=True) for _ in keys]  # fmt: skip


def test_rows_near_each_other_are_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_index, "_GAP", 2)
    monkeypatch.setattr(shard_index, "_MOST_READS", 2)
    [path] = write(tmp_path, ["axaxxxaxxxax"])
    index = ShardIndex(tmp_path)
    index.add([path.name])
    a = pl.Series("key", ["a"], pl.String())
    assert list(index.find(a, [path.name])) == [(path.name, None)], "three reads are more than two"
    monkeypatch.setattr(shard_index, "_MOST_READS", 3)
    found = list(index.find(a, [path.name]))
    assert found == [(path.name, (0, 3)), (path.name, (6, 7)), (path.name, (10, 11))]


def test_a_shard_that_cannot_be_read_leaves_the_index_as_it_was(tmp_path):
    good, bad = write(tmp_path, ["ab", "c"])
    bad.write_bytes(bad.read_bytes()[:-3])
    index = ShardIndex(tmp_path)
    with pytest.raises(pl.exceptions.PolarsError):
        index.add(names([good, bad]))
    assert good.name not in index
    index.add([good.name])
    assert rows(index, [good], "b") == [(good, 1)]


def test_a_slow_file_system_is_asked_for_several_footers_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_index, "_SLOW_SECONDS", 0.0)
    threads = set()
    monkeypatch.setattr(
        shard_index, "footer_of", lambda path: threads.add(get_ident()) or footer_of(path)
    )
    paths = write(tmp_path, [f"a{n:02}" for n in range(40)], set(range(40)))
    index = ShardIndex(tmp_path)
    index.add(names(paths))
    assert len(threads) > 1
    assert rows(index, paths, "a") == [(path, 0) for path in paths]


@given(KEYS)
def test_the_footer_of_a_shard_says_where_its_keys_are(tmp_path_factory, keys):
    [path] = write(tmp_path_factory.mktemp("shards"), [keys], {0})
    found = runs_in(runs_text(footer_of(path)))
    assert found.tolist() == runs_of(pl.Series("key", keys, pl.String())).tolist()
    rows = [range(*run) for run in zip(*rows_of(found["start"], found["length"]), strict=True)]
    assert [row for run in rows for row in run] == [*range(len(keys))]
    hashes = np.repeat(found["hash"], [len(run) for run in rows])
    assert hashes.tolist() == key_hashes(keys).tolist()


def test_a_long_footer_is_read_whole(tmp_path):
    keys = [f"k{number}" for number in range(5000)]
    [path] = write(tmp_path, [keys], {0})
    assert len(footer_of(path)) > shard_keys._TAIL_BYTES
    found = runs_in(runs_text(footer_of(path)))
    starts, ends = rows_of(found["start"], found["length"])
    assert (starts.tolist(), ends.tolist()) == ([*range(5000)], [*range(1, 5001)])


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"\xff\xff\xff\x7fPAR1", b"\x18\x0fagenttts.runs.2\x18", b"\x18\x0fagenttts.runs.2\x18\x04\xff!!!PAR1", b"\x18\x0fagenttts.runs.2\x18\x04AAAAPAR1"]
)  # fmt: skip
def test_a_footer_without_sound_runs_has_none(tmp_path, content):
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    assert runs_text(footer_of(path)) is None


@given(st.lists(st.integers(1, 1 << 26), min_size=1, max_size=4))
def test_runs_of_many_rows_are_read_as_they_were_written(lengths):
    """As text, a number has seven bits in each byte."""
    keys = pl.Series("key", [str(number) for number in range(len(lengths))])
    runs = pl.DataFrame({"len": pl.Series(lengths, dtype=pl.UInt32), "value": keys}).to_struct()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pl.Series, "rle", lambda keys: runs)
        options = shard_options(pl.DataFrame({"key": keys}))
    found = runs_in(options["metadata"][shard_keys._RUNS].encode("utf-8"))
    starts, ends = rows_of(found["start"], found["length"])
    assert (ends - starts).tolist() == lengths
    assert starts.tolist() == (np.cumsum(lengths) - lengths).tolist()
