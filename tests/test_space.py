import itertools
import re
import tracemalloc

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agenttts.errors import UserError
from agenttts.search.feasible import FeasibleSet
from agenttts.space import (
    Allocation,
    Choice,
    Model,
    SearchSpace,
    Stage,
    allocation_budget,
    cost_above,
    fits,
    units_text,
)
from tests.support.spaces import spaces


def brute_force(space):
    per_stage = [
        [Choice(stage.name, model.name, n) for model in stage.models for n in stage.samples]
        for stage in space.stages
    ]
    every = (Allocation(choices) for choices in itertools.product(*per_stage))
    return [a for a in every if fits(allocation_budget(space, a), space.budget)]


@given(spaces())
def test_the_feasible_set_is_what_brute_force_finds(space):
    expected = brute_force(space)
    listed = list(space.feasible())
    assert listed == expected
    assert all(allocation in space for allocation in listed)
    assert space.count() == len(expected)
    assert space.count(limit=2) == min(2, len(expected))
    assert space.cheapest in listed


@given(spaces())
def test_the_numbered_set_is_the_same_set(space):
    numbered = FeasibleSet(space)
    assert len(numbered) == len(brute_force(space))
    assert sorted(numbered) == sorted(brute_force(space))
    with pytest.raises(IndexError):
        numbered[len(numbered)]


def test_the_numbered_set_of_five_stages_is_small():
    models = (Model("small", 3e9), Model("large", 70e9))
    stages = (Stage(f"stage{number}", models, 512, 128, tuple(range(1, 41))) for number in range(5))
    space = SearchSpace(tuple(stages), 5000.0)
    tracemalloc.start()
    numbered = FeasibleSet(space)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(numbered) == 2_956_877_622
    assert numbered[len(numbered) - 1] in space
    assert peak < 50e6


@given(spaces(), st.floats(0, 3000))
def test_affordable_samples_is_the_largest_allowed_that_fits(space, units):
    for stage in space.stages:
        for model in stage.models:
            fitting = [n for n in stage.samples if stage.budget(model.name, n) <= units]
            assert stage.affordable_samples(model.name, units) == max(fitting, default=0)


@given(spaces(), st.floats(0, 40))
def test_nearest_samples_is_the_nearest_allowed_ties_lower(space, wanted):
    for stage in space.stages:
        expected = min(stage.samples, key=lambda n: (abs(n - wanted), n))
        assert stage.nearest_samples(wanted) == expected


@given(spaces())
def test_records_round_trip(space):
    for allocation in itertools.islice(space.feasible(), 20):
        records = allocation.to_records()
        assert Allocation.from_records(records) == allocation
        assert [sorted(record) for record in records] == [["model", "samples", "stage"]] * len(
            space.stages
        )


def two_stages(budget=1000.0, samples=tuple(range(1, 101))):
    return SearchSpace(
        (
            Stage("retrieval", (Model("q7", 7e9), Model("q72", 72e9)), 2048, 128, samples),
            Stage("answer", (Model("l3", 3e9), Model("l70", 70e9)), 256, 64, samples),
        ),
        budget,
    )


def test_a_budget_too_small_says_the_least_feasible_one():
    # q7 x1: (7/3 * 2176 - 128) / 64 = 77.33; l3 x1: 3; together 80.33.
    with pytest.raises(UserError, match=r"q7×1 → l3×1, needs 80\.3; set it to 81"):
        two_stages(budget=80)
    assert two_stages(budget=81).count() >= 1


def test_an_allocation_that_costs_exactly_the_budget_is_in():
    cost = two_stages().cost(two_stages().allocation(("q72", 1), ("l3", 9)))
    space = two_stages(budget=cost)
    assert space.allocation(("q72", 1), ("l3", 9)) in space
    assert space.allocation(("q72", 1), ("l3", 10)) not in space


def test_violations_name_what_is_wrong():
    space = two_stages()
    good = space.allocation(("q7", 2), ("l3", 2))
    assert space.violation(good) is None
    assert "no model 'x'" in (space.violation(good.replace(Choice("answer", "x", 1))) or "")
    assert "101 samples" in (space.violation(good.replace(Choice("answer", "l3", 101))) or "")
    assert "over 1000" in (space.violation(good.replace(Choice("retrieval", "q72", 9))) or "")
    assert "stages" in (space.violation(Allocation(good.choices[::-1])) or "")


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(UserError, match=r"no stage 'anser'.*did you mean 'answer'"):
        two_stages().stage("anser")
    with pytest.raises(UserError, match="no model 'l33'.*l3, l70"):
        two_stages().stage("answer").model("l33")


