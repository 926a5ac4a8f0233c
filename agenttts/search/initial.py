"""Initial trials: a comparison of models at equal cost.

They serve insight 1 (stages prefer different models).

For every stage each of its models gets the same compute, the cost of one sample of the largest,
while the other stages hold still. Source: AgentTTS (arXiv 2508.00890), "initial trials".
"""

from __future__ import annotations

from agenttts.search.base import Proposal
from agenttts.space import Allocation, Choice, SearchSpace, Stage, fits, total

DEFAULT_SAMPLE_CAP = 60


def initial_trials(space: SearchSpace, cap: int = DEFAULT_SAMPLE_CAP) -> list[Proposal]:
    """The initial trials, without duplicates, in stage and model order.

    All are within the budget.

    ``cap`` bounds the sample counts of the models compared. "One sample" is the least count the
    stage allows.
    """
    proposals: dict[Allocation, Proposal] = {}
    for stage in space.stages:
        amount = _amount(space, stage)
        others = _others(space, stage, amount)
        for model in stage.models:
            samples = _capped(stage, stage.affordable_samples(model.name, amount), cap)
            if samples == 0:
                continue  # not even one sample of this model is worth `amount`: nothing to compare
            mine = Choice(stage.name, model.name, samples)
            allocation = Allocation(
                tuple(mine if s.name == stage.name else others[s.name] for s in space.stages)
            )
            reason = f"{stage.name}: {model.name} at the cost of one {stage.largest.name} sample"
            proposals.setdefault(allocation, Proposal(allocation, "initial", reason))
    return list(proposals.values())


def _amount(space: SearchSpace, stage: Stage) -> float:
    """Budget units to spend at ``stage``.

    They pay for one sample of its largest model, or are what the other stages can spare.
    """
    spare = space.budget - _cost(space, [s.cheapest for s in space.stages if s.name != stage.name])
    one_largest = space.choice_budget(_largest(stage))
    return one_largest if fits(one_largest, spare) else spare


def _others(space: SearchSpace, stage: Stage, amount: float) -> dict[str, Choice]:
    """The choices of the other stages.

    All run their largest model once if the rest of the budget pays for it, else all their smallest.

    The same for every model of ``stage``, so that the trials differ in that model alone.
    """
    others = [s for s in space.stages if s.name != stage.name]
    largest = [_largest(s) for s in others]
    affordable = fits(total((amount, _cost(space, largest))), space.budget)
    choices = largest if affordable else [s.cheapest for s in others]
    return {choice.stage: choice for choice in choices}


def _capped(stage: Stage, samples: int, cap: int) -> int:
    """``samples`` lowered to the largest allowed count up to ``cap``.

    It is the least allowed count when all are above.
    """
    allowed = [count for count in stage.samples if count <= min(samples, cap)]
    return allowed[-1] if allowed else min(samples, stage.samples[0])


def _largest(stage: Stage) -> Choice:
    return Choice(stage.name, stage.largest.name, stage.samples[0])


def _cost(space: SearchSpace, choices: list[Choice]) -> float:
    return total(space.choice_budget(choice) for choice in choices)
