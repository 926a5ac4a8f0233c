"""Findings: what the trials say, in sentences, the search's guidelines.

Three kinds, one an insight: which model a stage should pursue, which way its sample count should
go, and which stage pays best for more budget.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from agenttts.errors import counted
from agenttts.search.noise import score_text
from agenttts.search.surrogate import Surrogate
from agenttts.space import Allocation, Choice, SearchSpace, Stage

# A difference under this share of the scores' spread (and under the noise) is "no difference".
_MIN_DIFFERENCE_SHARE = 0.05


def findings(model: Surrogate, best: Allocation) -> list[str]:
    """Guidelines around ``best``, stage by stage."""
    space, scores = model.grid.space, model.evidence.scores
    clear = max(_MIN_DIFFERENCE_SHARE * float(np.ptp(scores)), 0.5 * model.noise)
    sentences: list[str] = []
    for stage in space.stages:
        sentences += _pursue(space, stage, model, best, clear)
        sentences += _direction(space, stage, model, best, clear)
    sentences += _shift(space, model, best, clear)
    return sentences


def _pursue(
    space: SearchSpace, stage: Stage, model: Surrogate, best: Allocation, clear: float
) -> Iterator[str]:
    """Insight 1: the model to pursue.

    It is the cheaper one unless a larger one is clearly better at the same cost.
    """
    if len(stage.models) < 2:
        return
    spare = space.spare(stage, best)
    tried = {trial.allocation[stage.name].model for trial in model.trials}
    value: dict[str, float] = {}
    at: dict[str, Allocation] = {}
    for candidate in stage.models:
        counts = stage.spread_samples(stage.affordable_samples(candidate.name, spare))
        if counts and candidate.name in tried:
            tries = [best.replace(Choice(stage.name, candidate.name, count)) for count in counts]
            means = model.means(tries)
            value[candidate.name] = max(means)
            at[candidate.name] = tries[means.index(max(means))]
    if len(value) < 2:
        return
    by_size = sorted((m for m in stage.models if m.name in value), key=lambda m: m.params)
    pursued = by_size[0].name
    for larger in by_size[1:]:
        # Clearly: by more than the model itself is unsure of.
        unsure = model.expect(at[larger.name]).sd
        if value[larger.name] > value[pursued] + max(clear, unsure):
            pursued = larger.name
    rival = max((name for name in value if name != pursued), key=lambda name: value[name])
    why = (
        ""
        if value[pursued] >= value[rival]
        else "; no clear difference, and it is the smaller model"
    )
    yield (
        f"{stage.name}: pursue {pursued}: {score_text(value[pursued], model.resolution)} expected "
        f"against {score_text(value[rival], model.resolution)} with {rival} at up to the same "
        f"cost{why}"
    )


def _direction(
    space: SearchSpace, stage: Stage, model: Surrogate, best: Allocation, clear: float
) -> Iterator[str]:
    """Insight 2: whether a stage's samples rise, are flat or fall at ``best``."""
    choice = best[stage.name]
    here = model.mean(best)
    most = stage.affordable_samples(choice.model, space.spare(stage, best))
    more = min(most, stage.nearest_samples(2 * choice.samples))
    fewer = stage.nearest_samples(choice.samples / 2)

    def gain(samples: int) -> float:
        return model.mean(best.replace(Choice(stage.name, choice.model, samples))) - here

    subject = f"{stage.name}: {choice.model}"
    if more > choice.samples and gain(more) > clear / 2:
        yield f"{subject} still rises: try more than {counted(choice.samples, 'sample')}"
    elif fewer < choice.samples and gain(fewer) > clear / 2:
        yield f"{subject} falls: try fewer than {counted(choice.samples, 'sample')}"
    elif fewer < choice.samples and abs(gain(fewer)) <= clear / 2:
        yield (
            f"{subject} is flat from {fewer} to {counted(choice.samples, 'sample')}: {fewer} "
            f"{'is' if fewer == 1 else 'are'} enough"
        )


def _shift(space: SearchSpace, model: Surrogate, best: Allocation, clear: float) -> Iterator[str]:
    """Insight 3: the pair of stages between which moving budget promises most."""
    moved: list[tuple[Allocation, str, str]] = []
    for giver in space.stages:
        kept = Choice(
            giver.name, best[giver.name].model, giver.nearest_samples(best[giver.name].samples / 2)
        )
        less = best.replace(kept)
        for taker in space.stages:
            if taker.name == giver.name or kept == best[giver.name]:
                continue
            name = best[taker.name].model
            samples = taker.affordable_samples(name, space.spare(taker, less))
            moved.append((less.replace(Choice(taker.name, name, samples)), giver.name, taker.name))
    here, *means = model.means([best, *(allocation for allocation, _, _ in moved)])
    gains = [
        (mean - here, giver, taker) for mean, (_, giver, taker) in zip(means, moved, strict=True)
    ]
    if gains and max(gains)[0] > clear / 2:
        _, source, target = max(gains)
        yield f"shift budget from {source} to {target}: more samples gain more there"
