"""A space of millions and hundreds of trials: it works, on a fraction of the set.

Times: benchmarks/search/large.py.
"""

import random

import pytest

from agenttts.search import create
from benchmarks.search.problems.surfaces import large_surface


@pytest.mark.parametrize("method", ["agenttts", "gp"])
def test_asks_in_a_space_of_millions_after_500_trials(method):
    surface, feasible = large_surface()
    assert len(feasible) >= 1_000_000
    rng = random.Random(0)
    past = {feasible[rng.randrange(len(feasible))] for _ in range(500)}
    searcher = create(method, surface.space)
    searcher.tell([surface.trial(allocation, 100, 0) for allocation in sorted(past)])
    batch = searcher.ask(10)
    assert len(set(batch)) == 10
    assert not past & set(batch)
    assert all(allocation in surface.space for allocation in batch)
    assert searcher.best() in surface.space
    assert searcher.best(tried=True) in past
