"""Random search: uniform over the feasible set, without replacement."""

from __future__ import annotations

from typing_extensions import override

from agenttts.search.base import Proposal, Searcher


class RandomSearcher(Searcher):
    """A baseline.

    The k-th proposal depends on the seed and on the known allocations, not on the batch size.
    """

    name = "random"
    seed_role = "every allocation"

    @override
    def _propose(self, n: int) -> list[Proposal]:
        return self._drawn(n, "drawn at random")
