"""Genetic search: the fittest trials are crossed and mutated."""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import Field
from typing_extensions import override

from agenttts.search.archive import Scored
from agenttts.search.base import Proposal, Searcher
from agenttts.search.moves import within_budget
from agenttts.space import Allocation, Choice, SearchSpace
from agenttts.spec.section import Options

_ATTEMPTS = 30


class GeneticOptions(Options):
    """The options of `genetic`."""

    population: Annotated[int, Field(ge=2, description="2 or more trials")] = 10
    """The random trials first made, and the fittest kept as parents."""
    mutation: Annotated[float, Field(ge=0, le=1, description="a chance from 0 to 1")] = 0.5
    """The chance that a child is mutated after crossing."""


class GeneticSearcher(Searcher):
    """A baseline: the fittest trials are crossed and mutated.

    Parents win a tournament of two among the fittest. A child over budget gets fewer samples where
    it has most; one that is known is replaced by another, at last by a uniform draw. Pending trials
    are known, and parents once they scored.
    """

    name = "genetic"
    seed_role = "every allocation"
    options_model = GeneticOptions
    options: GeneticOptions

    @override
    def _propose(self, n: int) -> list[Proposal]:
        chosen: list[Proposal] = []
        fittest = sorted(self.archive.scored, key=lambda t: (-t.score, t.cost, t.allocation))
        for _ in range(n):
            rng = random.Random(f"genetic/{self.seed}/{len(self.archive.known)}")
            proposal = self._child(fittest[: self.options.population], rng)
            if proposal is None:
                break
            self.add_pending([proposal.allocation])
            chosen.append(proposal)
        return chosen

    def _child(self, parents: list[Scored], rng: random.Random) -> Proposal | None:
        if len(self.archive.tried) >= self.options.population and len(parents) >= 2:
            for _ in range(_ATTEMPTS):
                mother, father = _tournament(parents, rng), _tournament(parents, rng)
                child = _cross(mother, father, rng)
                reason = f"crossed from {mother} and {father}"
                if child in (mother, father) or rng.random() < self.options.mutation:
                    child = _mutate(self.space, child, rng)
                    reason += ", mutated"
                child = within_budget(self.space, child)
                if child not in self.archive:
                    return Proposal(child, "genetic", reason)
        drawn = self._feasible.draw(rng, self.archive)
        return None if drawn is None else Proposal(drawn, "random", "drawn at random")


def _tournament(parents: list[Scored], rng: random.Random) -> Allocation:
    """The fitter of two; ``parents`` come fittest first."""
    return parents[min(rng.randrange(len(parents)), rng.randrange(len(parents)))].allocation


def _cross(a: Allocation, b: Allocation, rng: random.Random) -> Allocation:
    """Every stage's choice from one of two parents, at random."""
    return Allocation(tuple(rng.choice(pair) for pair in zip(a.choices, b.choices, strict=True)))


def _mutate(space: SearchSpace, start: Allocation, rng: random.Random) -> Allocation:
    """One stage redrawn: any model, any of the spread sample counts."""
    stage = rng.choice(space.stages)
    model = rng.choice(stage.models)
    samples = rng.choice(stage.spread_samples())
    return start.replace(Choice(stage.name, model.name, samples))
