import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.tables.uncertainty import bootstrap, standard_error


def test_a_share_of_100_examples_has_the_binomial_error():
    answers = [1.0] * 60 + [0.0] * 40
    found = bootstrap(answers)
    assert found.stderr == pytest.approx(math.sqrt(0.6 * 0.4 / 100), rel=0.1)
    assert found.low == pytest.approx(0.6 - 1.96 * 0.049, abs=0.02)
    assert found.high == pytest.approx(0.6 + 1.96 * 0.049, abs=0.02)


def test_the_interval_covers_the_truth_about_19_times_in_20():
    rng = random.Random(1)
    covered = 0
    for seed in range(200):
        found = bootstrap([float(rng.random() < 0.4) for _ in range(80)], resamples=400, seed=seed)
        covered += found.low <= 0.4 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_four_times_the_examples_halve_the_error():
    rng = random.Random(2)
    few = [rng.random() for _ in range(50)]
    assert bootstrap(few * 4).stderr == pytest.approx(bootstrap(few).stderr / 2, rel=0.1)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.integers(0, 5))
def test_repeatable_and_within_the_values(values, seed):
    found = bootstrap(values, resamples=50, seed=seed)
    assert found == bootstrap(values, resamples=50, seed=seed)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found.stderr >= 0


def test_nothing_known_without_examples_and_no_spread_with_one():
    assert bootstrap([]) is None
    assert bootstrap([0.7]).stderr == 0


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite"):
        bootstrap([0.5, math.nan])
    with pytest.raises(ValueError, match="resamples"):
        bootstrap([0.5], resamples=1)


@given(st.lists(st.integers(0, 1), min_size=2, max_size=200))
def test_the_standard_error_of_a_share(answers):
    share = sum(answers) / len(answers)
    expected = math.sqrt(share * (1 - share) / (len(answers) - 1))
    assert standard_error(answers) == pytest.approx(expected, abs=1e-12)
    assert standard_error(answers) == standard_error(answers[::-1]), "whatever the order"


def test_one_example_says_nothing_of_its_error():
    assert standard_error([0.5]) is None
    assert standard_error([]) is None
