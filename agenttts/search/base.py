"""What a searcher is: ``ask`` for allocations, ``tell`` what they scored.

No dispatch, no inference.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from agenttts.search.archive import Archive, TrialResult
from agenttts.search.fidelity import Fidelity
from agenttts.space import Allocation, SearchSpace
from agenttts.spec.section import Options
from agenttts.tables.confidence import Confidence

if TYPE_CHECKING:
    from agenttts.search.evidence import EvidenceReader
    from agenttts.search.feasible import Avoids, FeasibleSet

__all__ = ["FIRST_SOURCE", "Proposal", "Searcher", "TrialResult"]

FIRST_SOURCE = "first"
"""The source of the user's own allocations, after the key of the job spec."""


@dataclass(frozen=True)
class Proposal:
    """An allocation to evaluate, where it came from and why (one line for the log).

    ``examples`` are the numbers of those to evaluate it on; None means all.
    """

    allocation: Allocation
    source: str
    reason: str = ""
    examples: tuple[int, ...] | None = None


class Searcher(ABC):
    """Proposes allocations within a space.

    Contract, tested by one conformance suite: every proposal is in the space; none repeats one that
    was proposed before while new ones exist; with the same seed and the same tells, the same
    proposals; `tell` may come late, in any order and with failed trials; a new searcher told the
    whole archive goes on as the old one would have (resume; `add_pending` registers what was
    proposed and has not finished); `ask` returns fewer than ``n`` (at last none) when the space is
    exhausted.

    Pending trials: an allocation is pending (`Archive.pending`) from its proposal, or its
    registration by `add_pending`, until it is told. `ask` may be called while trials are pending.
    It does not propose them again, and it values proposals as if the pending trials will be known:
    a searcher with a model of the scores conditions the model on their expected scores, as it does
    for the trials of one batch; a language model reads them in its prompt; draws from the feasible
    set only exclude them. Proposals depend on which trials are pending, not on the order of
    registration. While nothing is pending, none of this changes a proposal.

    All state is the archive. A subclass implements `_propose` and may refine `best`. A subclass
    with options declares them: ``options_model`` is their section, and ``options`` has its type.
    """

    name: str
    options_model: ClassVar[type[Options]] = Options
    """What `search.options` of a job spec may hold."""
    options: Options
    knows_confidence: bool = False
    """Whether `confidence` says how sure a recommendation is, once there are enough trials.

    Options may switch it off in a searcher whose class has it.
    """

    asks_llm: ClassVar[Literal["needs", "takes", "no"]] = "no"
    """Whether the searcher needs a language model, takes one when there is one, or asks none."""

    first: Sequence[Allocation] = ()
    """The user's own allocations, proposed before all others."""
    fidelity: Fidelity | None = None
    """On which examples trials are scored; None: on all, always."""

    def __init__(self, space: SearchSpace, seed: int = 0, options: Options | None = None) -> None:
        self.space = space
        self.seed = seed
        self.options = options or self.options_model()
        self.archive = Archive(space)

    def propose(self, n: int) -> list[Proposal]:
        """Up to ``n`` new proposals with their sources.

        Each is pending until it is told.
        """
        # One that was lost to the machine is then proposed like any other allocation.
        known = self.archive.known | self.archive.lost
        own = [a for a in self.first if a not in known][: max(0, n)]
        proposals = self._register([Proposal(a, FIRST_SOURCE, "given by the user") for a in own])
        left = n - len(proposals)
        return proposals + self._register(self._propose(left) if left > 0 else [])

    def _register(self, proposed: Iterable[Proposal]) -> list[Proposal]:
        """Return proposals with their examples; each is pending from now on."""
        proposals: list[Proposal] = []
        for proposal in proposed:
            if self.fidelity is not None and proposal.examples is None:
                examples = self.fidelity.next_block(self.archive, proposal.allocation)
                proposal = replace(proposal, examples=examples)
            self.add_pending([proposal.allocation], proposal.examples)
            proposals.append(proposal)
        return proposals

    def ask(self, n: int) -> list[Allocation]:
        """Up to ``n`` new allocations to evaluate."""
        return [proposal.allocation for proposal in self.propose(n)]

    def tell(self, results: Sequence[TrialResult]) -> None:
        """Take in what trials scored.

        Telling of an allocation never asked for is allowed (resume, replay).
        """
        self.archive.add(results)

    def add_pending(
        self, allocations: Iterable[Allocation], examples: Sequence[int] | None = None
    ) -> None:
        """Register allocations that were proposed earlier and have not finished.

        ``examples`` are those that they are evaluated on; None means all.
        """
        self.archive.add_pending(allocations, examples)

    def best(self, *, tried: bool = False) -> Allocation | None:
        """The allocation to recommend so far; None before any trial scored.

        Here: the highest score, ties to the cheaper. Searchers with a model of the scores recommend
        by it. It may be a stored result, unless only one that was ``tried`` is asked for, i.e.
        evaluated by a trial of its own.
        """
        best = self.archive.best(tried=tried)
        return best.allocation if best else None

    def confidence(self, recommended: Allocation, within: float) -> Confidence | None:
        """How sure it is that an allocation is at most ``within`` below the best.

        ``within`` is a share of the best expected score.

        None: not known.
        """
        return None

    def rivals(self, best: Allocation, n: int) -> list[Allocation]:
        """Up to ``n`` scored allocations that may be as good as ``best``.

        The most promising come first. Here: those with the highest scores.
        """
        ranked = sorted(self.archive.scored, key=lambda t: (-t.score, t.cost, t.allocation))
        return [trial.allocation for trial in ranked if trial.allocation != best][:n]

    def guidelines(self) -> list[str]:
        """The findings of the search in sentences, oldest first.

        Empty where the searcher writes none.
        """
        return list(self.archive.guidelines)

    @property
    @abstractmethod
    def seed_role(self) -> str:
        """What the seed decides in this search, in a few words.

        A user reads it wherever a seed is set: see `agenttts.search.seed_role`.
        """

    @property
    def initial_batch(self) -> int:
        """How many proposals form the initial trials: the user's own and the searcher's."""
        return len(set(self.first))

    @cached_property
    def _feasible(self) -> FeasibleSet:
        # Imported by the first proposal. Most commands only read results, and save numpy.
        from agenttts.search.feasible import FeasibleSet

        return FeasibleSet(self.space)

    @cached_property
    def _evidence(self) -> EvidenceReader:
        from agenttts.search.evidence import EvidenceReader  # as in `_feasible`

        return EvidenceReader(self.archive)

    @property
    def _open(self) -> bool:
        """Whether any allocation is left that is not known."""
        known = sum(allocation in self.space for allocation in self.archive.known)
        return self.space.count(known + 1) > known

    def _drawn(self, n: int, reason: str, avoids: Avoids | None = None) -> list[Proposal]:
        """Up to ``n`` uniform draws from what is not known; they are pending from now on.

        The k-th allocation of a search depends on the seed and the known ones, not on ``n``.
        """
        known = len(self.archive.known)
        drawn = self._feasible.draw_many(
            n, self.archive, lambda i: random.Random(f"{self.name}/{self.seed}/{known + i}"), avoids
        )
        self.add_pending(drawn)
        return [Proposal(allocation, "random", reason) for allocation in drawn]

    @abstractmethod
    def _propose(self, n: int) -> list[Proposal]:
        """Up to ``n`` (at least 1) distinct proposals.

        All are in the space and none is known to the archive.
        """
