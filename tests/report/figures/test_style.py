"""Axes, and labels that cover nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.report.figures.style import Axis, place_labels

values = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(values, min_size=1, max_size=20), st.booleans())
def test_an_axis_holds_its_values_and_maps_there_and_back(numbers, zero):
    axis = Axis.around(numbers, 400.0, zero=zero)
    for number in numbers:
        assert -1e-6 <= axis.pixel(number) <= 400.0 + 1e-6
        assert axis.value(axis.pixel(number)) == pytest.approx(number, abs=1e-6 * (axis.high - axis.low))  # fmt: skip
    if zero:
        assert axis.low <= 0.0


def test_costs_over_magnitudes_are_on_a_logarithmic_axis():
    axis = Axis.around([1.0, 10.0, 100.0], 200.0, log_from=30.0)
    assert axis.log
    assert axis.pixel(10.0) == pytest.approx(100.0)
    assert axis.value(100.0) == pytest.approx(10.0)
    assert not Axis.around([0.0, 100.0], 200.0, log_from=30.0).log, "0 has no logarithm"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_labels_cover_neither_each_other_nor_the_edge(points):
    x, y = Axis(0.0, 1.0, 460.0), Axis(0.0, 1.0, 280.0)
    text = "weak×34 → strong×1"
    labels = place_labels([(a, b, text) for a, b in points], x, y)
    assert labels, "the first always has a place"
    width = 6.5 * len(text)
    boxes = [(x.pixel(label.x), y.pixel(label.y)) for label in labels]
    for i, (left, middle) in enumerate(boxes):
        assert left >= 0
        assert left + width <= 460.0
        assert 0 <= middle <= 280.0
        for other, height in boxes[:i]:
            assert abs(left - other) >= width - 1e-6 or abs(middle - height) >= 12 - 1e-6
