"""Synthetic pipelines, example by example: difficulties, votes, errors passed on.

Nothing here is a curve. Each example has a difficulty at every stage. A model answers a sample
right with a probability that falls with the difficulty, and that falls further when the stage
before it was wrong. The samples of a stage are fused: by a vote, in which wrong answers may agree,
or by a judge, which finds a right answer among the samples and errs at times. The first samples of
a choice are the samples of every smaller count, and trials that begin alike share what they begin
with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agenttts.space import Allocation, Model, SearchSpace, Stage

from .surfaces import PARAMS, TOKENS

Floats = NDArray[np.float64]
Fusion = Literal["vote", "judge"]

COUNTS = (1, 2, 4, 8, 16, 32, 64)
# Wrong answers that a vote tells apart; some are more popular than others.
_WRONG = 4
# Examples behind the expected score, in addition to those that trials may use.
_POPULATION = 6_000


@dataclass(frozen=True)
class StageLaw:
    """How a stage answers.

    ``skills`` are its models' (logits), ``need`` is what a wrong predecessor costs (logits),
    ``slope`` how much difficulty matters, ``agree`` the share of wrong answers that are the most
    popular one, ``errs`` the judge's share of errors.
    """

    skills: tuple[float, ...]
    need: float
    slope: float
    fusion: Fusion
    agree: float
    errs: float


@dataclass(frozen=True)
class Pipeline:
    """A space, and the law by which its trials score on each example."""

    space: SearchSpace
    laws: tuple[StageLaw, ...]
    seed: int
    examples: int

    def scores(self, allocation: Allocation) -> Floats:
        """Scores by example, 0 or 1, shape (examples,)."""
        return self._right(allocation)[: self.examples]

    def expected(self, allocation: Allocation) -> float:
        """The expected score, over a population that the examples are the first of."""
        return float(self._right(allocation).mean())

    @cached_property
    def best(self) -> float:
        """The highest expected score of a feasible allocation."""
        return max(self.expected(allocation) for allocation in self.space.feasible())

    def _right(self, allocation: Allocation) -> Floats:
        given = np.ones(self._total, dtype=bool)
        for number, choice in enumerate(allocation.choices):
            stage = self.space.stages[number]
            model = [m.name for m in stage.models].index(choice.model)
            count = stage.samples.index(choice.samples)
            after_wrong, after_right = self._fused[number][model]
            given = np.where(given, after_right[count], after_wrong[count])
        return given.astype(np.float64)

    @property
    def _total(self) -> int:
        return self.examples + _POPULATION

    @cached_property
    def _fused(self) -> list[list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]]:
        """By stage and model: right answers (counts, examples) after a wrong and a right input."""
        rng = np.random.default_rng([self.seed, 1])
        common = rng.standard_normal(self._total)
        found = []
        for number, (stage, law) in enumerate(zip(self.space.stages, self.laws, strict=True)):
            difficulty = 0.7 * common + 0.7 * rng.standard_normal(self._total)
            fused = []
            for model, skill in enumerate(law.skills):
                logit = skill - law.slope * difficulty
                if number == 0:
                    right = self._answers(law, stage.samples, logit, [number, model, 1])
                    fused.append((right, right))
                    continue
                fused.append(
                    (
                        self._answers(law, stage.samples, logit - law.need, [number, model, 0]),
                        self._answers(law, stage.samples, logit, [number, model, 1]),
                    )
                )
            found.append(fused)
        return found

    def _answers(
        self, law: StageLaw, counts: Sequence[int], logit: Floats, key: Sequence[int]
    ) -> NDArray[np.bool_]:
        rng = np.random.default_rng([self.seed, 2, *key])
        share = 1.0 / (1.0 + np.exp(-logit))
        most = counts[-1]
        drawn = rng.random((most, len(logit)), dtype=np.float32)
        right = drawn < share
        if law.fusion == "judge":
            errs = rng.random((len(counts), len(logit))) < law.errs * np.log2(1 + np.array(counts))[
                :, None
            ] / np.log2(1 + most)
            any_right = np.stack([right[:count].any(axis=0) for count in counts])
            # An error takes the first sample in place of the best one.
            return np.where(errs, right[0], any_right)
        popular = rng.random((most, len(logit)), dtype=np.float32) < law.agree
        other = rng.integers(1, _WRONG, (most, len(logit)), dtype=np.int8)
        wrong = np.where(popular, 0, other)
        fused = []
        for count in counts:
            votes = right[:count].sum(axis=0)
            most_wrong = np.max(
                [((wrong[:count] == w) & ~right[:count]).sum(axis=0) for w in range(_WRONG)], axis=0
            )
            # Ties go to the answer that came first.
            tied = votes == most_wrong
            fused.append((votes > most_wrong) | (tied & right[0]))
        return np.stack(fused)


def draw_pipeline(number: int, examples: int = 400, stages: int | None = None) -> Pipeline:
    """Pipeline ``number``: 2 or 3 stages of 2 to 4 models, and a budget that makes them compete."""
    rng = np.random.default_rng([number, 7])
    laws: list[StageLaw] = []
    made: list[Stage] = []
    for index in range(stages or int(rng.choice((2, 2, 3)))):
        sizes = sorted(rng.choice(len(PARAMS), int(rng.choice((2, 3, 4))), replace=False).tolist())
        prompt, decode = TOKENS[int(rng.integers(len(TOKENS)))]
        models = tuple(Model(f"m{PARAMS[i] / 1e9:.0f}b", PARAMS[i]) for i in sizes)
        counts = COUNTS[: int(rng.choice((5, 6, 7)))]
        made.append(Stage("abc"[index], models, prompt, decode, counts))
        base, by_size = float(rng.normal(0.0, 0.5)), float(abs(rng.normal(0.6, 0.5)))
        skills = tuple(
            base + by_size * math.log(PARAMS[i] / PARAMS[1]) / 2.0 + float(rng.normal(0.0, 0.25))
            for i in sizes
        )
        laws.append(
            StageLaw(
                skills,
                need=float(rng.uniform(0.8, 3.0)),
                slope=float(rng.uniform(1.0, 2.5)),
                fusion="judge" if rng.random() < 0.3 else "vote",
                agree=float(rng.uniform(0.3, 0.8)),
                errs=float(rng.uniform(0.1, 0.6)),
            )
        )
    least = sum(stage.budget(stage.cheapest.model, 1) for stage in made)
    largest = sum(stage.budget(stage.largest.name, 1) for stage in made)
    budget = math.ceil(least + rng.uniform(0.7, 2.5) * (largest - least))
    return Pipeline(SearchSpace(tuple(made), budget), tuple(laws), number, examples)
