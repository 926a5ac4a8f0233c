"""Searchers: what to try next. ``create("agenttts", space, seed=0)`` makes one by its name in the job spec."""

from __future__ import annotations

import inspect

from agenttts.errors import UserError, valid_names
from agenttts.search.agenttts import AgentTTSSearcher
from agenttts.search.base import Proposal, Searcher, TrialResult
from agenttts.search.exhaustive import GridSearcher
from agenttts.search.genetic import GeneticSearcher
from agenttts.search.gp_search import GaussianProcessSearcher
from agenttts.search.optuna_search import OptunaGPSearcher, OptunaTPESearcher
from agenttts.search.random_search import RandomSearcher
from agenttts.space import SearchSpace

__all__ = ["SEARCHERS", "Proposal", "Searcher", "TrialResult", "create"]

# Every searcher by the name that `search.method` gives it; a new one is a line here.
SEARCHERS: dict[str, type[Searcher]] = {
    searcher.name: searcher
    for searcher in (
        AgentTTSSearcher,
        RandomSearcher,
        GaussianProcessSearcher,
        OptunaTPESearcher,
        OptunaGPSearcher,
        GeneticSearcher,
        GridSearcher,
    )
}


def create(name: str, space: SearchSpace, seed: int = 0, **options: object) -> Searcher:
    """The searcher called ``name`` over ``space``; ``options`` are its own (keyword arguments of its class).

    Raises `agenttts.errors.UserError` for an unknown name or option, naming the valid ones.
    """
    if name not in SEARCHERS:
        raise UserError(f"search.method: unknown method '{name}'; {valid_names(name, SEARCHERS)}")
    searcher = SEARCHERS[name]
    valid = option_names(name)
    for option in options:
        if option not in valid:
            raise UserError(
                f"search: method '{name}' has no option '{option}'; {valid_names(option, valid)}"
            )
    return searcher(space, seed, **options)


def option_names(name: str) -> list[str]:
    """The options that the searcher called ``name`` takes."""
    parameters = inspect.signature(SEARCHERS[name]).parameters
    return [option for option in parameters if option not in ("space", "seed")]
