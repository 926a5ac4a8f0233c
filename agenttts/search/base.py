"""What a searcher is: ``ask`` for allocations, ``tell`` what they scored.

Pure Python; no dispatch, no inference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agenttts.space import Allocation, SearchSpace


@dataclass(frozen=True)
class TrialResult:
    """What the archive keeps of a trial. ``score`` is None when the trial failed; 0 is a result."""

    allocation: Allocation
    score: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class Proposal:
    """An allocation to evaluate, where it came from and why (one line for the log)."""

    allocation: Allocation
    source: str
    reason: str = ""


class Searcher(ABC):
    """Proposes allocations within a space.

    Contract, tested by one conformance suite: every proposal is in the space; none repeats one that was proposed
    before while new ones exist; with the same seed and the same tells, the same proposals; `tell` may come late, in
    any order and with failed trials; a new searcher told the whole archive goes on as the old one would have
    (resume); `ask` returns fewer than ``n`` (at last none) when the space is exhausted.
    """

    name: str

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
        self.space = space
        self.seed = seed

    @abstractmethod
    def propose(self, n: int) -> list[Proposal]:
        """Up to ``n`` new proposals with their sources."""

    def ask(self, n: int) -> list[Allocation]:
        """Up to ``n`` new allocations to evaluate."""
        return [proposal.allocation for proposal in self.propose(n)]

    @abstractmethod
    def tell(self, results: Sequence[TrialResult]) -> None:
        """Take in what trials scored. Telling of an allocation never asked for is allowed (resume, replay)."""

    @abstractmethod
    def best(self) -> Allocation | None:
        """The allocation to recommend so far; None before any trial scored."""

    @property
    @abstractmethod
    def initial_batch(self) -> int:
        """How many proposals form the initial trials (0 when the searcher has none)."""
