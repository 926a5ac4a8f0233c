import statistics
from functools import cache

import pytest

from agenttts.search import Proposal, TrialResult, create
from agenttts.search.agenttts import AgentTTSSearcher, Offer
from agenttts.space import Model, SearchSpace, Stage
from benchmarks.search.problems.surfaces import draw_surface, optimum

# Not the numbers that the benchmark uses by default; 5009 is the hardest of twelve, 5007 and 5008
# have three stages.
SURFACES = (5000, 5003, 5004, 5006, 5007, 5008, 5009, 5010)


def regret(method, surface, trials, batch, examples=0, **options):
    """Of the recommendation after so many trials, as a share of the best score."""
    searcher = create(method, surface.space, surface.seed, **options)
    done = 0
    while done < trials:
        asked = searcher.ask(min(batch, trials - done))
        if not asked:
            break
        searcher.tell([surface.trial(allocation, examples, 0) for allocation in asked])
        done += len(asked)
    best = best_score(surface.seed)
    return (best - surface.score(searcher.best())) / best


@cache
def best_score(number):
    return optimum(draw_surface(number))


@pytest.fixture(scope="module")
def surfaces():
    return [draw_surface(number) for number in SURFACES]


@pytest.fixture(scope="module")
def chance(surfaces):
    """Regrets of random search after 150 trials."""
    return [regret("random", surface, 150, 10) for surface in surfaces]


@pytest.mark.parametrize("batch", [3, 10])
def test_exact_scores_near_the_optimum_in_far_fewer_trials_than_random(surfaces, chance, batch):
    rules = [regret("agenttts", surface, 30, batch) for surface in surfaces]
    assert statistics.median(rules) <= 0.01
    assert statistics.fmean(rules) <= 0.02
    assert statistics.fmean(rules) < 0.7 * statistics.fmean(chance)


def test_scores_of_100_examples_beat_random(surfaces):
    rules = [regret("agenttts", surface, 40, 10, examples=100) for surface in surfaces]
    chance = [regret("random", surface, 40, 10, examples=100) for surface in surfaces]
    assert statistics.fmean(rules) < 0.7 * statistics.fmean(chance)


@pytest.mark.parametrize("insights", [[], [1], [2], [3], [1, 2], [1, 3], [2, 3]])
def test_ablations_run(surfaces, insights):
    assert regret("agenttts", surfaces[0], 25, 5, insights=insights) < 0.5


def test_without_any_insight_it_only_explores(surfaces):
    space = surfaces[0].space
    searcher = create("agenttts", space, insights=[])
    searcher.tell([surfaces[0].trial(a, 0, 0) for a in searcher.ask(searcher.initial_batch)])
    assert {p.source for p in searcher.propose(10)} == {"explore"}


SPACE = SearchSpace(
    (
        Stage("retrieval", (Model("q7", 7e9), Model("q72", 72e9)), 2048, 128, tuple(range(1, 61))),
        Stage("answer", (Model("l3", 3e9), Model("l70", 70e9)), 256, 64, tuple(range(1, 61))),
    ),
    1000,
)


def told(*trials):
    searcher = AgentTTSSearcher(SPACE)
    searcher.tell([TrialResult(SPACE.allocation(*choices), score) for score, *choices in trials])
    return searcher


INITIAL = (
    (0.42, ("q7", 60), ("l70", 1)),
    (0.61, ("q72", 1), ("l70", 1)),
    (0.64, ("q72", 1), ("l3", 60)),
)


def test_guidelines_say_which_model_to_pursue():
    lines = told(*INITIAL).findings()
    assert any(line.startswith("retrieval: pursue q72") and "with q7" in line for line in lines)
    # Only a clearly better large model is worth pursuing.
    assert any(line.startswith("answer: pursue l3") for line in lines)


def test_guidelines_say_why_a_smaller_model_is_pursued_that_does_not_look_better():
    """Where the larger model looks better, but hardly."""
    trials = told(
        (0.60, ("q7", 10), ("l3", 10)),
        (0.60, ("q7", 10), ("l3", 20)),
        (0.61, ("q72", 1), ("l3", 10)),
        (0.20, ("q7", 1), ("l3", 1)),
    )
    lines = trials.findings()
    [line] = [line for line in lines if line.startswith("retrieval: pursue q7:")]
    assert line.endswith("no clear difference, and it is the smaller model")


