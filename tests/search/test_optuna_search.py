from __future__ import annotations

from collections.abc import Callable

import pytest

from agenttts.search import TrialResult, create
from agenttts.search.optuna_search import OptunaGPSearcher, OptunaOptions
from agenttts.space import Model, SearchSpace, Stage

# With the engines, which load PyTorch, too: its import takes some seconds of a worker.
pytestmark = pytest.mark.xdist_group("engines")

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
    models = (Model("s", 1e9), Model("l", 70e9))
    stages = (
        Stage("a", models, 256, 64, tuple(range(1, 33))),
        Stage("b", models, 256, 64, (1, 2, 4, 8, 16)),
    )
    space = SearchSpace(stages, 1500)
    tried = create("random", space, 3).ask(20)
    scores = [-20.0 - sum(1.0 / choice.samples for choice in a.choices) for a in tried]
    asked = []
    for second in (-1e6, None, -20.0):
        searcher = create("optuna_tpe", space)
        told = [scores[0], second, *scores[2:]]
        searcher.tell([TrialResult(*one) for one in zip(tried, told, strict=True)])
        asked.append(searcher.ask(6))
    assert asked[0] == asked[1] != asked[2]
