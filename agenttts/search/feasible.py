"""The feasible set as a numbered list that is never written out.

Allocations are numbered 0..size-1 without enumerating them: the stages are split into two halves,
each half's combinations are listed once, the second half sorted by cost, so that the completions of
a first half are a prefix of the second. A set of 10^6 allocations over three stages takes a few
10^4 entries. Halves are arrays, because one of three stages may have 10^6 entries. Where a half
would have too many, as with seven stages of 240 choices, the stages keep counts about evenly spaced
in log(samples).
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_right
from collections.abc import Callable, Container, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from agenttts.errors import UserError, counted
from agenttts.search.encoding import SLACK, ChoiceGrid
from agenttts.search.gaussian import Floats
from agenttts.space import Allocation, SearchSpace

Avoids = Callable[[Allocation], bool]
"""Whether an allocation is not to be drawn if others are drawn in a few tries."""

_MOST_AVOIDED = 50


class FeasibleSet:
    """Random access to, and uniform draws from, the feasible allocations of a space."""

    def __init__(self, space: SearchSpace) -> None:
        grid = ChoiceGrid(space)
        split = len(space.stages) // 2
        stages = range(len(space.stages))
        self._choices = grid.choices
        self._limit = space.budget * (1.0 + SLACK)
        level = max(len(stage.samples) for stage in space.stages)
        while True:
            first, last = (
                grid.combinations(half, level) for half in (stages[:split], stages[split:])
            )
            if level == 1 or (first is not None and last is not None):
                break
            level //= 2
        if first is None or last is None:
            raise UserError(
                f"{counted(len(space.stages), 'stage')} with so many models: too many combinations "
                "to draw allocations from; leave out models of some stages",
                at=("stages",),
            )
        (costs, self._first), (second_costs, second) = first, last
        # Equal costs keep their order (the sort is stable), so the numbering is the same
        # everywhere.
        order = np.argsort(second_costs, kind="stable")
        self._second = second[order]
        ends = self._completions(space.budget - costs, costs, second_costs[order])
        self._ends: list[int] = np.cumsum(ends).tolist()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> Allocation:
        if not 0 <= number < len(self):
            raise IndexError(number)
        row = bisect_right(self._ends, number)
        column = number - (self._ends[row - 1] if row else 0)
        numbers = itertools.chain(self._first[row].tolist(), self._second[column].tolist())
        return Allocation(tuple(stage[n] for stage, n in zip(self._choices, numbers, strict=True)))

    def __iter__(self) -> Iterator[Allocation]:
        return (self[number] for number in range(len(self)))

    def draw(
        self, rng: random.Random, *known: Container[Allocation], avoids: Avoids | None = None
    ) -> Allocation | None:
        """One allocation uniformly from those in none of ``known``; None when all are.

        One that ``avoids`` holds for is drawn again, up to 50 times: nothing else may be left.
        """
        allocation = self._draw(rng, known)
        for _ in range(_MOST_AVOIDED):
            if allocation is None or avoids is None or not avoids(allocation):
                break
            allocation = self._draw(rng, known)
        return allocation

    def _draw(
        self, rng: random.Random, known: Sequence[Container[Allocation]]
    ) -> Allocation | None:
        """Reject known ones a few dozen times, then list what is left.

        That is cheap while few are known, and always exact.
        """
        size = len(self)
        for _ in range(64):
            allocation = self[rng.randrange(size)]
            if not any(allocation in some for some in known):
                return allocation
        rest = [allocation for allocation in self if not any(allocation in some for some in known)]
        return rng.choice(rest) if rest else None

    def draw_many(
        self,
        n: int,
        known: Container[Allocation],
        key: Callable[[int], random.Random],
        avoids: Avoids | None = None,
    ) -> list[Allocation]:
        """Up to ``n`` distinct draws; ``key(i)`` gives the generator of the i-th."""
        drawn: dict[Allocation, None] = {}
        for position in range(n):
            allocation = self.draw(key(position), known, drawn, avoids=avoids)
            if allocation is None:
                break
            drawn[allocation] = None
        return list(drawn)

    def _completions(self, left: Floats, spent: Floats, second_costs: Floats) -> NDArray[np.int64]:
        """Return how many second halves fit beside each first half."""
        counts = np.searchsorted(second_costs, left, side="right")
        # The subtraction in ``left`` rounds differently from the test the space applies; settle
        # the edge by that test.
        padded = np.append(second_costs, np.inf)
        while (more := spent + padded[counts] <= self._limit).any():
            counts += more
        return counts
