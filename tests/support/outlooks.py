"""An outlook on a small search, for the tests of figures and pages."""

from __future__ import annotations

from agenttts.loop.outlook import outlook
from agenttts.search.archive import TrialResult
from agenttts.space import Allocation, Model, SearchSpace, Stage
from agenttts.tables.insights import Outlook

MODELS = (Model("small", 3e9), Model("large", 14e9))
SPACE = SearchSpace(
    (
        Stage("retrieval", MODELS, 128, 64, tuple(range(1, 21))),
        Stage("answer", MODELS, 128, 64, tuple(range(1, 21))),
    ),
    120.0,
)


def result(score: float | None, *choices: tuple[str, int]) -> TrialResult:
    """The result of a trial with these choices, a (model, samples) pair a stage."""
    return TrialResult(SPACE.allocation(*choices), score, stderr=0.02, source="initial")


RESULTS = (
    result(0.30, ("small", 1), ("small", 1)),
    result(0.42, ("small", 10), ("small", 1)),
    result(0.50, ("large", 1), ("small", 10)),
    result(0.64, ("large", 2), ("large", 4)),
    result(0.65, ("large", 2), ("large", 8)),
    result(None, ("large", 4), ("large", 1)),
)


def small_outlook(recommended: Allocation | None = None) -> Outlook:
    """What is expected after `RESULTS`."""
    found = outlook(SPACE, RESULTS, recommended)
    assert found is not None
    return found
