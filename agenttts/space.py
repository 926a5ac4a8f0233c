"""Allocations and the feasible set.

- A *stage* (subtask) offers models and a range of sample counts.
- A *choice* is one (model, samples) pair for a stage.
- An *allocation* is one choice for each stage.
- The *search space* is every allocation whose cost is at most the budget B.

Budgets have one unit for every model and stage. S samples of a model with M parameters take
``2·M·(Np + S·Nd)`` FLOPs for a prompt of Np tokens and Nd generated tokens a sample: the prompt is
processed once. One unit is one generated sample of the reference small model (M0 = 3e9 parameters,
Np0 = 128, Nd0 = 64), without that model's own prompt. Source: AgentTTS (arXiv 2508.00890), "budget
normalisation".
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from agenttts.errors import UserError, counted, valid_names

REFERENCE_PARAMS = 3e9
REFERENCE_PROMPT_TOKENS = 128
REFERENCE_DECODE_TOKENS = 64

# Sums and inverses of budgets are floating-point. A relative slack far below one sample keeps
# `samples(budget(s)) == s` exact and lets an allocation that costs exactly B fit into B.
_RELATIVE_SLACK = 1e-9


@dataclass(frozen=True)
class Model:
    """A model that a stage may use.

    ``params`` is the nominal parameter count, e.g. 7e9.
    """

    name: str
    params: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.params) and self.params > 0):
            raise UserError(f"model '{self.name}': params must be a positive number of parameters")


# The most counts of `Stage.fewer_samples`, and of `Stage.spread_samples` by default.
_MOST_FEWER, _MOST_SPREAD = 6, 12


@dataclass(frozen=True)
class Stage:
    """One subtask: its models, its nominal token counts and the sample counts allowed.

    ``prompt_tokens`` and ``decode_tokens`` are the paper's Np and Nd: the nominal tokens of one
    prompt and of one generated sample. ``samples`` lists every allowed count, ascending.
    """

    name: str
    models: tuple[Model, ...]
    prompt_tokens: int
    decode_tokens: int
    samples: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.models:
            raise UserError(f"stage '{self.name}' has no models; list at least one")
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise UserError(f"stage '{self.name}' lists a model twice: {', '.join(names)}")
        if self.prompt_tokens < 1 or self.decode_tokens < 1:
            raise UserError(
                f"stage '{self.name}': prompt_tokens and decode_tokens must be 1 or more"
            )
        if not self.samples or any(count < 1 for count in self.samples):
            raise UserError(f"stage '{self.name}': sample counts must be 1 or more")
        object.__setattr__(self, "samples", tuple(sorted(set(self.samples))))

    @property
    def largest(self) -> Model:
        """The model with the most parameters (the first listed on a tie)."""
        return max(self.models, key=lambda model: model.params)

    @property
    def smallest(self) -> Model:
        """The model with the fewest parameters (the first listed on a tie)."""
        return min(self.models, key=lambda model: model.params)

    def model(self, name: str) -> Model:
        """Return the model called ``name``.

        Raises:
            UserError: There is no such model; the message lists the valid names.
        """
        for model in self.models:
            if model.name == name:
                return model
        raise UserError(
            f"stage '{self.name}' has no model '{name}'; "
            + valid_names(name, [model.name for model in self.models])
        )

    def budget(self, model: str, samples: int) -> float:
        """Return the budget units of ``samples`` samples of ``model`` at this stage."""
        params = self.model(model).params
        return stage_budget(params, self.prompt_tokens, self.decode_tokens, samples)

    def affordable_samples(self, model: str, budget: float) -> int:
        """Return the largest allowed sample count of ``model`` that ``budget`` covers.

        Returns 0 if it covers none.
        """
        params = self.model(model).params
        most = samples_within(params, self.prompt_tokens, self.decode_tokens, budget)
        position = bisect_right(self.samples, most)
        return self.samples[position - 1] if position else 0

    def fewer_samples(self, samples: int) -> tuple[int, ...]:
        """Return allowed counts below ``samples``, ascending.

        Of more than six, those nearest to a half, a quarter, ... and the least one.
        """
        below = self.samples[: bisect_left(self.samples, samples)]
        if len(below) <= _MOST_FEWER:
            return below
        halves = (self.nearest_samples(samples / 2**octave) for octave in range(1, _MOST_FEWER))
        return tuple(sorted({below[0], *halves}))

    def spread_samples(
        self, most: int | None = None, number: int = _MOST_SPREAD
    ) -> tuple[int, ...]:
        """Return about ``number`` allowed counts up to ``most``, ascending.

        They are about evenly spaced in log(samples), with the least and (if there are more than
        one) the largest.
        """
        allowed = self.samples[: None if most is None else bisect_right(self.samples, most)]
        if len(allowed) <= number:
            return allowed
        ratio = (allowed[-1] / allowed[0]) ** (1.0 / max(1, number - 1))
        wanted = (allowed[0] * ratio**step for step in range(number))
        return tuple(sorted({self.nearest_samples(count) for count in wanted}))

    def nearest_samples(self, samples: float) -> int:
        """Return the allowed count nearest to ``samples`` (the lower on a tie)."""
        position = bisect_left(self.samples, samples)
        around = self.samples[max(0, position - 1) : position + 1]
        return min(around, key=lambda count: (abs(count - samples), count))

    @cached_property
    def cheapest(self) -> Choice:
        """The choice of this stage with the least cost."""
        model = self.smallest
        return Choice(self.name, model.name, self.samples[0])


@dataclass(frozen=True, order=True)
class Choice:
    """The choice of one stage: a model and the number of samples to draw from it."""

    stage: str
    model: str
    samples: int

    def __str__(self) -> str:
        return f"{self.stage}={self.model}×{self.samples}"


@dataclass(frozen=True, order=True)
class Allocation:
    """One choice for each stage, in stage order.

    Hashable; two allocations are equal if all their choices are equal.
    """

    choices: tuple[Choice, ...]

    def __str__(self) -> str:
        return " → ".join(f"{choice.model}×{choice.samples}" for choice in self.choices)

    def __getitem__(self, stage: str) -> Choice:
        for choice in self.choices:
            if choice.stage == stage:
                return choice
        raise KeyError(stage)

    def replace(self, choice: Choice) -> Allocation:
        """Return this allocation with ``choice`` in place of its stage's choice."""
        return Allocation(tuple(choice if c.stage == choice.stage else c for c in self.choices))

    def to_records(self) -> list[dict[str, str | int]]:
        """Return the form stored in tables and JSON: a list of {stage, model, samples}."""
        return [{"stage": c.stage, "model": c.model, "samples": c.samples} for c in self.choices]

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, object]]) -> Allocation:
        """Return the allocation of records that `to_records` made."""
        return cls(
            tuple(Choice(str(r["stage"]), str(r["model"]), int(str(r["samples"]))) for r in records)
        )


