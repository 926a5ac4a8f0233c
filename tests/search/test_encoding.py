import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.search.encoding import ChoiceGrid
from agenttts.search.feasible import FeasibleSet
from agenttts.search.moves import within_budget
from agenttts.space import Model, SearchSpace, Stage
from tests.support.spaces import equal_stage_spaces


@given(equal_stage_spaces())
def test_enumerates_the_feasible_set(space):
    grid = ChoiceGrid(space)
    rows = grid.feasible(10**6)
    assert {grid.decode(row) for row in rows} == set(space.feasible())
    assert (grid.encode(grid.decode(row) for row in rows) == rows).all()
    assert len(np.unique(grid.keys(rows))) == len(rows)
    assert grid.cost(rows) == pytest.approx([space.cost(grid.decode(row)) for row in rows])


@given(equal_stage_spaces(), st.integers(1, 40))
def test_a_thinned_set_is_small_feasible_and_never_empty(space, most):
    grid = ChoiceGrid(space)
    rows = grid.feasible(most)
    # One count a model is the least that a set is thinned to.
    assert 1 <= len(rows) <= max(most, 27)
    assert all(grid.decode(row) in space for row in rows)
    assert space.cheapest in {grid.decode(row) for row in rows}


@given(equal_stage_spaces(), st.randoms(use_true_random=False))
def test_around_stays_within_the_budget_and_reaches_every_choice_of_one_stage(space, rng):
    grid = ChoiceGrid(space)
    feasible = list(FeasibleSet(space))
    start = rng.choice(feasible)
    around = {grid.decode(row) for row in grid.around(grid.encode([start]))}
    assert start in around
    assert all(allocation in space for allocation in around)
    near = {
        allocation
        for allocation in feasible
        if sum(a != b for a, b in zip(allocation.choices, start.choices, strict=True)) <= 1
    }
    assert near == {grid.decode(row) for row in grid.around(grid.encode([start]), shifts=False)}
    assert near <= around


@given(equal_stage_spaces(), st.randoms(use_true_random=False))
def test_any_allocation_is_cut_down_to_the_budget(space, rng):
    rich = SearchSpace(space.stages, 1e6)
    wanted = rich.allocation(
        *((rng.choice(s.models).name, rng.choice(s.samples)) for s in rich.stages)
    )
    cut = within_budget(space, wanted)
    assert cut in space
    assert cut == wanted or wanted not in space


@pytest.mark.parametrize("params", [3e9, 7e9, 7.6e9])
def test_models_of_one_size_do_not_differ_by_rounding(params):
    models = tuple(Model(name, params) for name in "abc")
    [sizes] = ChoiceGrid(SearchSpace((Stage("plan", models, 64, 64, (1, 2)),), 50)).sizes
    assert sizes == pytest.approx([0.0, 0.0, 0.0])
