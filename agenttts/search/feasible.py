"""The feasible set as a numbered list that is never written out.

Allocations are numbered 0..size-1 without enumerating them: the stages are split into two halves,
each half's combinations are listed once, the second half sorted by cost, so that the completions of
a first half are a prefix of the second. A set of 10^6 allocations over three stages takes a few
10^4 entries.
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_right
from collections.abc import Callable, Container, Iterator, Sequence

from agenttts.space import Allocation, Choice, SearchSpace, Stage, fits, total


class FeasibleSet:
    """Random access to, and uniform draws from, the feasible allocations of a space."""

    def __init__(self, space: SearchSpace) -> None:
        split = len(space.stages) // 2
        first, second = space.stages[:split], space.stages[split:]
        least = [space.choice_budget(stage.cheapest) for stage in space.stages]
        self._budget = space.budget
        self._first = _combinations(first, space.budget, total(least[split:]))
        # Equal costs keep their order (the sort is stable), so the numbering is the same
        # everywhere.
        self._second = sorted(
            _combinations(second, space.budget, total(least[:split])), key=lambda half: half[0]
        )
        second_costs = [cost for cost, _ in self._second]
        self._ends = list(
            itertools.accumulate(self._completions(cost, second_costs) for cost, _ in self._first)
        )

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> Allocation:
        if not 0 <= number < len(self):
            raise IndexError(number)
        row = bisect_right(self._ends, number)
        column = number - (self._ends[row - 1] if row else 0)
        return Allocation(self._first[row][1] + self._second[column][1])

    def __iter__(self) -> Iterator[Allocation]:
        return (self[number] for number in range(len(self)))

    def draw(self, known: Container[Allocation], rng: random.Random) -> Allocation | None:
        """One allocation uniformly from those not ``known``; None when all are.

        Rejects known ones a few dozen times, then lists what is left: cheap while few are known,
        exact always.
        """
        size = len(self)
        for _ in range(64):
            allocation = self[rng.randrange(size)]
            if allocation not in known:
                return allocation
        rest = [allocation for allocation in self if allocation not in known]
        return rng.choice(rest) if rest else None

    def draw_many(
        self, n: int, known: Container[Allocation], key: Callable[[int], random.Random]
    ) -> list[Allocation]:
        """Up to ``n`` distinct draws; ``key(i)`` gives the generator of the i-th."""
        drawn: dict[Allocation, None] = {}
        for position in range(n):
            allocation = self.draw(_Either(known, drawn), key(position))
            if allocation is None:
                break
            drawn[allocation] = None
        return list(drawn)

    def _completions(self, spent: float, second_costs: Sequence[float]) -> int:
        count = bisect_right(second_costs, self._budget - spent)
        # The subtraction above rounds differently from the test the space applies; settle the edge
        # by that test.
        while count < len(second_costs) and fits(total((spent, second_costs[count])), self._budget):
            count += 1
        return count


class _Either:
    def __init__(self, *containers: Container[Allocation]) -> None:
        self._containers = containers

    def __contains__(self, item: object) -> bool:
        return any(item in container for container in self._containers)


def _combinations(
    stages: Sequence[Stage], budget: float, others: float
) -> list[tuple[float, tuple[Choice, ...]]]:
    """(cost, choices) of every combination over ``stages``.

    Each leaves ``others`` units for the rest.
    """
    combinations: list[tuple[float, tuple[Choice, ...]]] = [(0.0, ())]
    for stage in stages:
        priced = [
            (stage.budget(model.name, samples), Choice(stage.name, model.name, samples))
            for model in stage.models
            for samples in stage.samples
        ]
        combinations = [
            (cost + extra, (*choices, choice))
            for cost, choices in combinations
            for extra, choice in priced
            if fits(cost + extra + others, budget)
        ]
    return combinations