@dataclass(frozen=True)
class SearchSpace:
    """Every allocation over ``stages`` that costs at most ``budget`` units."""

    stages: tuple[Stage, ...]
    budget: float

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise UserError(f"stages must be at least one, each with its own name; got: {names}")
        if not math.isfinite(self.budget):
            problem = f"{self.budget} is not valid; valid: a finite number of units"
            raise UserError(problem, at=("budget",))
        least = self.least_budget
        if not fits(least, self.budget):
            raise UserError(
                f"{units_text(self.budget)} is too small for any allocation: the cheapest one, "
                f"{self.cheapest}, needs {cost_above(least, self.budget)}; "
                f"set it to {math.ceil(least)} or more",
                at=("budget",),
            )

    def stage(self, name: str) -> Stage:
        """Return the stage called ``name``.

        Raises:
            UserError: There is no such stage; the message lists the valid names.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UserError(
            f"no stage '{name}'; " + valid_names(name, [stage.name for stage in self.stages])
        )

    @cached_property
    def cheapest(self) -> Allocation:
        """The allocation with the least cost."""
        return Allocation(tuple(stage.cheapest for stage in self.stages))

    @cached_property
    def least_budget(self) -> float:
        """The cost of the cheapest allocation, in budget units."""
        return allocation_budget(self, self.cheapest)

    def choice_budget(self, choice: Choice) -> float:
        """Return the cost of one stage's choice, in budget units."""
        return self.stage(choice.stage).budget(choice.model, choice.samples)

    def cost(self, allocation: Allocation) -> float:
        """Return the cost of an allocation, in budget units."""
        return allocation_budget(self, allocation)

    def spare(self, stage: Stage, allocation: Allocation) -> float:
        """Return the units left for a stage beside the others of an allocation."""
        return self.budget - self.cost(allocation) + self.choice_budget(allocation[stage.name])

    def violation(self, allocation: Allocation) -> str | None:
        """Return why an allocation is not in the space, or None if it is."""
        names = [choice.stage for choice in allocation.choices]
        wanted = [stage.name for stage in self.stages]
        if names != wanted:
            return f"stages {names} are not the task's {wanted}"
        for choice, stage in zip(allocation.choices, self.stages, strict=True):
            if all(model.name != choice.model for model in stage.models):
                return f"stage '{stage.name}' has no model '{choice.model}'"
            if choice.samples not in self._allowed[stage.name]:
                return f"stage '{stage.name}' does not allow {counted(choice.samples, 'sample')}"
        cost = self.cost(allocation)
        if not fits(cost, self.budget):
            return f"its budget {cost_above(cost, self.budget)} is over {units_text(self.budget)}"
        return None

    def __contains__(self, allocation: Allocation) -> bool:
        return self.violation(allocation) is None

    def allocation(self, *choices: tuple[str, int]) -> Allocation:
        """Make an allocation from one (model, samples) pair a stage, in stage order.

        Example: ``space.allocation(("m1", 1), ("m2", 8))``.
        """
        return Allocation(
            tuple(
                Choice(stage.name, model, samples)
                for stage, (model, samples) in zip(self.stages, choices, strict=True)
            )
        )

    def feasible(self) -> Iterator[Allocation]:
        """Yield every allocation in the space, in a fixed order.

        The iterator is lazy, because a space may hold millions of allocations.
        """
        yield from self._extend(0, (), 0.0)

    def count(self, limit: int | None = None) -> int:
        """Return the number of feasible allocations, at most ``limit`` if one is given."""
        iterator: Iterable[Allocation] = self.feasible()
        if limit is not None:
            iterator = itertools.islice(iterator, limit)
        return sum(1 for _ in iterator)

    @cached_property
    def _allowed(self) -> Mapping[str, frozenset[int]]:
        return {stage.name: frozenset(stage.samples) for stage in self.stages}

    @cached_property
    def _least_after(self) -> Sequence[float]:
        """Element i is the least cost of the stages from i on, in budget units."""
        tails = [0.0]
        for stage in reversed(self.stages):
            tails.append(tails[-1] + self.choice_budget(stage.cheapest))
        return tails[::-1]

    def _extend(self, index: int, chosen: tuple[Choice, ...], spent: float) -> Iterator[Allocation]:
        if index == len(self.stages):
            yield Allocation(chosen)
            return
        stage = self.stages[index]
        rest = self._least_after[index + 1]
        for model in stage.models:
            for samples in stage.samples:
                cost = spent + stage.budget(model.name, samples)
                if not fits(cost + rest, self.budget):
                    break  # the budget rises with samples: no larger count fits either
                choice = Choice(stage.name, model.name, samples)
                yield from self._extend(index + 1, (*chosen, choice), cost)