def test_malformed_stages_and_spaces_are_refused():
    model = Model("m", 1e9)
    with pytest.raises(UserError, match="no models"):
        Stage("a", (), 1, 1, (1,))
    with pytest.raises(UserError, match="twice"):
        Stage("a", (model, model), 1, 1, (1,))
    with pytest.raises(UserError, match="1 or more"):
        Stage("a", (model,), 1, 1, (0, 1))
    with pytest.raises(UserError, match="tokens"):
        Stage("a", (model,), 1, 0, (1,))
    with pytest.raises(UserError, match="params"):
        Model("m", 0)
    stage = Stage("a", (model,), 1, 1, (3, 1, 3))
    assert stage.samples == (1, 3)
    with pytest.raises(UserError, match="own name"):
        SearchSpace((stage, stage), 10)
    with pytest.raises(UserError, match="finite"):
        SearchSpace((stage,), float("inf"))


@given(st.sets(st.integers(1, 400), min_size=1), st.integers(1, 500), st.integers(1, 14))
def test_spread_samples_are_allowed_counts_with_both_ends(counts, most, number):
    stage = Stage("s", (Model("m", 1e9),), 1, 1, tuple(counts))
    allowed = [count for count in stage.samples if count <= most]
    spread = stage.spread_samples(most, number)
    assert set(spread) <= set(allowed)
    assert list(spread) == sorted(spread)
    if len(allowed) <= number:
        assert list(spread) == allowed
    else:
        assert spread[0] == allowed[0]
        assert len(spread) <= number
        assert number == 1 or spread[-1] == allowed[-1]


def test_spread_samples_are_even_in_log_samples():
    stage = Stage("s", (Model("m", 1e9),), 1, 1, tuple(range(1, 101)))
    assert stage.spread_samples(number=3) == (1, 10, 100)
    assert stage.spread_samples(64, 4) == (1, 4, 16, 64)
    assert stage.spread_samples(0) == ()
    assert stage.spread_samples(8) == tuple(range(1, 9)), "no more than 12: all of them"


@pytest.mark.parametrize(
    ("cost", "budget", "text"),
    [
        (467.2, 100, "467.2"),
        (100.37, 100, "100.4"),
        (100.04, 100, "100.04"),
        (100.000004, 100, "100.000004"),
        (1234567.44, 1234567.4, "1234567.44"),
        (0.1 + 0.2, 0.3, "0.30000000000000004"),
    ],
)
def test_a_cost_above_a_budget_reads_as_above_it(cost, budget, text):
    assert cost_above(cost, budget) == text


@given(st.floats(1e-3, 1e12), st.floats(1e-12, 1e3))
def test_any_cost_above_a_budget_reads_as_above_it(budget, share):
    cost = budget * (1 + share)
    assume(cost > budget)
    assert float(cost_above(cost, budget)) > budget


@pytest.mark.parametrize(
    ("budget", "text"),
    [(100, "100"), (100.37, "100.37"), (1e6, "1000000"), (1234567.4, "1234567.4"), (0.1 + 0.2, "0.3")],
)  # fmt: skip
def test_budgets_are_not_rounded(budget, text):
    assert units_text(budget) == text


def test_a_budget_just_too_small_is_not_said_to_suffice():
    stage = Stage("plan", (Model("m", 3e9),), 128, 64, (411_523,))
    least = SearchSpace((stage,), 1e9).least_budget
    with pytest.raises(UserError, match="is too small") as caught:
        SearchSpace((stage,), least - 0.01)
    said = re.search(r"([\d.]+) is too small .*, needs ([\d.]+);", str(caught.value))
    assert float(said[1]) == pytest.approx(least - 0.01, abs=1e-4)
    assert float(said[1]) < float(said[2])


def test_a_violation_just_over_the_budget_reads_as_over_it():
    stage = Stage("plan", (Model("m", 3.137e9),), 128, 64, (1, 99))
    over = Allocation((Choice("plan", "m", 99),))
    assert stage.budget("m", 99) == pytest.approx(103.6123, abs=1e-4)
    assert SearchSpace((stage,), 103.61).violation(over) == "its budget 103.612 is over 103.61"
