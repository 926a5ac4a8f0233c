"""Differences of two sides, and when they can be told."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.tables.difference import Difference, compare

VALUES = st.dictionaries(st.sampled_from("abcdefghijkl"), st.floats(0, 1), min_size=1)


def named(values: list[float], prefix: str = "e") -> dict[str, float]:
    return {f"{prefix}{number}": value for number, value in enumerate(values)}


def compared(first: dict[str, float], second: dict[str, float]) -> Difference:
    found = compare(first, second)
    assert found is not None
    return found


def test_a_paired_difference_is_told_where_the_means_alone_do_not_tell_it():
    hard = [float(number % 2) * 0.8 for number in range(40)]
    first, second = named([value + 0.1 for value in hard]), named(hard)
    paired = compared(first, second)
    assert (paired.verdict, paired.paired, paired.examples) == ("better", True, 40)
    assert paired.difference == pytest.approx(0.1)
    others = compared(first, named(hard, "other"))
    assert (others.verdict, others.paired) == ("not to be told", False)
    assert others.difference == pytest.approx(0.1)


def test_more_examples_that_it_asks_for_do_tell():
    rng = random.Random(4)
    pattern = [(1.0, 0.0)] * 6 + [(0.0, 1.0)] * 4 + [(1.0, 1.0)] * 10
    rng.shuffle(pattern)
    few = compared(named([a for a, _ in pattern]), named([b for _, b in pattern]))
    assert few.verdict == "not to be told"
    assert few.more_examples is not None
    times = -(-(20 + few.more_examples) // 20)
    many = pattern * times
    told = compared(named([a for a, _ in many]), named([b for _, b in many]))
    assert (told.verdict, told.more_examples) == ("better", None)
    most = pattern * (times // 2)
    untold = compared(named([a for a, _ in most]), named([b for _, b in most]))
    assert untold.verdict == "not to be told", "half as many do not"


@pytest.mark.parametrize(("pairs", "verdict"), [(5, "not to be told"), (6, "better")])
def test_a_handful_of_pairs_that_agree_may_be_chance(pairs, verdict):
    found = compared(named([1.0] * pairs), named([0.0] * pairs))
    assert found.verdict == verdict
    assert found.more_examples == (None if verdict == "better" else 1)


@pytest.mark.parametrize(("count", "verdict"), [(3, "not to be told"), (4, "worse")])
def test_so_may_a_handful_of_different_examples(count, verdict):
    found = compared(named([0.0, 0.1, 0.0, 0.1][:count]), named([1.0] * count, "other"))
    assert (found.verdict, found.paired) == (verdict, False)


def test_equal_sides_differ_by_nothing_and_no_number_of_examples_helps():
    found = compared(named([0.0, 1.0] * 9), named([0.0, 1.0] * 9))
    assert (found.difference, found.stderr) == (0.0, 0.0)
    assert (found.verdict, found.more_examples) == ("not to be told", None)


def test_pairs_that_all_differ_alike_leave_others_open():
    # Wilson's interval of 18 of 18 begins at 0.824.
    same = compared(named([0.0, 1.0] * 9), named([0.0, 1.0] * 9))
    assert (same.low, same.high) == (
        pytest.approx(-0.176, abs=1e-3),
        pytest.approx(0.176, abs=1e-3),
    )
    up = compared(named([1.0] * 18), named([0.0] * 18))
    down = compared(named([0.0] * 18), named([1.0] * 18))
    assert (up.low, up.high) == (pytest.approx(0.648, abs=1e-3), 1.0)
    assert (down.low, down.high) == (-1.0, pytest.approx(-0.648, abs=1e-3))
    tokens = compared(named([300.0] * 18), named([100.0] * 18))
    assert (tokens.low, tokens.high) == (200.0, 200.0), "no share: its bounds are not known"


def test_sides_that_are_all_right_or_all_wrong_leave_others_open():
    # Newcombe's method 10: 1 - sqrt(0.490**2 + 0.490**2).
    told = compared(named([1.0] * 4), named([0.0] * 4, "other"))
    assert (told.low, told.high) == (pytest.approx(0.307, abs=1e-3), 1.0)
    assert told.verdict == "better"
    alike = compared(named([1.0] * 4), named([1.0] * 4, "other"))
    assert (alike.low, alike.high) == (
        pytest.approx(-0.49, abs=1e-3),
        pytest.approx(0.49, abs=1e-3),
    )


@pytest.mark.parametrize(("one", "two"), [(300.0, 1.0), (5.0, 0.0), (0.0, -1.0)])
def test_equal_values_that_are_no_shares_have_no_wilson_interval(one, two):
    """Tokens, or points of ten."""
    told = compared(named([one] * 4), named([two] * 4, "other"))
    assert (told.low, told.high) == (one - two, one - two)


def test_one_example_has_no_interval_and_none_no_difference():
    found = compared({"a": 1.0}, {"a": 0.0})
    assert (found.low, found.high, found.verdict) == (None, None, "not to be told")
    assert compare({}, {"a": 1.0}) is None
    assert compare({"a": 1.0}, {}) is None


@pytest.mark.parametrize(("common", "paired"), [(5, True), (4, False)])
def test_at_least_half_of_the_smaller_side_has_to_be_common(common, paired):
    first = named([1.0] * 10)
    second = named([0.0] * common) | named([0.0] * 20, "other")
    assert compared(named([1.0] * 10), dict(list(second.items())[: common + 20])).paired is paired
    assert compared(first, named([0.0] * 10)).examples == 10


@given(VALUES, VALUES)
def test_the_other_way_round_it_is_the_opposite(first, second):
    one, other = compared(first, second), compared(second, first)
    assert one.difference == pytest.approx(-other.difference)
    assert (one.paired, one.examples) == (other.paired, other.examples)
    if not one.paired:
        opposite = {
            "better": "worse",
            "worse": "better",
            "not to be told": "not to be told",
        }
        assert one.verdict == opposite[other.verdict]
