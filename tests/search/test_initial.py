from hypothesis import given
from hypothesis import strategies as st

from agenttts.search import TrialResult, create
from agenttts.search.initial import initial_trials
from agenttts.space import Model, SearchSpace, Stage


def two_wiki(budget, samples=tuple(range(1, 101))):
    return SearchSpace(
        (
            Stage(
                "retrieval",
                (Model("q7", 7e9), Model("q32", 32e9), Model("q72", 72e9)),
                2048,
                128,
                samples,
            ),
            Stage(
                "answer", (Model("l3", 3e9), Model("l8", 8e9), Model("l70", 70e9)), 256, 64, samples
            ),
        ),
        budget,
    )


def allocations(space, **options):
    return [str(proposal.allocation) for proposal in initial_trials(space, **options)]


def test_2wiki_with_budget_1000_worked_by_hand():
    """One q72 sample costs 814, one l70 sample 114.67; both fit at once, so the other stage runs
    its largest.

    814 units are (814·64 + 128)·3/7 = 22381.7 tokens of q7, less the prompt 20333.7, 158 samples,
    capped to 60; 22.25 samples of q32. 114.67 units are 112.67 samples of l3, capped, and 39.75 of
    l8.
    """
    assert allocations(two_wiki(1000)) == [
        "q7×60 → l70×1",
        "q32×22 → l70×1",
        "q72×1 → l70×1",
        "q72×1 → l3×60",
        "q72×1 → l8×39",
    ]


def test_the_cap_is_an_option():
    assert allocations(two_wiki(1000), cap=200)[0] == "q7×100 → l70×1"  # 158, but 100 are allowed
    assert allocations(two_wiki(1000), cap=10)[:2] == ["q7×10 → l70×1", "q32×10 → l70×1"]


def test_others_run_their_smallest_when_the_rest_does_not_pay():
    """B = 900: 814 at retrieval leave 86, no l70; 114.67 at answer leave 785, no q72."""
    assert allocations(two_wiki(900)) == [
        "q7×60 → l3×1",
        "q32×22 → l3×1",
        "q72×1 → l3×1",
        "q7×1 → l3×60",
        "q7×1 → l8×39",
        "q7×1 → l70×1",
    ]


def test_a_largest_model_that_does_not_fit():
    """B = 500: retrieval gets 500 - 3 = 497 units: 90 samples of q7, 7 of q32, none of q72."""
    assert allocations(two_wiki(500))[:2] == ["q7×60 → l3×1", "q32×7 → l3×1"]
    assert not any("q72" in allocation for allocation in allocations(two_wiki(500)))


def test_counts_go_down_to_allowed_ones():
    assert allocations(two_wiki(1000, samples=(1, 2, 4, 8, 16, 32, 64))) == [
        "q7×32 → l70×1",
        "q32×16 → l70×1",
        "q72×1 → l70×1",
        "q72×1 → l3×32",
        "q72×1 → l8×32",
    ]


def test_the_only_allocation():
    space = two_wiki(81)
    assert allocations(space) == ["q7×1 → l3×1"]


@given(
    st.floats(0, 3000),
    st.lists(st.integers(1, 100), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(1, 200),
)
def test_always_within_the_budget_and_never_twice(extra, samples, stages, cap):
    models = (Model("l", 70e9), Model("s", 3e9), Model("m", 8e9))
    built = tuple(Stage(name, models, 1024, 256, tuple(samples)) for name in "abc"[:stages])
    least = sum(stage.budget("s", min(samples)) for stage in built)
    space = SearchSpace(built, least + extra)
    proposals = initial_trials(space, cap)
    assert proposals
    assert all(space.violation(p.allocation) is None for p in proposals)
    assert len({p.allocation for p in proposals}) == len(proposals)
    assert {p.source for p in proposals} == {"initial"}
    assert all(p.reason for p in proposals)


def test_the_searcher_proposes_them_first_and_after_a_restart_the_missing_ones():
    space = two_wiki(1000)
    searcher = create("agenttts", space)
    assert searcher.initial_batch == 5
    expected = [p.allocation for p in initial_trials(space)]
    assert searcher.ask(2) == expected[:2]
    fresh = create("agenttts", space)
    fresh.add_pending(expected[1:3])
    proposals = fresh.propose(5)
    assert [p.allocation for p in proposals[:3]] == [expected[0], *expected[3:]]
    assert [p.source for p in proposals] == ["initial"] * 3 + ["explore"] * 2


def test_without_insight_1_they_are_random():
    space = two_wiki(1000)
    searcher = create("agenttts", space, seed=3, insights=[2, 3])
    proposals = searcher.propose(5)
    assert [p.source for p in proposals] == ["initial"] * 5
    assert {p.allocation for p in proposals} != {p.allocation for p in initial_trials(space)}
    assert proposals == create("agenttts", space, seed=3, insights=[2, 3]).propose(5)


def test_the_users_own_allocations_do_not_take_the_places_of_the_first_ones():
    space = two_wiki(1000)
    searcher = create("agenttts", space)
    searcher.first = [space.allocation(("q7", n), ("l3", 1)) for n in (1, 2, 3, 4, 5)]
    sources = []
    for _ in range(10):
        [proposal] = searcher.propose(1)
        sources.append(proposal.source)
        searcher.tell([TrialResult(proposal.allocation, 0.1 * len(sources))])
    assert sources[:9] == ["first"] * 5 + ["initial"] * 4
    assert sources[9] != "first"
