from __future__ import annotations

from collections.abc import Callable

import pytest

from agenttts.search import TrialResult, create
from agenttts.search.optuna_search import OptunaGPSearcher, OptunaOptions
from agenttts.space import Model, SearchSpace, Stage

SPACE = SearchSpace((Stage("a", (Model("s", 3e9),), 256, 64, (1, 2, 3, 4)),), 100)


class Watched(OptunaGPSearcher):
    """Notes on how many threads its sampler works."""

    threads: tuple[int, ...] = ()
    count_threads: Callable[[], int]

    def _sampler(self, seed):
        self.threads = (*self.threads, self.count_threads())
        return super()._sampler(seed)


def test_one_thread_while_it_computes_and_as_before_afterwards():
    torch = pytest.importorskip("torch")  # imported here: it takes two seconds of every worker
    Watched.count_threads = staticmethod(torch.get_num_threads)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        searcher = Watched(SPACE, options=OptunaOptions(initial=1))
        for count in (1, 2):
            searcher.tell([TrialResult(SPACE.allocation(("s", count)), 0.1 * count)])
        assert len(searcher.ask(1)) == 1
        assert searcher.threads[-1] == 1
        assert len(searcher.threads) == 2  # when it is made, and to propose
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_score_far_below_the_others_counts_as_a_failed_trial():
    pytest.importorskip("optuna")
    space = SearchSpace((Stage("a", (Model("s", 3e9),), 256, 64, tuple(range(1, 65))),), 2000)
    asked = []
    for outlier in (-1e6, None):
        searcher = create("optuna_tpe", space)
        scores = [outlier if count == 9 else -20.0 - 1.0 / count for count in range(1, 13)]
        tried = [space.allocation(("s", count)) for count in range(1, 13)]
        searcher.tell([TrialResult(*one) for one in zip(tried, scores, strict=True)])
        asked.append(searcher.ask(4))
    assert asked[0] == asked[1]
