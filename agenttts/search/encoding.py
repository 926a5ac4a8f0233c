"""The feasible set as arrays: allocations as rows of choice numbers.

Choices are numbered by stage. Models of the scores compute with these rows. Spaces too large to
enumerate are thinned: every stage keeps counts about evenly spaced in log(samples), its ends
included, and `ChoiceGrid.around` adds every count and every shift of budget next to rows that look
good.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from agenttts.search.gaussian import Floats, unit_of
from agenttts.space import Allocation, Choice, SearchSpace

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

SLACK = 1e-9
"""Relative slack of budgets for rounding, as in `agenttts.space.fits`."""

# The most combinations that are listed at a time: they take 1 GB.
_MOST_COMBINATIONS = 20_000_000

# The factor of Knuth's generator MMIX.
_HASH_FACTOR = 6364136223846793005


class ChoiceGrid:
    """Numbers the choices of every stage: model by model as listed, counts ascending."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.choices: list[list[Choice]] = [
            [Choice(s.name, m.name, count) for m in s.models for count in s.samples]
            for s in space.stages
        ]
        self.models: list[Rows] = [
            np.repeat(np.arange(len(s.models)), len(s.samples)) for s in space.stages
        ]
        self.samples: list[Floats] = [
            np.tile(np.array(s.samples, dtype=np.float64), len(s.models)) for s in space.stages
        ]
        self.costs: list[Floats] = [
            np.array([space.choice_budget(choice) for choice in stage]) for stage in self.choices
        ]
        # Of every stage's models: log parameters, in standard deviations from their mean.
        self.sizes: list[Floats] = [
            _standardised(np.log([model.params for model in s.models])) for s in space.stages
        ]
        self._numbers = [
            {choice: number for number, choice in enumerate(stage)} for stage in self.choices
        ]
        self._limit = space.budget * (1.0 + SLACK)
        # Keys of larger spaces are hashes. They wrap around, and so the factor is odd.
        numbered = math.prod(map(len, self.choices)) <= np.iinfo(np.int64).max
        self._factors = [len(stage) if numbered else _HASH_FACTOR for stage in self.choices]

    def encode(self, allocations: Iterable[Allocation]) -> Rows:
        """Rows of choice numbers, shape (allocations, stages).

        The allocations must lie in the space.
        """
        rows = [
            [numbers[choice] for numbers, choice in zip(self._numbers, a.choices, strict=True)]
            for a in allocations
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, len(self.choices))

    def decode(self, row: Sequence[int] | Rows) -> Allocation:
        """The allocation that a row stands for."""
        return Allocation(
            tuple(stage[int(number)] for stage, number in zip(self.choices, row, strict=True))
        )

    def keys(self, rows: Rows) -> Rows:
        """One number a row, equal for equal rows only.

        In a space of more than 2^63 combinations, two rows have equal ones by a chance of 2^-64.
        """
        keys = np.zeros(len(rows), dtype=np.int64)
        for column, factor in enumerate(self._factors):
            keys = keys * factor + rows[:, column]
        return keys

    def feasible(self, most: int) -> Rows:
        """All feasible rows, or the finest thinned set of at most ``most``.

        Never empty: the cheapest allocation is in every thinned set. If one count a model is still
        too many, rows are left out at random.
        """
        stages = range(len(self.choices))
        level = max(len(stage.samples) for stage in self.space.stages)
        while (found := self.combinations(stages, level, most)) is None:
            # Down by a fifth at a time: the set shrinks with the product over stages.
            level = max(1, min(level - 1, math.floor(level * 0.8)))
            if level == 1:
                found = self.combinations(stages, 1, most, np.random.default_rng(0))
                break
        assert found is not None
        return found[1].astype(np.int64)

    def combinations(
        self,
        stages: range,
        level: int,
        most: float = math.inf,
        draw: np.random.Generator | None = None,
    ) -> tuple[Floats, NDArray[np.int32]] | None:
        """Cost and choice numbers of every combination over ``stages``.

        The other stages' cheapest choices fit beside each. The choices have about ``level`` counts
        a model. None: there are more than ``most``, unless ``draw`` leaves some out at
        random.
        """
        open_ = set(range(len(self.choices)))
        costs, rows = np.zeros(1), np.zeros((1, 0), dtype=np.int32)
        for stage in stages:
            open_.remove(stage)
            # The least that the other stages cost.
            rest = math.fsum(float(self.costs[other].min()) for other in open_)
            numbers = self.thinned(stage, level)
            if draw is None and len(costs) * len(numbers) > _MOST_COMBINATIONS:
                return None
            sums = costs[:, None] + self.costs[stage][numbers][None, :]
            kept, choices = np.nonzero(sums + rest <= self._limit)
            if len(kept) > most:
                if draw is None:
                    return None
                some = draw.choice(len(kept), int(most) - 1, replace=False)
                some = np.union1d(some, sums[kept, choices].argmin())
                kept, choices = kept[some], choices[some]
            costs = sums[kept, choices]
            rows = np.column_stack([rows[kept], numbers[choices].astype(np.int32)])
        return costs, rows

    def around(self, rows: Rows, *, shifts: bool = True) -> Rows:
        """The neighbours of ``rows``, and ``rows`` themselves.

        A neighbour has one stage's choice exchanged for any, or, with ``shifts``, one stage's
        choice changed and another stage given all the budget that this leaves. Neighbours are
        feasible and distinct.
        """
        found = [rows]
        stages = range(len(self.choices))
        for row in rows:
            cost = np.array([self.costs[i][row[i]] for i in stages])
            for giver in stages:
                spare = self._limit - (cost.sum() - cost[giver])
                fitting = np.flatnonzero(self.costs[giver] <= spare)
                moved = np.tile(row, (len(fitting), 1))
                moved[:, giver] = fitting
                found.append(moved)
                for taker in stages:
                    if shifts and taker != giver:
                        found.append(self._shifted(row, cost, giver, taker))
        every = np.concatenate(found)
        _, first = np.unique(self.keys(every), return_index=True)
        distinct: Rows = every[np.sort(first)]
        return distinct

    def _shifted(self, row: Rows, cost: Floats, giver: int, taker: int) -> Rows:
        """Rows with budget shifted from ``giver`` to ``taker``.

        ``giver`` takes each of its model's spread counts, ``taker`` each model at the count that
        the rest pays for.
        """
        rest = self._limit - (cost.sum() - cost[giver] - cost[taker])
        gives = self.thinned(giver, 16)
        moved = []
        width = len(self.space.stages[taker].samples)
        for model in range(len(self.space.stages[taker].models)):
            prices = self.costs[taker][model * width : (model + 1) * width]
            most = np.searchsorted(prices, rest - self.costs[giver][gives], side="right")
            kept = gives[most > 0]
            part = np.tile(row, (len(kept), 1))
            part[:, giver] = kept
            part[:, taker] = model * width + most[most > 0] - 1
            moved.append(part)
        return np.concatenate(moved)

    def thinned(self, stage: int, level: int) -> Rows:
        """Numbers of the stage's choices with at most about ``level`` counts a model."""
        kept = self.space.stages[stage].spread_samples(number=level)
        return np.flatnonzero(np.isin(self.samples[stage], kept))


def _standardised(values: Floats) -> Floats:
    standardised: Floats = (values - values.mean()) / unit_of(values.tolist(), float(values.std()))
    return standardised