def stage_budget(params: float, prompt_tokens: int, decode_tokens: int, samples: int) -> float:
    """Return the budget units of ``samples`` samples; never below 0.

    Args:
        params: Number of parameters of the model.
        prompt_tokens: Tokens of the prompt.
        decode_tokens: Generated tokens of one sample.
        samples: Number of samples.
    """
    alpha = params / REFERENCE_PARAMS
    tokens = prompt_tokens + samples * decode_tokens
    return max(0.0, (alpha * tokens - REFERENCE_PROMPT_TOKENS) / REFERENCE_DECODE_TOKENS)


def stage_flops(params: float, prompt_tokens: int, decode_tokens: int, samples: int) -> float:
    """Return the FLOPs of ``samples`` samples: two for each parameter and token.

    Budget units do not tell them: `stage_budget` leaves out the reference prompt, and is cut at 0.
    The arguments are those of `stage_budget`.
    """
    return 2.0 * params * (prompt_tokens + samples * decode_tokens)


def samples_within(params: float, prompt_tokens: int, decode_tokens: int, budget: float) -> int:
    """Return the most samples that ``budget`` units pay for.

    This is the inverse of `stage_budget`, rounded down. It is 0 if not even one sample fits. Where
    `stage_budget` is cut off at 0, several counts have the budget 0; the largest of them is
    returned.
    """
    if budget < 0:
        return 0
    alpha = params / REFERENCE_PARAMS
    tokens = (budget * REFERENCE_DECODE_TOKENS + REFERENCE_PROMPT_TOKENS) / alpha
    exact = (tokens - prompt_tokens) / decode_tokens
    return max(0, math.floor(exact + _RELATIVE_SLACK * max(1.0, abs(tokens / decode_tokens))))


def allocation_budget(space: SearchSpace, allocation: Allocation) -> float:
    """Return the cost of an allocation in budget units: the sum over its stages.

    Raises:
        UserError: The allocation names a stage or model that the space does not have.
    """
    return math.fsum(space.choice_budget(choice) for choice in allocation.choices)


def fits(cost: float, budget: float) -> bool:
    """Return whether a cost is within a budget, with a slack for rounding errors."""
    return cost <= budget * (1.0 + _RELATIVE_SLACK)


def units_text(budget: float) -> str:
    """Return a budget as a text that is not rounded, but for errors of sums."""
    return f"{budget:.12g}"


def cost_above(cost: float, budget: float) -> str:
    """Return a cost above a budget, with as many decimals as show that it is."""
    texts = (f"{cost:.{decimals}f}" for decimals in range(1, 10))
    return next((text for text in texts if float(text) > budget), repr(cost))


def total(costs: Iterable[float]) -> float:
    """Return the exactly rounded sum, whatever the order of the costs."""
    return math.fsum(costs)
