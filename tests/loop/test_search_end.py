"""What a search ends with, by what its searcher knows."""

from __future__ import annotations

from agenttts.loop.search_end import concluded
from agenttts.search import TrialResult, create
from agenttts.search.fidelity import Fidelity
from agenttts.space import Model, SearchSpace, Stage

SPACE = SearchSpace((Stage("answer", (Model("m", 1e9),), 64, 32, (1, 2, 3)),), 1000.0)
ONE, TWO, THREE = (SPACE.allocation(("m", count)) for count in (1, 2, 3))


def test_a_trial_on_the_common_examples_counts_once_it_has_ended():
    searcher, common = create("random", SPACE), {0, 1, 2, 3}
    searcher.fidelity = Fidelity(2, 4, 4)
    for allocation, score in ((ONE, 1.0), (TWO, 0.5), (THREE, 0.0)):
        examples = dict.fromkeys((0, 1), score)
        searcher.tell([TrialResult(allocation, score, examples=examples)])
    searcher.add_pending([TWO, THREE], sorted(common))
    assert concluded(searcher, common) == ONE
    searcher.tell([TrialResult(THREE, 0.25, examples=dict.fromkeys(common, 0.25))])
    assert concluded(searcher, common) == THREE
