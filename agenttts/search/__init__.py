"""Searchers: what to try next.

``create("agenttts", space, seed=0)`` makes one by its name in the job spec.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agenttts.errors import UserError, counted, located, valid_names
from agenttts.named_classes import NamedClasses
from agenttts.search.base import Proposal, Searcher, TrialResult
from agenttts.search.fidelity import Fidelity
from agenttts.space import SearchSpace
from agenttts.spec import JobSpec
from agenttts.spec.allocations import read_allocations
from agenttts.spec.section import Options
from agenttts.spec.strict import read_options

if TYPE_CHECKING:
    from agenttts.search.agenttts import Proposer
    from agenttts.search.llm.proposer import LLMSession

log = logging.getLogger(__name__)

__all__ = [
    "SEARCHERS",
    "Proposal",
    "Searcher",
    "TrialResult",
    "check_options",
    "create",
    "create_for",
    "fidelity_for",
    "options_for",
    "seed_role",
]

# Every searcher by the name that `search.method` gives it; a new one is a line here. A command
# loads only the searcher of its spec: with all of them it would also load numpy and Polars.
SEARCHERS: NamedClasses[Searcher] = NamedClasses(
    {
        "agenttts": "agenttts.search.agenttts:AgentTTSSearcher",
        "random": "agenttts.search.random_search:RandomSearcher",
        "gp": "agenttts.search.gp_search:GaussianProcessSearcher",
        "optuna_tpe": "agenttts.search.optuna_search:OptunaTPESearcher",
        "optuna_gp": "agenttts.search.optuna_search:OptunaGPSearcher",
        "genetic": "agenttts.search.genetic:GeneticSearcher",
        "grid": "agenttts.search.exhaustive:GridSearcher",
        "llm_zs": "agenttts.search.llm.baselines:ZeroShotSearcher",
        "agenthpo": "agenttts.search.llm.baselines:AgentHPOSearcher",
        "mlcopilot": "agenttts.search.llm.baselines:MLCopilotSearcher",
        "llm_sketch": "agenttts.search.llm.sketch:SketchSearcher",
        "agenttts_paper": "agenttts.search.agenttts:PaperSearcher",
    }
)


def create(
    name: str,
    space: SearchSpace,
    seed: int = 0,
    *,
    llm: LLMSession | None = None,
    proposer: Proposer | None = None,
    **options: object,
) -> Searcher:
    """The searcher called ``name`` over ``space``.

    ``options`` are those that its class declares (`Searcher.options_model`). ``llm`` is the model
    to ask, for searchers that ask one; ``proposer`` takes the model's place in ``agenttts``.

    Raises:
        UserError: The name or an option is unknown, or a value is not valid. The error is located
            as in the section ``search``.
    """
    return _create(name, space, seed, options, llm, proposer)


def create_for(
    spec: JobSpec,
    *,
    method: str | None = None,
    seed: int | None = None,
    llm: LLMSession | None = None,
    space: SearchSpace | None = None,
    examples: int | None = None,
) -> Searcher:
    """The searcher of a job spec.

    ``examples`` is the number of the task's examples; None if the searcher need not choose among
    them.

    ``method``, ``seed`` and ``space`` take the place of the spec's. The spec's options are those of
    its own method, and another method gets none. ``space`` is a part of the spec's (the counts of a
    recorded table); the user's own allocations outside it are left out, with a warning.

    Raises:
        UserError: As in `create`, with the place in the spec.
    """
    section = spec.search
    name = section.method if method is None else method
    options = options_for(spec, name)
    whole = spec.space()
    within = whole if space is None else space
    with spec.located(), located("search"):
        searcher = _create(name, within, section.seed if seed is None else seed, options, llm)
        if section.stop is not None and method is None and not searcher.knows_confidence:
            known = [n for n, kind in SEARCHERS.items() if kind.knows_confidence]
            fix = f"choose a method that does: {', '.join(known)}"
            if name in known:
                fix = "let options.insights include 2 and 3, which it needs for that"
            raise UserError(
                f"method '{name}' does not say how sure its recommendation is; leave it out, or "
                f"{fix}",
                at=("stop",),
            )
        with located("first"):
            own = read_allocations(section.first, whole)
    searcher.first = [allocation for allocation in own if allocation in within]
    searcher.fidelity = fidelity_for(spec, examples)
    for allocation in own:
        if allocation not in within:
            log.warning("%s, to be tried first, is left out: the table lacks it", allocation)
    return searcher


def options_for(spec: JobSpec, method: str) -> Mapping[str, object]:
    """The options that a job spec gives a method: none unless it is its own."""
    return spec.search.options if method == spec.search.method else {}


def check_options(spec: JobSpec, method: str) -> None:
    """Check the options that a job spec gives a method, whatever the space.

    Raises:
        UserError: The name or an option is unknown, or a value is not valid, with the place in the
            spec.
    """
    with spec.located(), located("search"):
        _read_options(method, options_for(spec, method))


def fidelity_for(spec: JobSpec, examples: int | None) -> Fidelity | None:
    """On how many examples the trials of a job spec are scored; None if always on all.

    ``examples`` is the number of the task's examples; None if it is not known.

    Raises:
        UserError: The spec asks for more, with the place in the spec.
    """
    section = spec.search.examples
    if section is None or not examples:
        return None
    most = examples if section.most is None else section.most
    if section.first > examples or most > examples:
        key = "first" if section.first > examples else "most"
        with spec.located():
            raise UserError(
                f"{getattr(section, key)} is above the {counted(examples, 'example')} of the task; "
                f"valid: 1 to {examples}",
                at=("search", "examples", key),
            )
    return Fidelity(section.first, most, examples)


def _create(
    name: str,
    space: SearchSpace,
    seed: int,
    given: Mapping[str, object],
    llm: LLMSession | None,
    proposer: Proposer | None = None,
) -> Searcher:
    options = _read_options(name, given)
    searcher = SEARCHERS[name]
    # Imported here, with the searcher that needs them: a search without a language model saves the
    # modules of `search.llm`, and most searchers save the surrogate.
    if searcher.asks_llm == "needs":
        from agenttts.search.llm.baselines import LLMSearcher

        assert issubclass(searcher, LLMSearcher)
        return searcher(space, seed, options, llm=llm)
    if searcher.asks_llm == "takes":
        from agenttts.search.agenttts import AgentTTSSearcher, PaperSearcher
        from agenttts.search.insights import AgentTTSOptions

        assert issubclass(searcher, AgentTTSSearcher)
        assert isinstance(options, AgentTTSOptions)
        if llm is not None:
            from agenttts.search.llm.agent import LLMAgent
            from agenttts.search.llm.paper import PaperAgent

            agent = PaperAgent if issubclass(searcher, PaperSearcher) else LLMAgent
            proposer = agent(space, seed, llm, options.insights)
        return searcher(space, seed, options, proposer=proposer)
    return searcher(space, seed, options)


def _read_options(name: str, given: Mapping[str, object]) -> Options:
    if name not in SEARCHERS:
        raise UserError(unknown_method(name), at=("method",))
    with located("options"):
        return read_options(SEARCHERS[name].options_model, given, f"method '{name}'")


def unknown_method(name: str) -> str:
    """Return the message that ``name`` is no searcher's."""
    return f"unknown method '{name}'; {valid_names(name, SEARCHERS)}"


def seed_role(searcher: Searcher, *, llm: bool) -> str:
    """What the seed of ``searcher`` decides, in a few words.

    ``llm``: a language model is asked.
    """
    if llm and searcher.asks_llm == "takes":
        return (
            "the seed of every call of the language model; in the proposals of the rules: "
            f"{searcher.seed_role}"
        )
    return searcher.seed_role
