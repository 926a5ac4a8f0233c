"""Synthetic response surfaces that obey the method's three insights.

A stage's quality is, for each of its models, a saturating curve over samples with an optional
downturn. Large models start higher, small ones gain more from samples (insights 1 and 2). What a
later stage makes of its own quality depends on the quality it is given (insight 3), and all stages
share one budget.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from agenttts.search.base import TrialResult
from agenttts.search.feasible import FeasibleSet
from agenttts.space import Allocation, Model, SearchSpace, Stage

PARAMS = (3e9, 8e9, 32e9, 70e9)
TOKENS = ((2048, 128), (1024, 64), (256, 64), (1024, 256), (1024, 512))


@dataclass(frozen=True)
class Curve:
    """Quality of one (stage, model) over samples: ``floor`` at none, up to ``top``, falling
    after ``turn``.
    """

    floor: float
    top: float
    pace: float
    turn: float
    fall: float

    def __call__(self, samples: int) -> float:
        rise: float = self.floor + (self.top - self.floor) * (1.0 - float(samples) ** -self.pace)
        return max(0.0, rise - self.fall * max(0.0, math.log2(samples / self.turn)))


@dataclass(frozen=True)
class Surface:
    """A space with a noise-free score, the mean of which a trial over ``examples`` estimates (0:
    exactly).

    With a ``grid`` sample counts take the nearest one of it, as in a recorded table: the response
    is a step function.
    """

    space: SearchSpace
    curves: dict[tuple[str, str], Curve]
    needs: tuple[float, ...]
    seed: int
    coupling: str = "chain"
    grid: tuple[int, ...] | None = None

    def score(self, allocation: Allocation) -> float:
        """Noise-free score, 0 to 1."""
        return self._qualities(allocation)[-1]

    def trial(self, allocation: Allocation, examples: int, salt: int) -> TrialResult:
        """One trial; with ``examples`` its score and stage metrics are means of so many coin
        flips.
        """
        metrics: dict[str, float] = {}
        snapped = [f"{c.model}×{self._snapped(c.samples)}" for c in allocation.choices]
        rng = random.Random(f"{self.seed}/{salt}/{' → '.join(snapped)}")
        for stage, quality in zip(self.space.stages, self._qualities(allocation), strict=True):
            if examples:
                quality = sum(rng.random() < quality for _ in range(examples)) / examples
            metrics[f"{stage.name}.metric"] = quality
        errors = {
            name: share_stderr(share, examples) for name, share in metrics.items() if examples
        }
        name = f"{self.space.stages[-1].name}.metric"
        return TrialResult(
            allocation,
            metrics[name],
            metrics,
            self.space.cost(allocation),
            stderr=errors.get(name),
            metrics_stderr=errors,
        )

    def quality(self, stage: str, model: str, samples: int) -> float:
        """Of one stage by itself."""
        return self.curves[stage, model](self._snapped(samples))

    def combine(self, own: float, given: float, need: float) -> float:
        """What a stage hands on, from its own quality and what it is given; rises with both."""
        if self.coupling == "additive":
            value = (1.0 - 0.5 * need) * own + 0.5 * need * given
        elif self.coupling == "logistic":
            value = 1.0 / (1.0 + math.exp(-4.0 * (own + need * given - 0.5 - 0.5 * need)))
        else:
            value = own * (1.0 - need + need * given)
        return min(1.0, value)

    def _snapped(self, samples: int) -> int:
        if self.grid is None:
            return samples
        return min(self.grid, key=lambda count: (abs(count - samples), count))

    def _qualities(self, allocation: Allocation) -> list[float]:
        qualities: list[float] = []
        given = 1.0
        for choice, need in zip(allocation.choices, self.needs, strict=True):
            own = self.quality(choice.stage, choice.model, choice.samples)
            # Nothing is handed to the first stage.
            given = self.combine(own, given, need) if qualities else own
            qualities.append(given)
        return qualities


def draw_surface(
    seed: int, coupling: str = "chain", grid: tuple[int, ...] | None = None
) -> Surface:
    """One surface of the family: 2 or 3 stages, 2 to 4 models each, a budget that makes them
    compete.

    ``coupling`` is how a stage's own quality and what it is given combine: ``chain`` (a product),
    ``additive`` or ``logistic``.
    """
    rng = random.Random(f"surface/{seed}")
    stages: list[Stage] = []
    curves: dict[tuple[str, str], Curve] = {}
    for index in range(rng.choice((2, 2, 3))):
        sizes = sorted(rng.sample(PARAMS, rng.choice((2, 3, 4))))
        prompt, decode = rng.choice(TOKENS)
        name = "abc"[index]
        models = tuple(Model(f"m{size / 1e9:.0f}b", size) for size in sizes)
        most = rng.choice((40, 60, 100))
        stages.append(Stage(name, models, prompt, decode, tuple(range(1, most + 1))))
        hard = rng.random()  # how much a stage needs a large model
        for model in models:
            size = math.log(model.params / PARAMS[0]) / math.log(PARAMS[-1] / PARAMS[0])
            floor = 0.15 + 0.45 * (1.0 - hard * (1.0 - size)) * rng.uniform(0.7, 1.1)
            top = floor + rng.uniform(0.05, 0.45) * (1.0 - 0.6 * size)
            fall = rng.choice((0.0, 0.0, rng.uniform(0.005, 0.04)))
            curves[name, model.name] = Curve(
                floor, min(0.98, top), rng.uniform(0.4, 1.4), rng.uniform(4.0, 40.0), fall
            )
    least = sum(stage.budget(stage.cheapest.model, 1) for stage in stages)
    largest = sum(stage.budget(stage.largest.name, 1) for stage in stages)
    budget = math.ceil(least + rng.uniform(0.7, 2.5) * (largest - least))
    needs = tuple(rng.uniform(0.3, 0.9) if index else 0.0 for index in range(len(stages)))
    return Surface(SearchSpace(tuple(stages), budget), curves, needs, seed, coupling, grid)


def large_surface(least: int = 1_000_000) -> tuple[Surface, FeasibleSet]:
    """The first surface of three stages with at least ``least`` feasible allocations."""
    number = 0
    while True:
        surface = draw_surface(number)
        if len(surface.space.stages) == 3:
            feasible = FeasibleSet(surface.space)
            if len(feasible) >= least:
                return surface, feasible
        number += 1


def optimum(surface: Surface) -> float:
    """The best noise-free score, by trying every count: per stage pair the frontier of (cost,
    quality).

    A later stage's output rises with what it is given, so of two prefixes the one that is dearer
    and no better never leads to the optimum.
    """
    frontier = [(0.0, 1.0)]
    for index, (stage, need) in enumerate(zip(surface.space.stages, surface.needs, strict=True)):
        points = [
            (
                spent + stage.budget(model.name, samples),
                surface.combine(own, given, need) if index else own,
            )
            for spent, given in frontier
            for model in stage.models
            for samples in stage.samples
            for own in (surface.quality(stage.name, model.name, samples),)
        ]
        frontier = []
        for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
            if cost <= surface.space.budget and (not frontier or quality > frontier[-1][1]):
                frontier.append((cost, quality))
    return frontier[-1][1]


def share_stderr(share: float, examples: int) -> float:
    """Standard error of a share of examples; one more of either kind, so that it is never 0."""
    smoothed = (share * examples + 1.0) / (examples + 2.0)
    return math.sqrt(smoothed * (1.0 - smoothed) / examples)
