import numpy as np
import pytest

from agenttts.search.noise import score_text, squared_errors


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


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1234.5, 0.3, "1234.5"),
        (1234.9, 0.3, "1234.9"),
        (0.99951, 1e-5, "0.99951"),
        (0.99949, 1e-5, "0.99949"),
        (-1e4, 300.0, "-10000"),
        (0.5123, 0.05, "0.512"),
        (0.5, 0.05, "0.5"),
        (0.0412, 0.2, "0.0412"),
        (1e-5, None, "0.00001"),
        (1234.5678, None, "1235"),
        (0.0, 0.1, "0"),
        (1.5e20, 1.0, "1.5e+20"),
        (float("inf"), 0.1, "inf"),
    ],
)
def test_a_score_is_shown_to_what_its_error_justifies(value, error, text):
    assert score_text(value, error) == text
