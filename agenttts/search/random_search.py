"""Random search: uniform over the feasible set, without replacement."""

from __future__ import annotations

import random
from functools import cached_property

from typing_extensions import override

from agenttts.search.base import Proposal, Searcher
from agenttts.search.feasible import FeasibleSet


class RandomSearcher(Searcher):
    """A baseline.

    The k-th proposal depends on the seed and on the known allocations, not on the batch size.
    """

    name = "random"
    seed_role = "every allocation"

    @cached_property
    def _feasible(self) -> FeasibleSet:
        return FeasibleSet(self.space)

    @override
    def _propose(self, n: int) -> list[Proposal]:
        known = self.archive.known_count
        drawn = self._feasible.draw_many(
            n, self.archive, lambda i: random.Random(f"random/{self.seed}/{known + i}")
        )
        return [Proposal(allocation, "random", "drawn at random") for allocation in drawn]
