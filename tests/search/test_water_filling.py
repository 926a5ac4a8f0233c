"""Water-filling: within the budget, and near the best split."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttts.search.water_filling import Option, _hull, water_fill
from tests.support.repeatable import max_examples

option = st.builds(Option, st.integers(0, 20).map(float), st.floats(-5, 0), st.integers())
stages = st.lists(st.lists(option, min_size=1, max_size=6), min_size=1, max_size=3)


@settings(max_examples=max_examples(2))
@given(stages, st.integers(0, 60).map(float))
def test_within_the_budget_and_at_most_a_step_below_the_best(stages, budget):
    fitting = [
        math.fsum(o.worth for o in split)
        for split in itertools.product(*stages)
        if sum(o.cost for o in split) <= budget
    ]
    found = water_fill(stages, budget)
    if found is None:
        assert not fitting
        return
    assert all(o in options for o, options in zip(found, stages, strict=True))
    assert sum(o.cost for o in found) <= budget
    hulls = [_hull(options) for options in stages]
    steps = (b.worth - a.worth for hull in hulls for a, b in itertools.pairwise(hull))
    assert math.fsum(o.worth for o in found) >= max(fitting) - max(steps, default=0.0) - 1e-9
    # No single exchange that fits is worth more.
    left = budget - sum(o.cost for o in found)
    for taken, options in zip(found, stages, strict=True):
        assert not any(o.worth > taken.worth and o.cost - taken.cost <= left for o in options)


def test_the_budget_goes_where_a_unit_brings_most():
    steep = [Option(1.0 * n, math.log(1 - 0.9 / n), f"steep {n}") for n in range(1, 10)]
    flat = [Option(1.0 * n, math.log(0.8 + 0.01 * n), f"flat {n}") for n in range(1, 10)]
    found = water_fill([steep, flat], 10.0)
    assert found is not None
    assert [o.choice for o in found] == ["steep 9", "flat 1"]
    assert water_fill([steep, flat], 1.0) is None
    assert water_fill([[Option(0.0, -1.0, "free"), Option(0.0, -0.5, "better")]], 0.0) == [
        Option(0.0, -0.5, "better")
    ]


@pytest.mark.parametrize("budget", [2.0, 5.0, 11.0])
def test_a_dearer_option_that_brings_less_is_never_taken(budget):
    options = [Option(1.0, -1.0, 0), Option(2.0, -2.0, 1), Option(5.0, -0.5, 2)]
    found = water_fill([options, options], budget)
    assert found is not None
    assert 1 not in [o.choice for o in found]
