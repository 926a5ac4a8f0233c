"""The surrogate's expectations around an allocation, for the figures of a report."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from agenttts.search.archive import Archive, Scored, TrialResult
from agenttts.search.evidence import EvidenceReader
from agenttts.search.surrogate import Expectation, Surrogate
from agenttts.space import Allocation, Choice, SearchSpace, Stage, fits
from agenttts.tables.insights import (
    CurvePoint,
    CurveTrial,
    Expected,
    ModelCurve,
    Outlook,
    PairCell,
    Rival,
    StagePair,
)

# From this share of the gain of more samples on, a number of samples is enough.
ENOUGH_SHARE = 0.95
MOST_TRIALS = 300
"""Trials beside a curve; of more, those on the curve and some of the others.

Without it a search of 3,350 trials, which told 11,300 allocations, took 54 s (2026-11).
"""


def outlook(
    space: SearchSpace, results: Iterable[TrialResult], recommended: Allocation | None
) -> Outlook | None:
    """Return what the surrogate expects around an allocation.

    It is fitted to these results.

    Args:
        space: The search space.
        results: The results of all trials of the search; of those of one allocation only what they
            give together is kept.
        recommended: The allocation; None, or one outside the space, is the best tried one.

    Returns:
        The expectations; None if no trial in the space has a score.
    """
    archive = Archive(space)
    archive.add(results)
    if not archive.scored:
        return None
    model = Surrogate(EvidenceReader(archive).read())
    if recommended is None or recommended not in space:
        recommended = next(iter(model.tried))
    curves = [
        _curve(space, archive, model, stage, each.name, recommended)
        for stage in space.stages
        for each in stage.models
    ]
    pairs = [
        _pair(space, archive, model, one, other, recommended)
        for one, other in itertools.combinations(space.stages, 2)
    ]
    return Outlook(
        expected=_plain(model.expect(recommended)),
        rival=_rival(model, recommended),
        noise=model.noise,
        curves=curves,
        pairs=pairs,
    )


def _plain(expected: Expectation) -> Expected:
    return Expected(expected.mean, expected.sd)


def _rival(model: Surrogate, recommended: Allocation) -> Rival | None:
    others = (allocation for allocation in model.tried if allocation != recommended)
    best = next(others, None)
    if best is None:
        return None
    return Rival(str(best), _plain(model.gain(recommended, best)))


def _curve(
    space: SearchSpace,
    archive: Archive,
    model: Surrogate,
    stage: Stage,
    name: str,
    around: Allocation,
) -> ModelCurve:
    """Return the curve of one model in one stage.

    It is over the counts that some allocation affords.
    """
    most = stage.affordable_samples(name, space.spare(stage, space.cheapest))
    own = {t.allocation[stage.name].samples for t in _trials_with(archive, stage, name)}
    chosen = around[stage.name].samples if around[stage.name].model == name else None
    counts = sorted({*stage.spread_samples(most), *own, *([chosen] if chosen else [])})
    at = [around.replace(Choice(stage.name, name, count)) for count in counts]
    points = [
        CurvePoint(count, _plain(model.expect(a)), fits(space.cost(a), space.budget))
        for count, a in zip(counts, at, strict=True)
    ]
    trials = _beside(archive, model, stage, name, around)
    tried = sum(not trial.stored for trial in _trials_with(archive, stage, name))
    return ModelCurve(stage.name, name, points, trials, tried, _enough(points), chosen)


def _trials_with(archive: Archive, stage: Stage, name: str) -> list[Scored]:
    """Return the trials with a model in a stage, with stored ones, in order."""
    return [trial for trial in archive.scored if trial.allocation[stage.name].model == name]


def _enough(points: Sequence[CurvePoint]) -> int:
    """Return the fewest samples with nearly all of the gain; 0 without points."""
    means = [point.expected.mean for point in points]
    if not means:
        return 0
    needed = max(means) - (1.0 - ENOUGH_SHARE) * (max(means) - means[0])
    return next(p.samples for p, mean in zip(points, means, strict=True) if mean >= needed)


def _beside(
    archive: Archive, model: Surrogate, stage: Stage, name: str, around: Allocation
) -> list[CurveTrial]:
    """Return the trials with a model in a stage.

    Of those that are not on its curve there are `MOST_TRIALS` at most. Their scores are adjusted as
    if their other stages were as in ``around``.
    """
    trials = _trials_with(archive, stage, name)
    moved = [around.replace(trial.allocation[stage.name]) for trial in trials]
    off = [place for place, trial in enumerate(trials) if moved[place] != trial.allocation]
    left_out = set(off) - set(off[:: max(1, -(-len(off) // MOST_TRIALS))])
    kept = [place for place in range(len(trials)) if place not in left_out]
    there = model.means([moved[place] for place in kept])
    here = model.means([trials[place].allocation for place in kept])
    found = []
    for place, at_curve, at_trial in zip(kept, there, here, strict=True):
        trial = trials[place]
        same = moved[place] == trial.allocation
        found.append(
            CurveTrial(
                samples=trial.allocation[stage.name].samples,
                adjusted=trial.score if same else trial.score + at_curve - at_trial,
                score=trial.score,
                allocation=str(trial.allocation),
                same=same,
                stored=trial.stored,
            )
        )
    return found


def _pair(
    space: SearchSpace,
    archive: Archive,
    model: Surrogate,
    one: Stage,
    other: Stage,
    around: Allocation,
) -> StagePair:
    x, y = around[one.name], around[other.name]

    def counts(stage: Stage, choice: Choice) -> list[int]:
        most = stage.affordable_samples(choice.model, space.spare(stage, space.cheapest))
        return sorted({*stage.spread_samples(most), choice.samples})

    at = [
        (a, b, around.replace(Choice(one.name, x.model, a)).replace(Choice(other.name, y.model, b)))
        for a in counts(one, x)
        for b in counts(other, y)
    ]
    means = model.means([allocation for *_, allocation in at])
    cells = [
        PairCell(a, b, mean, fits(space.cost(allocation), space.budget))
        for (a, b, allocation), mean in zip(at, means, strict=True)
    ]
    tried = {
        (trial.allocation[one.name].samples, trial.allocation[other.name].samples)
        for trial in archive.scored
        if not trial.stored
        and trial.allocation[one.name].model == x.model
        and trial.allocation[other.name].model == y.model
    }
    return StagePair(
        one.name, x.model, other.name, y.model, cells, sorted(tried), (x.samples, y.samples)
    )
