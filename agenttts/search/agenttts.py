"""The AgentTTS searcher: initial trials, then agent and insight rules.

The agent is a language model, if there is one. The insight rules value its proposals and complete
the batch.

What differs from the paper (arXiv 2508.00890):

- *Initial trials* are the paper's, in its order, and all of them come first when asked for together
  (a run's first batch). Asked for a few at a time, the first four come first. From then on each
  remaining one is valued like every other allocation, and some are never made: with three stages of
  four models they would take a dozen trials, more than it takes to find the optimum of a space
  without noise.
- *The insights are a statistical model* (`agenttts.search.surrogate`), not only text in a prompt.
  The model proposes, and it values the agent's proposals. Only a few trials of a batch are the
  agent's own; the number depends on how well it has predicted (`agenttts.search.llm.agent`).
- *The first batch* has one trial of the agent, in place of the last initial one if need be.
- *The result* is the allocation with the highest expected score, not the highest score: one high
  score among lower neighbours is taken for noise.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from typing_extensions import override

from agenttts.search.archive import Archive
from agenttts.search.base import Proposal
from agenttts.search.initial import initial_trials
from agenttts.search.insights import MOST_COMPARED, AgentTTSOptions, InsightRules
from agenttts.search.surrogate import Surrogate
from agenttts.space import Allocation, SearchSpace

# Once scores are known, initial trials past this many are made only if the surrogate values them.
_FIRST_INITIAL = 4

# The size of the first batch from which on an agent may choose one of its trials.
_MIN_STARTED = 3


@dataclass(frozen=True)
class Offer:
    """An agent's proposals for a batch.

    The first ``own`` of them are tried even if the surrogate ranks them low. With ``preferred`` the
    others are tried if they are worth half of the best candidate, otherwise if they are the best.
    """

    proposals: Sequence[Proposal]
    own: int = 0
    preferred: bool = True


class Proposer(Protocol):
    """The LLM agent: proposes before the insight rules do.

    It may return fewer than ``n``, more, or none. Proposals that are infeasible, known, repeated
    or, beyond its own places, of little value to the surrogate are dropped, and the insight rules
    fill the batch.
    """

    def start(self, n: int, known: Collection[Allocation]) -> Sequence[Proposal]:
        """Return up to ``n`` proposals that are not ``known``, before any result."""
        ...

    def propose(self, n: int, archive: Archive, model: Surrogate) -> Offer:
        """Return proposals from ``archive`` and what the surrogate expects.

        It is asked after the initial trials that come first, and once there is a score.
        """
        ...


class AgentTTSSearcher(InsightRules):
    """The AgentTTS method; ``proposer`` is the agent that proposes first, if any."""

    name = "agenttts"
    asks_llm = "takes"

    def __init__(
        self,
        space: SearchSpace,
        seed: int = 0,
        options: AgentTTSOptions | None = None,
        *,
        proposer: Proposer | None = None,
    ) -> None:
        super().__init__(space, seed, options)
        self.proposer = proposer
        self._compares_models = 1 in self.options.insights
        self.knows_confidence = self._curves and self._coupling

    @property
    def initial_batch(self) -> int:
        """How many trials form the first batch: the user's own and the initial trials."""
        return len({*self.first, *(trial.allocation for trial in self.initial)})

    @property
    def seed_role(self) -> str:
        """What the seed decides in the rules: in a small space nearly nothing."""
        drawn = "" if self._compares_models else "the initial trials, "
        if self.space.count(MOST_COMPARED + 1) > MOST_COMPARED:
            return (
                f"{drawn}ties, explorations, and which {MOST_COMPARED} of the feasible allocations "
                "a batch compares in addition to the neighbours of the best trials (two seeds may "
                "give the same trials)"
            )
        if drawn:
            return f"{drawn}ties and explorations"
        return (
            "only ties and explorations (agenttts compares all feasible allocations, "
            f"because there are at most {MOST_COMPARED})"
        )

    @cached_property
    def initial(self) -> list[Proposal]:
        """The initial trials.

        They are the same for every searcher with this space, seed and options.
        """
        trials = initial_trials(self.space, self.options.initial_cap)
        if self._compares_models:
            return trials
        drawn = self._feasible.draw_many(
            len(trials), (), lambda i: random.Random(f"initial/{self.seed}/{i}")
        )
        return [Proposal(a, "initial", "drawn at random (insight 1 is off)") for a in drawn]

    def rivals(self, best: Allocation, n: int) -> list[Allocation]:
        """Return those with the highest expected scores."""
        model = self.model()
        known = [] if model is None else list(model.tried)
        return [allocation for allocation in known if allocation != best][:n]

    @override
    def _propose(self, n: int) -> list[Proposal]:
        pending = self.archive.pending  # before the batch's own initial trials are among them
        chosen = self._started(n, self._next_initial(n))
        self.add_pending(proposal.allocation for proposal in chosen)  # no later one repeats them
        if len(chosen) == n:
            return chosen
        self.archive.write_guidelines(self.findings())
        failures = self.failures()
        offered: dict[Allocation, Proposal] = {}
        preferred = True
        model = self.model()
        if self.proposer is not None and model is not None and self._open:
            offer = self.proposer.propose(n - len(chosen), self.archive, model)
            for proposal in offer.proposals:
                allocation = proposal.allocation
                new = allocation in self.space and allocation not in self.archive
                if new and not failures.avoids(allocation):
                    offered.setdefault(allocation, proposal)
            preferred = offer.preferred
            own = list(offered.values())[: min(offer.own, n - len(chosen))]
            self.add_pending(proposal.allocation for proposal in own)
            chosen += own
            pending = (*pending, *(offered.pop(proposal.allocation).allocation for proposal in own))
        if len(chosen) == n:
            return chosen
        return chosen + self.propose_by_rules(
            n - len(chosen),
            preferred=list(offered.values()) if preferred else (),
            also=[*self._missing_initial(), *(() if preferred else offered.values())],
            pending=pending,
        )

    def _started(self, n: int, initial: list[Proposal]) -> list[Proposal]:
        """Return the start of a batch: with an agent's choices, if it is the first."""
        if self.proposer is None or n < _MIN_STARTED or not self.archive.known <= {*self.first}:
            return initial
        known = self.archive.known | {proposal.allocation for proposal in initial}
        started = self.proposer.start(1, known)
        return [*initial[: n - len(started)], *started]

    def _next_initial(self, n: int) -> list[Proposal]:
        """Return the initial trials that come first.

        These are all of them before any score is known, then only up to the first few.
        """
        if self.archive.scored:
            own = sum(allocation in self.archive for allocation in self.first)
            n = min(n, _FIRST_INITIAL - (len(self.archive.tried) - own))
        return self._missing_initial()[: max(0, n)]

    def _missing_initial(self) -> list[Proposal]:
        missing = [trial for trial in self.initial if trial.allocation not in self.archive]
        failures = self.failures()
        return [trial for trial in missing if not failures.avoids(trial.allocation)]


class PaperSearcher(AgentTTSSearcher):
    """The search with the paper's agent and prompts: two questions a batch."""

    name = "agenttts_paper"