def test_guidelines_say_where_samples_go():
    rising = told(
        (0.25, ("q7", 6), ("l70", 1)),
        (0.42, ("q7", 60), ("l70", 1)),
        (0.30, ("q72", 1), ("l3", 1)),
        (0.40, ("q72", 1), ("l3", 2)),
        (0.50, ("q72", 1), ("l3", 4)),
        (0.55, ("q72", 1), ("l3", 7)),
    )
    falling = told(
        *INITIAL[:2],
        (0.50, ("q72", 1), ("l3", 1)),
        (0.66, ("q72", 1), ("l3", 6)),
        (0.65, ("q72", 1), ("l3", 8)),
        (0.45, ("q72", 1), ("l3", 60)),
    )
    flat = told(*INITIAL[:2], *((0.66, ("q72", 1), ("l3", n)) for n in (8, 15, 30, 60)))
    assert any("l3 still rises" in line for line in rising.findings())
    one = told((0.3, ("q7", 1), ("l3", 1)), (0.4, ("q7", 1), ("l3", 2)), (0.2, ("q72", 1), ("l3", 1)))  # fmt: skip
    assert not any("1 samples" in line for line in [*one.findings(), *rising.findings()])
    assert not any("l3 still rises" in line for line in falling.findings())
    assert any("l3 is flat" in line for line in flat.findings())
    proposals = rising.propose_by_rules(5)
    assert any(p.allocation["answer"].samples > 8 for p in proposals)


def test_a_lucky_score_among_mediocre_neighbours_is_not_recommended():
    off = (0.04, -0.03, 0.05, -0.05, 0.02, -0.04, 0.03, -0.02)
    noisy = [(0.60 + d, ("q72", 1), ("l3", n)) for d, n in zip(off, range(30, 62, 4), strict=True)]
    poor = [(0.52 + d, ("q7", n), ("l3", 30)) for d, n in zip(off, range(1, 25, 3), strict=True)]
    lucky = (0.645, ("q7", 12), ("l3", 30))
    best = told(*noisy, *poor, lucky).best()
    assert best is not None
    assert best["retrieval"].model == "q72"


@pytest.mark.parametrize("offset", [0.0, 1e5, -1e6])
def test_scores_far_from_zero_are_no_ties(offset):
    stage = Stage("answer", (Model("small", 1e9), Model("large", 8e9)), 64, 32, (1, 2, 4, 8))
    space = SearchSpace((stage,), 1000.0)
    searcher = create("agenttts", space, 0)
    scores = {("small", 1): 0.3, ("small", 8): 0.35, ("large", 1): 0.7, ("large", 8): 0.8}
    searcher.tell([TrialResult(space.allocation(c), offset + s) for c, s in scores.items()])
    assert searcher.best(tried=True) == space.allocation(("large", 8))


def test_ties_go_to_the_cheaper():
    searcher = told((0.5, ("q72", 1), ("l3", 30)), (0.5, ("q7", 3), ("l3", 30)))
    assert searcher.best() == SPACE.allocation(("q7", 3), ("l3", 30))


class Agent:
    def __init__(self, *allocations, own=0):
        self.allocations, self.own = allocations, own

    def start(self, n, known):
        return []

    def propose(self, n, archive, model):
        return Offer([Proposal(a, "agent", "asked") for a in self.allocations], self.own)


def with_agent(*allocations, own=0):
    agent = {"proposer": Agent(*allocations, own=own)} if allocations else {}
    searcher = create("agenttts", SPACE, **agent)
    first = searcher.propose(searcher.initial_batch)
    assert {p.source for p in first} == {"initial"}
    searcher.tell([TrialResult(p.allocation, 0.1 * i) for i, p in enumerate(first)])
    return searcher


def test_a_good_proposal_goes_first_and_the_rules_fill_up():
    good = with_agent().ask(1)[0]
    over = SPACE.allocation(("q72", 9), ("l3", 1))
    searcher = with_agent(over, good, good)
    batch = searcher.propose(4)
    assert [p.source for p in batch] == ["agent", "insight", "insight", "insight"]
    assert batch[0].allocation == good
    assert searcher.guidelines()


def test_proposals_worth_little_are_passed_over_except_in_places_of_the_agents_own():
    poor, also = SPACE.allocation(("q7", 1), ("l3", 1)), SPACE.allocation(("q7", 2), ("l3", 1))
    assert with_agent(poor).ask(4) == with_agent().ask(4)
    batch = with_agent(poor, also, own=1).propose(4)
    assert [p.source for p in batch] == ["agent", "insight", "insight", "insight"]
    assert batch[0].allocation == poor
