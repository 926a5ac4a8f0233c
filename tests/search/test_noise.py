import random

import pytest

from agenttts.search.noise import examples_behind, variances


@pytest.mark.parametrize("examples", [30, 50, 100, 128])
def test_shares_give_their_number_of_examples_away(examples):
    rng = random.Random(examples)
    scores = [sum(rng.random() < 0.5 for _ in range(examples)) / examples for _ in range(12)]
    found = examples_behind(scores)
    assert examples % found == 0
    assert found > examples / 4


def test_other_scores_do_not():
    rng = random.Random(1)
    assert examples_behind([rng.random() for _ in range(12)]) is None
    assert examples_behind([0.5, 0.5, 0.5, 0.25]) is None  # too few different ones
    assert examples_behind([12.0, 31.0, 25.0, 44.0, 8.0]) is None  # no shares


def test_variance_is_binomial_and_even_a_perfect_score_is_unsure():
    found = variances([0.1, 0.4, 0.5, 0.63, 0.57, 1.0], [None] * 6)
    assert found[2] == pytest.approx(0.25 / 100, rel=0.05)
    assert (found > 0).all()


def test_reported_standard_errors_come_first():
    assert variances([0.1, 0.41, 0.5], [0.02, 0.04, 0.03]) == pytest.approx([4e-4, 16e-4, 9e-4])
    some_zero = variances([0.1, 0.41, 0.5], [0.0, 0.04, 0.03])
    assert 0 < some_zero[0] < some_zero[2]
    assert variances([0.1, 0.41, 0.5], [0.02, None, 0.03]) is None
    assert variances([1.0, 1.0], [0.0, 0.0]) is None
