"""The insight rules: the method without an LLM.

From the archive, the rules propose next to the best allocations (`moves`): change a stage's model or move its samples
towards saturation (insight 2), shift budget between stages (insight 3). The fitted effects of every (stage, model,
samples) decide which of the moves to try. When recent scores hardly vary, a third of the proposals explore
(crossover, mutation, random), as do all of them when no insight is switched on.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property

from agenttts.errors import UserError
from agenttts.search.archive import Archive, Scored
from agenttts.search.base import Proposal
from agenttts.search.effects import EffectModel
from agenttts.search.feasible import FeasibleSet
from agenttts.search.findings import findings
from agenttts.search.moves import (
    cross,
    describe,
    mutate,
    sample_moves,
    shift_moves,
    spread_draw,
)
from agenttts.space import Allocation, SearchSpace

ALL_INSIGHTS = (1, 2, 3)

# Allocations the moves start from, moves ranked a proposal round, and the share of those drawn from the whole space.
_PARENTS = 4
_CANDIDATES = 600
_ANYWHERE = 150

# Recent scores "hardly vary" when their spread is under this share of the spread of all scores.
_FLAT = 0.02
_RECENT = 8


class InsightRules:
    """Proposals, recommendation and guidelines from an archive alone; deterministic given seed and archive."""

    def __init__(
        self, space: SearchSpace, seed: int = 0, insights: Collection[int] = ALL_INSIGHTS
    ) -> None:
        wrong = [number for number in insights if number not in ALL_INSIGHTS]
        if wrong:
            raise UserError(f"search.insights: no insight {wrong[0]!r}; valid: 1, 2, 3")
        self.space = space
        self.seed = seed
        self.curves = 2 in insights
        self.coupling = 3 in insights
        self._fitted: tuple[Sequence[Scored], EffectModel] | None = None

    def propose(self, n: int, archive: Archive) -> list[Proposal]:
        """Up to ``n`` new feasible allocations, most promising first; fewer only when the space is exhausted."""
        rng = random.Random(f"insights/{self.seed}/{archive.known_count}")
        chosen: dict[Allocation, Proposal] = {}
        model = self.model(archive)
        if model is not None and (self.curves or self.coupling):
            explore = sum(self._explores(archive, position) for position in range(n))
            candidates = self._candidates(model, archive, rng)
            for index in model.choose([c.allocation for c in candidates], n - explore):
                chosen[candidates[index].allocation] = candidates[index]
        self._explore(n, archive, chosen, rng)
        return list(chosen.values())

    def best(self, archive: Archive) -> Allocation | None:
        """The tried allocation with the highest *expected* score (ties: the cheaper).

        The expectation weighs a score against those of its neighbours, as far as the scores look noisy: a lucky
        score among mediocre neighbours does not win, an exact one does.
        """
        model = self.model(archive)
        if model is None or not self.curves:
            # Without curves all sample counts look alike: the scores themselves have to tell them apart.
            top_score = archive.best()
            return top_score.allocation if top_score else None
        top = max(model.tried.values())
        # Equal up to rounding counts as a tie.
        equal = [a for a, mean in model.tried.items() if math.isclose(mean, top, rel_tol=1e-6)]
        return min(equal, key=lambda allocation: (self.space.cost(allocation), allocation))

    def guidelines(self, archive: Archive) -> list[str]:
        """What the trials so far say about models, samples and budget, a few plain sentences."""
        model, best = self.model(archive), self.best(archive)
        if model is None or best is None:
            return []
        return findings(self.space, archive, model, best)

    def model(self, archive: Archive) -> EffectModel | None:
        """The effects fitted to the archive (kept until it changes); None before any trial scored."""
        scored = archive.scored
        if not scored:
            return None
        if self._fitted is None or self._fitted[0] != scored:
            model = EffectModel(scored, curves=self.curves, coupling=self.coupling)
            self._fitted = (scored, model)
        return self._fitted[1]

    @cached_property
    def _feasible(self) -> FeasibleSet:
        return FeasibleSet(self.space)

    def _candidates(
        self, model: EffectModel, archive: Archive, rng: random.Random
    ) -> list[Proposal]:
        moves: dict[Allocation, Proposal] = {}
        for parent in self._parents(model):
            for move in self._moves(parent):
                if move.allocation not in archive and move.allocation in self.space:
                    moves.setdefault(move.allocation, move)
        best = self.best(archive)
        for _ in range(_ANYWHERE):
            allocation = spread_draw(self.space, rng)
            if self._is_new(allocation, archive, moves) and best is not None:
                reason = describe(self.space, best, allocation)
                moves[allocation] = Proposal(allocation, "insight", reason)
        kept = list(moves.values())
        return rng.sample(kept, _CANDIDATES) if len(kept) > _CANDIDATES else kept

    def _parents(self, model: EffectModel) -> list[Allocation]:
        """The best trial by expected score of each of the best model combinations."""
        firsts: dict[tuple[str, ...], Allocation] = {}
        for allocation in model.tried:
            models = tuple(choice.model for choice in allocation.choices)
            firsts.setdefault(models, allocation)
        return list(firsts.values())[:_PARENTS]

    def _moves(self, parent: Allocation) -> Iterable[Proposal]:
        yield from sample_moves(self.space, parent)
        if self.coupling:
            yield from shift_moves(self.space, parent)

    def _explores(self, archive: Archive, position: int) -> bool:
        """Whether the proposal at ``position`` of the batch explores: every third one while scores stand still."""
        return (archive.known_count + position) % 3 == 0 and _stands_still(archive.scored)

    def _explore(
        self,
        n: int,
        archive: Archive,
        chosen: dict[Allocation, Proposal],
        rng: random.Random,
    ) -> None:
        """Fill ``chosen`` up to ``n`` by crossover, mutation and uniform draws, in turn."""
        ranked = sorted(archive.scored, key=lambda t: (-t.score, t.cost))[:_RECENT]
        turn = 0
        while len(chosen) < n:
            turn += 1
            allocation, how = self._explored(turn, ranked, rng)
            new: Allocation | None = allocation
            if not self._is_new(allocation, archive, chosen):
                new, how = (
                    self._feasible.draw(archive.known | chosen.keys(), rng),
                    "drawn at random",
                )
            if new is None:
                return
            chosen[new] = Proposal(new, "explore", how)

    def _explored(
        self, turn: int, ranked: Sequence[Scored], rng: random.Random
    ) -> tuple[Allocation, str]:
        if len(ranked) >= 2 and turn % 3 == 1:
            a, b = rng.sample(ranked, 2)
            return cross(a.allocation, b.allocation, rng), "crossover of two good trials"
        if ranked and turn % 3 == 2:
            start = rng.choice(ranked).allocation
            return mutate(self.space, start, rng), f"mutation of {start}"
        return spread_draw(self.space, rng), "drawn at random"

    def _is_new(
        self, allocation: Allocation, archive: Archive, chosen: dict[Allocation, Proposal]
    ) -> bool:
        return allocation in self.space and allocation not in archive and allocation not in chosen


def _stands_still(scored: Sequence[Scored]) -> bool:
    """Whether the latest scores hardly vary next to all of them."""
    scores = [trial.score for trial in scored]
    if len(scores) < _RECENT:
        return len(set(scores)) == 1
    spread = max(scores) - min(scores)
    return statistics.pstdev(scores[-_RECENT:]) <= _FLAT * spread
