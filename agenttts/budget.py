"""Compute budgets: one unit for every model and stage.

FLOPs of S samples on a model of M parameters with a prompt of Np tokens and Nd generated tokens a sample are
``2·M·(Np + S·Nd)``: the prompt is processed once. One unit is one generated sample of the reference small model
(M0 = 3e9 parameters, Np0 = 128, Nd0 = 64), net of that model's own prompt. Source: AgentTTS (arXiv 2508.00890),
"budget normalisation".
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agenttts.space import Allocation, SearchSpace

REFERENCE_PARAMS = 3e9
REFERENCE_PROMPT_TOKENS = 128
REFERENCE_DECODE_TOKENS = 64

# Sums and inverses of budgets are floating-point; a relative slack far under one sample keeps
# `samples(budget(s)) == s` exact and lets an allocation that costs exactly B fit into B.
_RELATIVE_SLACK = 1e-9


def stage_budget(params: float, prompt_tokens: int, decode_tokens: int, samples: int) -> float:
    """Budget units of ``samples`` samples on a model of ``params`` parameters; never below 0."""
    alpha = params / REFERENCE_PARAMS
    tokens = prompt_tokens + samples * decode_tokens
    return max(0.0, (alpha * tokens - REFERENCE_PROMPT_TOKENS) / REFERENCE_DECODE_TOKENS)


def samples_within(params: float, prompt_tokens: int, decode_tokens: int, budget: float) -> int:
    """The most samples that ``budget`` units pay for (the inverse of `stage_budget`, rounded down).

    0 when not even one sample fits. Where `stage_budget` is cut off at 0 several counts share the budget 0; the
    largest of them is returned.
    """
    if budget < 0:
        return 0
    alpha = params / REFERENCE_PARAMS
    tokens = (budget * REFERENCE_DECODE_TOKENS + REFERENCE_PROMPT_TOKENS) / alpha
    exact = (tokens - prompt_tokens) / decode_tokens
    return max(0, math.floor(exact + _RELATIVE_SLACK * max(1.0, abs(tokens / decode_tokens))))


def allocation_budget(space: SearchSpace, allocation: Allocation) -> float:
    """Budget units of a whole allocation: the sum over its stages.

    Raises `agenttts.errors.UserError` when the allocation names a stage or model the space does not have.
    """
    return math.fsum(space.choice_budget(choice) for choice in allocation.choices)


def fits(cost: float, budget: float) -> bool:
    """Whether a cost is within a budget, allowing for rounding in the last digits."""
    return cost <= budget * (1.0 + _RELATIVE_SLACK)


def total(costs: Iterable[float]) -> float:
    """Exactly rounded sum, so that the order of the stages never decides what fits."""
    return math.fsum(costs)
