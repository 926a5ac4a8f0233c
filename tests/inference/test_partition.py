"""Partitions of samples: every peer draws all, its own share first, the others' from their ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agenttts.inference.partition import ALONE, SamplePartition

KEYS = [f"k{number:02}" for number in range(12)]


def test_alone_the_order_is_the_given_one_and_calls_are_large():
    assert ALONE.shares(KEYS) == [KEYS]
    assert ALONE.call_size(10_000, most=2048) == 2048


def test_a_peer_helps_the_others_from_the_far_end():
    assert SamplePartition(1, 3).shares(KEYS) == [KEYS[4:8], KEYS[:7:-1], KEYS[3::-1]]


@given(count=st.integers(0, 60), peers=st.integers(1, 12))
def test_own_parts_are_disjoint_and_everyone_comes_to_all(count, peers):
    keys = [str(number) for number in range(count)]
    everyone = [SamplePartition(position, peers).shares(keys) for position in range(peers)]
    assert [key for own, *_ in everyone for key in own] == keys
    for shares in everyone:
        assert sorted(key for share in shares for key in share) == sorted(keys)


@given(missing=st.integers(1, 100_000), peers=st.integers(2, 20), most=st.integers(1, 4096))
def test_calls_fill_the_batch_and_leave_turns(missing, peers, most):
    size = SamplePartition(0, peers).call_size(missing, most)
    assert 1 <= size <= most
    assert size >= min(most, 256)
    assert size <= max(256, missing // (4 * peers) + 1)
