"""The choice of a batch: what is pending counts like the picks before."""

import numpy as np
import pytest

from agenttts.search.acquisition import choose
from agenttts.search.archive import Archive, TrialResult
from agenttts.search.encoding import ChoiceGrid
from agenttts.search.evidence import Evidence
from agenttts.search.surrogate import Surrogate
from agenttts.space import Model, SearchSpace, Stage

COUNTS = tuple(range(1, 21))
SPACE = SearchSpace(
    tuple(Stage(name, (Model("s", 3e9), Model("l", 70e9)), 256, 64, COUNTS) for name in "ab"), 400
)
GRID = ChoiceGrid(SPACE)
ROWS = GRID.feasible(400)


@pytest.fixture(scope="module")
def model():
    archive = Archive(SPACE)
    for row in ROWS[:: len(ROWS) // 9]:
        allocation = GRID.decode(row)
        score = sum(0.4 - 0.3 / c.samples + 0.1 * (c.model == "l") for c in allocation.choices)
        archive.add([TrialResult(allocation, score)])
    return Surrogate(Evidence.of(GRID, archive))


def test_what_is_pending_counts_like_the_picks_before(model):
    picks = choose(model, ROWS, 4)
    for out in range(1, 4):
        pending = ROWS[picks[:out]]
        left = np.delete(np.arange(len(ROWS)), picks[:out])
        chosen = choose(model, ROWS[left], 4 - out, pending=pending)
        assert [int(left[pick]) for pick in chosen] == picks[out:]


def test_no_pending_trial_is_picked_and_the_favoured_are_still_the_first_candidates(
    model, monkeypatch
):
    monkeypatch.setattr("agenttts.search.acquisition._MIN_RELATIVE_VALUE", 0.0)
    good = ROWS[np.argsort(-model.posterior_mean(ROWS))[:8]]  # worth something, however little
    pending, candidates = good[:3], good[:2:-1]
    picks = choose(model, candidates, 9, preferred=2, pending=pending)
    assert sorted(picks) == [0, 1, 2, 3, 4]
    assert set(picks[:2]) == {0, 1}


def test_without_pending_trials_nothing_changes(model):
    assert choose(model, ROWS, 3, pending=ROWS[:0]) == choose(model, ROWS, 3)
