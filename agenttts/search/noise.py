"""The noise of scores: from reported standard errors, or from the scores' common step.

A score that is the share of examples answered right is a multiple of 1/examples. When all scores
are multiples of one such step, their number of examples is known, and with it the binomial noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agenttts.search.archive import Scored
from agenttts.search.encoding import Rows
from agenttts.search.gaussian import Floats

# Numbers of examples that are tested, and how many different scores a common step must explain.
_MIN_EXAMPLES, _MAX_EXAMPLES, _MIN_DISTINCT_SCORES = 10, 1000, 6


# Results on one example are worth this many examples of the common variance.
_SHRINKAGE_EXAMPLES = 5.0

# The least part of the variance on one example that two trials do not share.
_MIN_OWN_SHARE = 0.05


@dataclass(frozen=True)
class ExampleNoise:
    """The noise of scores that are means over known examples.

    Trials on the same examples share a part of their noise: a difficult example is difficult for
    all of them. Trials with equal leading choices share more, and most of all those that differ
    only by their number of samples in the last stage, because the smaller set of samples is a part
    of the larger one. The three correlations are estimated from all pairs of trials together.

    Args:
        covariance: Of the trials' scores, shape (trials, trials).
        per_example: The variance of a score on one example, the mean over trials.
        repeats: By trial, how many times the fit of curves may count what its group says once.
    """

    covariance: Floats
    per_example: float
    repeats: Floats


def example_noise(trials: Sequence[Scored], rows: Rows) -> ExampleNoise | None:
    """Return the noise of trials with scores by example; None if one of them has none.

    Args:
        trials: The trials.
        rows: Their choice numbers, shape (trials, stages).
    """
    if not trials or any(not trial.examples for trial in trials):
        return None
    width = 1 + max(max(trial.examples or ()) for trial in trials)
    scores, seen = np.zeros((len(trials), width)), np.zeros((len(trials), width))
    for number, trial in enumerate(trials):
        examples = trial.examples or {}
        scores[number, list(examples)] = list(examples.values())
        seen[number, list(examples)] = 1.0
    count = seen.sum(axis=1)
    residuals = (scores - (scores.sum(axis=1) / count)[:, None]) * seen
    squares = np.square(residuals).sum(axis=1)
    # An example less than there are, because the mean is estimated, too.
    free = np.maximum(count - 1.0, 1e-9)
    common = float(squares.sum() / free.sum())
    if common <= 0.0:  # all examples alike: as if the next one were different
        common = 1.0 / (count.sum() + 2.0)
    variance = (squares + _SHRINKAGE_EXAMPLES * common) / (count - 1.0 + _SHRINKAGE_EXAMPLES)
    shared = seen @ seen.T
    relative = residuals / np.sqrt(variance)[:, None]
    products = relative @ relative.T
    leading = _groups(rows[:, :-1])
    nested = _groups(np.column_stack([rows[:, :-1], _last_models(trials)]))
    kinds = (
        np.ones((len(trials), len(trials)), dtype=bool),
        leading[:, None] == leading[None, :],
        nested[:, None] == nested[None, :],
    )
    correlation = np.zeros((len(trials), len(trials)))
    value = 0.0
    for number, kind in enumerate(kinds):
        other = ~kinds[number + 1] if number + 1 < len(kinds) else ~np.eye(len(trials), dtype=bool)
        pairs = kind & other
        # In prior pairs of one example: the kind that is one wider.
        prior = 50.0 * value
        seen_together = float(shared[pairs].sum())
        found = (float(products[pairs].sum()) + prior) / (seen_together + 50.0)
        value = min(max(value, found), 1.0 - _MIN_OWN_SHARE)
        correlation[kind] = value
    np.fill_diagonal(correlation, 1.0)
    scale = np.sqrt(variance) / count
    covariance = correlation * shared * scale[:, None] * scale[None, :]
    members = (nested[:, None] == nested[None, :]).sum(axis=1)
    return ExampleNoise(covariance, float(variance.mean()), 1.0 + value * (members - 1.0))


def _groups(rows: Rows) -> Rows:
    """Number equal rows equally."""
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


def _last_models(trials: Sequence[Scored]) -> Rows:
    names = [trial.allocation.choices[-1].model for trial in trials]
    return np.unique(names, return_inverse=True)[1].reshape(-1)


def variances(scores: Sequence[float], stderrs: Sequence[float | None]) -> Floats | None:
    """Variance of every score.

    It is taken from the standard errors where all trials report one, else from the scores' common
    step; None without one.
    """
    if stderrs and all(error is not None and math.isfinite(error) for error in stderrs):
        reported: Floats = np.square(np.array(stderrs, dtype=np.float64))
        # A standard error of 0 (all examples alike) is a sign of few examples, not of certainty.
        floor = 0.25 * float(reported.mean())
        return np.maximum(reported, floor) if floor > 0 else None
    examples = examples_behind(scores)
    if examples is None:
        return None
    values = np.array(scores, dtype=np.float64)
    # Shares are shrunk towards their mean: an extreme score would otherwise get too small a
    # variance.
    share = (0.5 * (values + values.mean()) * examples + 1.0) / (examples + 2.0)
    variance: Floats = share * (1.0 - share) / examples
    return variance


def examples_behind(scores: Sequence[float]) -> int | None:
    """The least number of examples, 10 to 1000, of which all scores are shares.

    None when there is none.
    """
    values = np.array(scores, dtype=np.float64)
    if len(np.unique(values)) < _MIN_DISTINCT_SCORES or values.min() < 0.0 or values.max() > 1.0:
        return None
    numbers = np.arange(_MIN_EXAMPLES, _MAX_EXAMPLES + 1)
    counts = values[None, :] * numbers[:, None]
    fits = np.abs(counts - np.round(counts)).max(axis=1) < 1e-6
    # Many distinct scores are multiples of a fine enough step by chance alone (and of 1/1000 when
    # rounded).
    return int(numbers[fits.argmax()]) if fits.any() else None
