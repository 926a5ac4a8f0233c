"""Splits by seed and size, built-in data, ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.errors import UserError
from agenttts.tasks.loading.records import Record
from agenttts.tasks.loading.source import check_ids, read_data, take_split


def take(items, split, examples=None, search_examples=None, seed=0):
    return take_split(
        items, split=split, examples=examples, search_examples=search_examples, seed=seed, data="d"
    )


@given(st.integers(2, 40), st.integers(0, 5), st.data())
def test_search_and_test_share_no_example(count, seed, data):
    items = list(range(count))
    searched = data.draw(st.integers(1, count - 1))
    search = take(items, "search", searched, seed=seed)
    test = take(items, "test", search_examples=searched, seed=seed)
    assert len(search) == searched
    assert sorted(search + test) == items
    assert take(items, "search", searched, seed=seed) == search


def test_a_larger_search_split_begins_with_the_smaller_and_the_seed_matters():
    items = list(range(50))
    assert take(items, "search", 20)[:5] == take(items, "search", 5)
    assert take(items, "search", 20) != take(items, "search", 20, seed=1)
    halves = [*take(items, "search", 25), *take(items, "test")]
    assert sorted(halves) == items, "without sizes, the test split is the second half"


def test_too_few_examples():
    with pytest.raises(UserError, match="12 examples asked for, but 'd' has 10; .* at most 10"):
        take(list(range(10)), "search", 12)
    with pytest.raises(UserError, match="8 of them are the search split's.*at most 2"):
        take(list(range(10)), "test", 5, 8)


@given(st.integers(2, 40), st.integers(1, 39), st.data())
def test_a_search_takes_none_of_the_test_split_however_many_it_asks_for(count, limit, data):
    items = list(range(count))
    limit = min(limit, count - 1)
    search = take(items, "search", search_examples=limit)
    assert len(search) == limit
    assert not set(search) & set(take(items, "test", search_examples=limit))
    asked = data.draw(st.integers(1, count))
    if asked > limit:
        with pytest.raises(UserError, match=rf"search_examples leaves those after {limit} to .* at most {limit}"):  # fmt: skip
            take(items, "search", asked, search_examples=limit)
    else:
        assert take(items, "search", asked, search_examples=limit) == take(items, "search", asked)


def test_unknown_splits_and_names(tmp_path):
    with pytest.raises(UserError, match="unknown split 'serach'.*did you mean 'search'"):
        read_data("d.json", {}, split="serach")
    with pytest.raises(UserError, match="no built-in data set 'towhop'.*did you mean 'twohop'"):
        read_data("builtin:towhop", {"twohop": tmp_path})
    with pytest.raises(UserError, match="hub_split.*not a hub data set"):
        read_data("builtin:twohop", {"twohop": tmp_path}, hub_split="train")


def test_two_records_of_one_id():
    records = [Record({}, lambda place=place: place) for place in ("f:1", "f:2", "f:3")]
    with pytest.raises(UserError, match="f:3: id 'a' is also the id of f:1"):
        check_ids(["a", "b", "a"], records)
