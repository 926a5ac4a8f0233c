"""Proposals become allocations of the space, with a note for every change."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttts.search.llm.projection import Projected, project_to_space
from agenttts.search.llm.reading import RawAllocation, RawChoice
from agenttts.space import Allocation, Choice, SearchSpace
from tests.support.llm import SPACE
from tests.support.repeatable import max_examples
from tests.support.spaces import small_medium_large_spaces

OTHERWISE = SPACE.allocation(("qwen-72b", 1), ("llama-3b", 32))


def projected(first=("qwen-7b", 4), second=("llama-3b", 16), space=SPACE):
    choices = {"retrieval": RawChoice(*first), "answer": RawChoice(*second)}
    return project_to_space(RawAllocation(choices), space, OTHERWISE)


def test_a_good_one_is_left_alone():
    assert projected() == Projected(SPACE.allocation(("qwen-7b", 4), ("llama-3b", 16)))


@pytest.mark.parametrize(
    ("first", "second", "expected", "note"),
    [
        (("qwen 7B", 4), ("llama-3b", 16), (("qwen-7b", 4), ("llama-3b", 16)), "'qwen 7B' is not a model; qwen-7b is used"),
        (("qwen-7b", 4), ("llama-3b", 10), (("qwen-7b", 4), ("llama-3b", 8)), "10 samples are not allowed; 8 is used"),
        (("qwen-7b", -3), ("llama-3b", 16), (("qwen-7b", 1), ("llama-3b", 16)), "-3 samples are not allowed; 1 is used"),
        (("qwen-7b", 2.4), ("llama-3b", 16), (("qwen-7b", 2), ("llama-3b", 16)), "2.4 samples"),
        (("qwen-7b", None), ("llama-3b", 16), (("qwen-7b", 1), ("llama-3b", 16)), "no sample count given; 1 is used"),
        (("qwen-7b", 4), (None, 16), (("qwen-7b", 4), ("llama-3b", 16)), "no model given; llama-3b is used"),
    ],
)  # fmt: skip
def test_small_mistakes(first, second, expected, note):
    result = projected(first, second)
    assert result.allocation == SPACE.allocation(*expected)
    assert any(note in said for said in result.notes)


def test_one_sample_is_one():
    stages = tuple(replace(stage, samples=(2, 4)) for stage in SPACE.stages)
    space = SearchSpace(stages, SPACE.budget)
    otherwise = space.allocation(("qwen-7b", 2), ("llama-3b", 2))
    choices = {"retrieval": RawChoice("qwen-7b", 1), "answer": RawChoice("llama-3b", 2)}
    notes = project_to_space(RawAllocation(choices), space, otherwise).notes
    assert "retrieval: 1 sample is not allowed; 2 is used" in notes
    outside = Allocation((Choice("retrieval", "qwen-7b", 1), Choice("answer", "llama-3b", 2)))
    assert space.violation(outside) == "stage 'retrieval' does not allow 1 sample"


def test_over_the_budget_samples_are_scaled_down_together():
    result = projected(("qwen-72b", 9), ("llama-3b", 64))
    assert result.allocation in SPACE
    assert result.allocation == SPACE.allocation(("qwen-72b", 4), ("llama-3b", 32))
    assert any("over 1000" in note for note in result.notes)
    assert any("scaled down" in note for note in result.notes)
    # No larger scale would have fitted.
    assert SPACE.allocation(("qwen-72b", 5), ("llama-3b", 32)) not in SPACE


def test_when_fewest_samples_are_too_many_a_model_is_made_smaller():
    tight = SearchSpace(SPACE.stages, 900)
    result = projected(("qwen-72b", 8), ("llama-70b", 4), tight)
    assert result.allocation in tight
    assert any("instead of" in note for note in result.notes)


def test_what_names_no_model_is_no_proposal():
    assert projected((None, 3), (None, 4)) == "the proposal does not name a model"
    assert "is not a model of stage" in projected(("gpt-5", 3))
    assert (
        project_to_space(RawAllocation({}), SPACE, OTHERWISE)
        == "the proposal does not name a model"
    )


names = st.one_of(
    st.none(), st.sampled_from(["s", "m", "l", "S", "medium", "x"]), st.text(max_size=5)
)
counts = st.one_of(
    st.none(), st.floats(-1e9, 1e9), st.integers(-5, 500).map(float), st.just(float("inf"))
)


@settings(max_examples=max_examples(2))
@given(small_medium_large_spaces(), st.lists(st.tuples(names, counts), min_size=3, max_size=3))
def test_whatever_is_proposed_ends_in_the_space_or_is_refused(space, parts):
    raw = RawAllocation(
        {s.name: RawChoice(*part) for s, part in zip(space.stages, parts, strict=False)}
    )
    result = project_to_space(raw, space, space.cheapest)
    if isinstance(result, str):
        assert result
        return
    assert space.violation(result.allocation) is None
    asked = {name: (choice.model, choice.samples) for name, choice in raw.choices.items()}
    given_ = {c.stage: (c.model, c.samples) for c in result.allocation.choices}
    assert (asked == given_) == (not result.notes), "every change has a note"


def test_a_cost_just_above_the_budget_reads_as_above_it():
    space = replace(SPACE, budget=SPACE.cost(SPACE.allocation(("qwen-7b", 9), ("llama-3b", 8))) - 0.04)  # fmt: skip
    result = projected(("qwen-7b", 9), ("llama-3b", 8), space)
    cost, budget = re.search(r"its budget ([\d.]+) is over ([\d.]+)", result.notes[0]).groups()
    assert float(cost) > float(budget)
