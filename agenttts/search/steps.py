"""Step-shaped responses, as a recorded table gives them.

It answers counts between its grid points with the nearest one.

Neighbours then report the same noisy score; taken for independent results, they would make a high
score look certain. Repeated observations therefore count once, and once there are some, candidates
next to trials are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agenttts.search.archive import Scored
from agenttts.search.encoding import ChoiceGrid, Rows
from agenttts.search.gaussian import Floats

# Octaves of samples, at every stage, within which equal results are one observation; and within
# which a candidate is next to a trial.
_REPEAT_OCTAVES, _NEIGHBOUR_OCTAVES = 1.0, 0.5

# A response is taken for step-shaped from this many repeated results on, and from this share of
# neighbouring trials on.
_MIN_REPEATED, _MIN_REPEATED_SHARE = 2, 0.5


def independent(trials: Sequence[Scored]) -> list[Scored]:
    """``trials`` without repetitions.

    Of neighbours with the same models, score and metrics the cheapest stays.
    """
    if all(trial.examples for trial in trials):
        return list(trials)  # scores by example say what they share
    kept: dict[tuple[object, ...], list[Scored]] = {}
    for trial in sorted(trials, key=lambda t: (t.cost, t.allocation)):
        same = kept.setdefault(_outcome(trial), [])
        if not any(_octaves(trial, other) <= _REPEAT_OCTAVES for other in same):
            same.append(trial)
    found = {trial.allocation for group in kept.values() for trial in group}
    return [trial for trial in trials if trial.allocation in found]


def beside_trials(
    grid: ChoiceGrid, trials: Sequence[Scored], rows: Rows, pending: Rows | None = None
) -> NDArray[np.bool_]:
    """Which ``rows`` are next to a trial although the trials show steps.

    Shape (rows,), all False without steps.

    ``pending`` are trials that are out: rows next to them will report what they do.
    """
    none = np.zeros(len(rows), dtype=bool)
    if all(trial.examples for trial in trials):
        return none
    tried = grid.encode(trial.allocation for trial in trials)
    outcomes = {outcome: number for number, outcome in enumerate(map(_outcome, trials))}
    numbers = np.array([outcomes[_outcome(trial)] for trial in trials])
    near = np.triu(_apart(grid, tried, tried) <= _NEIGHBOUR_OCTAVES, 1)
    pairs = int(near.sum())
    equal = int((near & (numbers[:, None] == numbers[None, :])).sum())
    if equal < _MIN_REPEATED or equal < _MIN_REPEATED_SHARE * pairs:
        return none
    if pending is not None:
        tried = np.concatenate([tried, pending])
    beside: NDArray[np.bool_] = np.any(_apart(grid, rows, tried) <= _NEIGHBOUR_OCTAVES, axis=1)
    return beside


def _outcome(trial: Scored) -> tuple[object, ...]:
    models = tuple(choice.model for choice in trial.allocation.choices)
    return (models, trial.score, tuple(sorted(trial.metrics.items())))


def _octaves(a: Scored, b: Scored) -> float:
    pairs = zip(a.allocation.choices, b.allocation.choices, strict=True)
    return max(abs(float(np.log2(x.samples / y.samples))) for x, y in pairs)


def _apart(grid: ChoiceGrid, a: Rows, b: Rows) -> Floats:
    """Most octaves apart at any stage, infinite with different models; shape (a, b)."""
    apart = np.zeros((len(a), len(b)))
    for stage in range(a.shape[1]):
        octaves, models = np.log2(grid.samples[stage]), grid.models[stage]
        left, right = a[:, stage], b[:, stage]
        distance = np.abs(octaves[left][:, None] - octaves[right][None, :])
        differ = models[left][:, None] != models[right][None, :]
        apart = np.maximum(apart, np.where(differ, np.inf, distance))
    return apart
