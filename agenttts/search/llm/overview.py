"""The results of a search as the one question of a batch shows them.

Results are grouped by combination of models, with the surrogate's estimates beside them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from agenttts.errors import counted
from agenttts.search.archive import Archive, Scored
from agenttts.search.noise import score_text
from agenttts.search.surrogate import Surrogate
from agenttts.space import Allocation, Choice, SearchSpace

# Feasible allocations that are compared for the most promising ones.
_MOST_COMPARED = 3000
# Combinations without a trial, and allocations without a trial beside the best of each combination.
_MOST_UNTRIED_GROUPS, _MOST_UNTRIED = 8, 4
_MOST_STORED = 4
# Combinations of models are counted up to this number.
_MOST_COUNTED = 5000


def overview(
    archive: Archive, model: Surrogate, limit: int, examples: int | None = None
) -> dict[str, Any]:
    """Return the overview of an archive, as the template of the question reads it.

    Args:
        archive: The results.
        model: The surrogate fitted to them.
        limit: The most trials to show: the best ones.
        examples: How many examples a score is the mean of, where the results do not say.
    """
    space = archive.space
    promising = _promising(archive, model)
    shown = _shown(archive, model, limit)
    groups = []
    tried: dict[tuple[str, ...], list[Scored]] = {}
    for trial in archive.scored:
        tried.setdefault(_models(trial.allocation), []).append(trial)
    few = [models for models in promising if models not in tried][:_MOST_UNTRIED_GROUPS]
    listed = tried if len(tried) <= limit else {_models(a) for a in shown}
    for models in sorted({*listed, *few}, key=partial(_place, space)):
        trials, most = tried.get(models, []), _most_samples(space, models)
        own = [trial.score for trial in trials if not trial.stored]
        rows = [_row(model, trial) for trial in trials if trial.allocation in shown]
        for allocation in promising.get(models, ()):
            cost = f"cost {space.cost(allocation):.0f}"
            rows.append(f"untried {_counts(allocation)}: {expected(model, allocation)}, {cost}")
        mean = score_text(statistics.fmean(own), model.resolution) if own else ""
        group = {"models": " → ".join(models), "most": most, "mean": mean, "n": len(own)}
        groups.append({**group, "rows": rows})
    failed = [r for r in archive.evaluated if r.failed]
    left_out = [f"Failed: {result.allocation}." for result in failed[-_MOST_STORED:]]
    count = _count_combinations(space)
    if (hidden := count - len({*tried, *few})) > 0:
        more = " or more" if count == _MOST_COUNTED else ""
        left_out.append(f"{hidden}{more} further combinations have no trial and promise less.")
    if unlisted := len(tried) - len(listed):
        left_out.append(f"{unlisted} combinations with worse trials are not shown.")
    stages = " → ".join(stage.name for stage in space.stages)
    metrics = "the stages' own metrics" if any(_metrics(t) for t in archive.scored) else ""
    return {
        "noise": _noise(archive, model, examples),
        "stages": f"In the order of the stages: {stages}",
        "metrics": metrics,
        "groups": groups,
        "left_out": " ".join(left_out),
    }


def expected(model: Surrogate, allocation: Allocation) -> str:
    """Return the surrogate's estimate of an allocation as a text."""
    estimate = model.expect(allocation)
    return f"expected {with_sd(estimate.mean, estimate.sd, model)}"


def with_sd(mean: float, sd: float, model: Surrogate) -> str:
    """Return an expected score and its standard deviation as a text."""
    return f"{score_text(mean, model.resolution)} ± {score_text(sd, None, 2)}"


def standard_errors(model: Surrogate) -> dict[Allocation, float]:
    """Return the standard errors of scores that the surrogate knows, by trial.

    Scores of examples that are all alike have one above 0, too (`agenttts.search.noise`).
    """
    covariance = model.evidence.covariance
    if covariance is None:
        return {}
    errors = np.sqrt(np.diag(covariance)).tolist()
    return {trial.allocation: error for trial, error in zip(model.trials, errors, strict=True)}


def _noise(archive: Archive, model: Surrogate, examples: int | None) -> str:
    known = standard_errors(model)
    errors = [known.get(t.allocation, model.noise) for t in archive.scored if not t.stored]
    sizes = [len(trial.examples) for trial in archive.scored if trial.examples]
    typical = score_text(statistics.median(errors or [model.noise]), None, 2)
    n = int(statistics.median(sizes)) if sizes else examples
    root = f"{typical} at {counted(n, 'example')}, and falls with the square root of that number"
    return root if n else typical


def _promising(archive: Archive, model: Surrogate) -> Mapping[tuple[str, ...], list[Allocation]]:
    """Return the most promising untried allocations by models, the best models first."""
    grid = model.evidence.grid
    rows = grid.feasible(_MOST_COMPARED)
    means = model.posterior_mean(rows)
    found: dict[tuple[str, ...], list[Allocation]] = {}
    more = _MOST_UNTRIED
    for row in rows[np.argsort(-means, kind="stable")]:
        allocation = grid.decode(row)
        models = _models(allocation)
        if allocation not in archive and (models not in found or more > 0):
            more -= models in found
            found.setdefault(models, []).append(allocation)
    return found


def _shown(archive: Archive, model: Surrogate, limit: int) -> set[Allocation]:
    """Return the trials that are shown, and a few of the best stored ones."""
    ranked = sorted(archive.scored, key=lambda t: (-model.tried.get(t.allocation, t.score), t.cost))
    trials = [trial.allocation for trial in ranked if not trial.stored]
    stored = [trial.allocation for trial in ranked if trial.stored]
    return {*trials[:limit], *stored[:_MOST_STORED]}


def _row(model: Surrogate, trial: Scored) -> str:
    n = f" (n={len(trial.examples)})" if trial.examples else ""
    parts = [
        f"{_counts(trial.allocation)}: {score_text(trial.score, model.resolution)}{n}",
        *_metrics(trial),
        expected(model, trial.allocation),
        "from stored samples" if trial.stored else f"cost {trial.cost:.0f}",
    ]
    return ", ".join(parts)


def _metrics(trial: Scored) -> list[str]:
    """Return the stages' metrics that are not the score itself."""
    return [
        f"{name} {score_text(value, trial.metrics_stderr.get(name), 2)}"
        for name, value in trial.metrics.items()
        if not math.isclose(value, trial.score, abs_tol=1e-9)
    ]


def _place(space: SearchSpace, models: tuple[str, ...]) -> list[int]:
    """Return a combination's place in the order in which stages list models."""
    return [
        [model.name for model in stage.models].index(name)
        for stage, name in zip(space.stages, models, strict=True)
    ]


def _most_samples(space: SearchSpace, models: tuple[str, ...]) -> str:
    """Return the most samples of each stage that fit while the others have the fewest."""
    pairs = list(zip(space.stages, models, strict=True))
    least = Allocation(tuple(Choice(stage.name, name, stage.samples[0]) for stage, name in pairs))
    most = [
        max(stage.samples[0], stage.affordable_samples(name, space.spare(stage, least)))
        for stage, name in pairs
    ]
    return ", ".join(map(str, most))


def _count_combinations(space: SearchSpace) -> int:
    """Return the number of combinations of models that fit."""
    single = (replace(stage, samples=stage.samples[:1]) for stage in space.stages)
    return replace(space, stages=tuple(single)).count(_MOST_COUNTED)


def _models(allocation: Allocation) -> tuple[str, ...]:
    return tuple(choice.model for choice in allocation.choices)


def _counts(allocation: Allocation) -> str:
    return " → ".join(str(choice.samples) for choice in allocation.choices)
