from agenttts.search import create
from agenttts.search.archive import Archive, TrialResult
from agenttts.search.encoding import ChoiceGrid
from agenttts.search.steps import beside_trials, independent
from agenttts.space import Model, SearchSpace, Stage
from benchmarks.search.problems import surface_problem

SPACE = SearchSpace(
    (Stage("a", (Model("s", 3e9), Model("l", 70e9)), 256, 64, tuple(range(1, 65))),), 1e4
)
GRID = ChoiceGrid(SPACE)


def told(*trials):
    archive = Archive(SPACE)
    archive.add(
        TrialResult(SPACE.allocation((model, count)), score, {"a.f1": score})
        for model, count, score in trials
    )
    return archive.scored


def test_neighbours_with_the_same_outcome_are_one_observation_the_cheapest():
    trials = told(
        ("s", 17, 0.5), ("s", 16, 0.5), ("s", 18, 0.51), ("s", 60, 0.5), ("l", 16, 0.5)
    )  # fmt: skip
    kept = [(t.allocation["a"].model, t.allocation["a"].samples) for t in independent(trials)]
    assert kept == [("s", 16), ("s", 18), ("s", 60), ("l", 16)]


def test_candidates_beside_trials_are_left_out_once_steps_show():
    rows = GRID.encode(SPACE.allocation(choice) for choice in (("s", 17), ("s", 50), ("l", 17)))
    steps = told(("s", 15, 0.5), ("s", 16, 0.5), ("s", 18, 0.5))
    assert beside_trials(GRID, steps, rows).tolist() == [True, False, False]
    smooth = told(("s", 15, 0.5), ("s", 16, 0.52), ("s", 18, 0.5), ("s", 19, 0.53))
    assert not beside_trials(GRID, smooth, rows).any()
    assert not beside_trials(GRID, steps[:1], rows).any()


def test_candidates_beside_pending_trials_are_left_out_too():
    rows = GRID.encode(SPACE.allocation(choice) for choice in (("s", 17), ("s", 50), ("l", 17)))
    pending = GRID.encode([SPACE.allocation(("s", 52))])
    steps = told(("s", 15, 0.5), ("s", 16, 0.5), ("s", 18, 0.5))
    assert beside_trials(GRID, steps, rows, pending).tolist() == [True, True, False]
    smooth = told(("s", 15, 0.5), ("s", 16, 0.52), ("s", 18, 0.5), ("s", 19, 0.53))
    assert not beside_trials(GRID, smooth, rows, pending).any()


def test_noisy_steps_do_not_hold_the_search():
    """On a sparse noisy table trials move on instead of gathering on one lucky step."""
    problem = surface_problem("sparse", 9000)
    searcher = create("agenttts", problem.space)
    for _ in range(30):
        searcher.tell([problem.trial(allocation, 100) for allocation in searcher.ask(1)])
    outcomes = {
        (t.score, tuple(c.model for c in t.allocation.choices)) for t in searcher.archive.scored
    }
    assert len(outcomes) > 18
