"""Tests of the majority vote (agenttts/tasks/votes.py)."""

import pytest

from agenttts.tasks.votes import most_frequent


@pytest.mark.parametrize(
    ("candidates", "winner"),
    [
        ([], None),
        (["a"], "a"),
        (["a", "b", "b"], "b"),
        (["b", "a", "a", "b"], "b"),
        (["c", "a", "b", "a", "b"], "a"),
        ([0, 0, 1], 0),
    ],
)
def test_the_most_frequent_value_wins_and_the_first_on_a_tie(candidates, winner):
    assert most_frequent(candidates) == winner


def test_values_with_one_key_count_together_and_the_first_of_them_wins():
    candidates = [["x"], [" A "], ["a"]]
    assert most_frequent(candidates, lambda value: value[0].strip().lower()) is candidates[1]
