import numpy as np
import pytest

from agenttts.search.noise import squared_errors


def test_variances_are_the_squares_of_standard_errors():
    assert squared_errors([0.02, 0.04, 0.03]) == pytest.approx([4e-4, 16e-4, 9e-4])


def test_a_standard_error_of_zero_is_not_taken_for_certainty():
    some_zero = squared_errors([0.0, 0.04, 0.03])
    assert 0 < some_zero[0] < some_zero[2]


def test_what_is_not_known_stays_unknown():
    found = squared_errors([0.02, None, float("nan"), float("inf")])
    assert np.isnan(found).tolist() == [False, True, True, True]
    assert np.isnan(squared_errors([0.0, 0.0])).all()
    assert len(squared_errors([])) == 0
