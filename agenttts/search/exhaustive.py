"""Exhaustive search: every allocation of a small space once."""

from __future__ import annotations

import random
from functools import cached_property

from agenttts.errors import UserError
from agenttts.search.base import Proposal, Searcher
from agenttts.search.feasible import FeasibleSet
from agenttts.space import Allocation, SearchSpace

DEFAULT_MOST = 10_000


class GridSearcher(Searcher):
    """Tries the whole feasible set, in an order drawn with the seed.

    When it is stopped early, its trials are a uniform sample.

    Options: ``most``, the largest feasible set it takes on. Raises `UserError` for a larger one.
    """

    name = "grid"
    seed_role = "the order in which the allocations are tried"

    def __init__(self, space: SearchSpace, seed: int = 0, *, most: int = DEFAULT_MOST) -> None:
        super().__init__(space, seed)
        feasible = FeasibleSet(space)
        if len(feasible) > most:
            raise UserError(
                f"search.method: grid would try all {len(feasible):,} feasible allocations, "
                f"and takes on at most {most:,}; give stages fewer sample counts "
                "(samples: {values: [1, 2, 4, 8]}), lower search.budget or choose another method"
            )
        self._feasible = feasible

    @cached_property
    def _order(self) -> list[Allocation]:
        order = list(self._feasible)
        random.Random(f"grid/{self.seed}").shuffle(order)
        return order

    def _propose(self, n: int) -> list[Proposal]:
        new = [allocation for allocation in self._order if allocation not in self.archive][:n]
        return [Proposal(allocation, "grid", "next of the whole grid") for allocation in new]
