import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.errors import UserError
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


@given(equal_stage_spaces(), st.integers(1, 40))
def test_a_thinned_set_is_small_feasible_and_never_empty(space, most):
    grid = ChoiceGrid(space)
    rows = grid.feasible(most)
    assert 1 <= len(rows) <= most
    assert len(np.unique(grid.keys(rows))) == len(rows)
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


def many_stages(number, budget, counts=range(1, 61)):
    """A space of so many stages with four models each."""
    models = tuple(Model(f"m{size}", size * 1e9) for size in (1, 3, 8, 20))
    stages = tuple(Stage(f"s{i}", models, 64, 32, tuple(counts)) for i in range(number))
    return SearchSpace(stages, budget)


@pytest.mark.parametrize("number", [7, 9, 12])
def test_many_stages_are_thinned_to_what_is_asked_for(number):
    space = many_stages(number, 2000.0)
    grid = ChoiceGrid(space)
    rows = grid.feasible(3000)
    assert 1000 < len(rows) <= 3000
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert len(np.unique(grid.keys(rows))) == len(rows)
    assert all(grid.decode(row) in space for row in rows[::100])
    models = {(stage, c.model) for row in rows for stage, c in enumerate(grid.decode(row).choices)}
    assert len(models) == 4 * number


def test_keys_tell_the_first_of_many_stages_apart():
    grid = ChoiceGrid(many_stages(17, 1e6))
    rows = np.zeros((240, 17), dtype=np.int64)
    rows[:, 0] = np.arange(240)
    assert len(np.unique(grid.keys(rows))) == 240


def test_where_trials_fail_is_drawn_from_only_if_little_else_is_left():
    space = SearchSpace((Stage("a", (Model("m", 1e9),), 64, 64, tuple(range(1, 1001))),), 1e9)
    feasible = FeasibleSet(space)
    left = list(feasible)[:22]
    known, good = set(feasible) - set(left), left[:2]
    for seed in range(20):
        drawn = feasible.draw(random.Random(seed), known, avoids=lambda a: a not in good)
        assert drawn in good
    assert feasible.draw(random.Random(0), {*known, *good}, avoids=lambda a: True) in left[2:]
    assert feasible.draw(random.Random(0), {*known, *left}, avoids=lambda a: True) is None


def test_seven_stages_are_drawn_from_with_fewer_counts(monkeypatch):
    monkeypatch.setattr("agenttts.search.encoding._MOST_COMBINATIONS", 200_000)
    space = many_stages(7, 1000.0)
    drawn = FeasibleSet(space).draw_many(50, (), lambda i: random.Random(i))
    assert len(set(drawn)) == 50
    assert all(allocation in space for allocation in drawn)
    assert max(choice.samples for a in drawn for choice in a.choices) > 10
    assert len({choice.model for a in drawn for choice in a.choices}) == 4


def test_more_stages_than_can_be_drawn_from_are_named(monkeypatch):
    monkeypatch.setattr("agenttts.search.encoding._MOST_COMBINATIONS", 200_000)
    with pytest.raises(UserError, match="30 stages .* leave out models"):
        FeasibleSet(many_stages(30, 1e6, counts=(1, 2)))
