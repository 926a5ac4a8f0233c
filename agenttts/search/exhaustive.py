"""Exhaustive search: every allocation of a small space once."""

from __future__ import annotations

import random
from functools import cached_property
from typing import Annotated

from pydantic import Field
from typing_extensions import override

from agenttts.errors import UserError
from agenttts.search.base import Proposal, Searcher
from agenttts.space import Allocation, SearchSpace
from agenttts.spec.section import Options


class GridOptions(Options):
    """The options of `grid`."""

    most: Annotated[int, Field(ge=1, description="1 or more allocations")] = 10_000
    """The largest feasible set that it takes on."""


class GridSearcher(Searcher):
    """Tries the whole feasible set, in an order drawn with the seed.

    When it is stopped early, its trials are a uniform sample. Allocations that stored samples of
    other trials have scored are not tried.

    Raises:
        UserError: The feasible set is larger than the option ``most``.
    """

    name = "grid"
    seed_role = "the order in which the allocations are tried"

    options_model = GridOptions
    options: GridOptions

    def __init__(
        self, space: SearchSpace, seed: int = 0, options: GridOptions | None = None
    ) -> None:
        super().__init__(space, seed, options)
        if len(self._feasible) > self.options.most:
            raise UserError(
                f"grid would try all {len(self._feasible):,} feasible allocations, and takes on at "
                f"most {self.options.most:,}; give stages fewer sample counts "
                "(samples: {values: [1, 2, 4, 8]}), lower the budget or choose another method",
                at=("method",),
            )

    @cached_property
    def _order(self) -> list[Allocation]:
        order = list(self._feasible)
        random.Random(f"grid/{self.seed}").shuffle(order)
        return order

    @override
    def _propose(self, n: int) -> list[Proposal]:
        new = [allocation for allocation in self._order if allocation not in self.archive][:n]
        return [Proposal(allocation, "grid", "next of the whole grid") for allocation in new]
