"""Searchers: what to try next.

``create("agenttts", space, seed=0)`` makes one by its name in the job spec.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any, Literal, get_type_hints

from agenttts.errors import UserError, valid_names
from agenttts.files.documents import fits
from agenttts.search.agenttts import AgentTTSSearcher
from agenttts.search.base import Proposal, Searcher, TrialResult
from agenttts.search.exhaustive import GridSearcher
from agenttts.search.genetic import GeneticSearcher
from agenttts.search.gp_search import GaussianProcessSearcher
from agenttts.search.insights import ALL_INSIGHTS
from agenttts.search.llm.agent import LLMAgent
from agenttts.search.llm.baselines import (
    AgentHPOSearcher,
    LLMSearcher,
    MLCopilotSearcher,
    ZeroShotSearcher,
)
from agenttts.search.llm.proposer import LLMSession
from agenttts.search.optuna_search import OptunaGPSearcher, OptunaTPESearcher
from agenttts.search.random_search import RandomSearcher
from agenttts.space import SearchSpace

__all__ = [
    "SEARCHERS",
    "Proposal",
    "Searcher",
    "TrialResult",
    "asks_llm",
    "create",
    "option_names",
    "seed_role",
]

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
        ZeroShotSearcher,
        AgentHPOSearcher,
        MLCopilotSearcher,
    )
}
# Options that are objects of this package and so never come from a spec.
_OBJECTS = ("proposer", "llm")


def create(
    name: str,
    space: SearchSpace,
    seed: int = 0,
    *,
    llm: LLMSession | None = None,
    **options: object,
) -> Searcher:
    """The searcher called ``name`` over ``space``.

    ``options`` are its own (keyword arguments of its class).

    ``llm`` is the model to ask, for those that ask one. Raises `agenttts.errors.UserError` for an
    unknown name or option, naming the valid ones.
    """
    if name not in SEARCHERS:
        raise UserError(f"search.method: unknown method '{name}'; {valid_names(name, SEARCHERS)}")
    searcher = SEARCHERS[name]
    valid = option_names(name)
    if llm is not None and not isinstance(llm, LLMSession):
        options["llm"] = llm  # from a spec, where it is an option like any other
        llm = None
    for option in options:
        given = option == "proposer" and getattr(options[option], "propose", None)
        if option not in valid and not given:
            raise UserError(
                f"search: method '{name}' has no option '{option}'; {valid_names(option, valid)}"
            )
    annotations = get_type_hints(searcher.__init__)
    for option in set(options) & set(valid):
        problem = fits(annotations.get(option, Any), options[option])
        if problem is not None:
            text = f"{problem[:1].lower()}{problem[1:]}".replace("input should be", "must be")
            raise UserError(f"search.options.{option}: {text}, not {options[option]!r:.60}")
    if llm is not None and issubclass(searcher, LLMSearcher):
        options["llm"] = llm
    elif llm is not None and issubclass(searcher, AgentTTSSearcher):
        insights = options.get("insights", ALL_INSIGHTS)
        assert isinstance(insights, Collection)
        options["proposer"] = LLMAgent(space, seed, llm, insights)
    return searcher(space, seed, **options)


def asks_llm(name: str) -> Literal["needs", "takes", "no"]:
    """Whether the searcher called ``name`` asks a language model.

    It needs one, takes one when there is one, or asks none.
    """
    searcher = SEARCHERS[name]
    if issubclass(searcher, LLMSearcher):
        return "needs"
    return "takes" if issubclass(searcher, AgentTTSSearcher) else "no"


def seed_role(searcher: Searcher, *, llm: bool) -> str:
    """What the seed of ``searcher`` decides, in a few words.

    ``llm``: a language model is asked.
    """
    if llm and asks_llm(searcher.name) == "takes":
        return (
            "the seed of every question to the language model; in what the rules propose: "
            f"{searcher.seed_role}"
        )
    return searcher.seed_role


def option_names(name: str) -> list[str]:
    """The options that a job spec may give the searcher called ``name``."""
    parameters = inspect.signature(SEARCHERS[name]).parameters
    return [option for option in parameters if option not in ("space", "seed", *_OBJECTS)]
