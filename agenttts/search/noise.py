"""The noise of scores: from scores by example, or from standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agenttts.search.archive import Scored
from agenttts.search.encoding import Mask, Rows
from agenttts.search.gaussian import Floats

# Results on one example are worth this many examples of the common variance.
_SHRINKAGE_EXAMPLES = 5.0

# The prior of a correlation counts as so many pairs of results on one example, and its bound.
_PRIOR_PAIRS, _MOST_CORRELATION = 50.0, 0.95

# Octaves over which the correlation of nested samples falls to 1/e: values that are tried.
_REACHES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class ExampleNoise:
    """The noise of scores that are means over known examples.

    Trials on the same examples share a part of their noise: a difficult example is difficult for
    all of them. Trials with equal leading choices share more, and most of all those that differ
    only by their number of samples in the last stage, because the smaller set of samples is a part
    of the larger one. The correlations are estimated from all pairs of trials together.

    Args:
        covariance: Of the trials' scores, shape (trials, trials).
        per_example: The variance of a score on one example, the mean over trials.
    """

    covariance: Floats
    per_example: float


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
    free = float((count - 1.0).sum())
    common = float(squares.sum()) / free if free > 0.0 else float(scores.sum(axis=1).var())
    if common <= 0.0:  # all examples alike: as if the next one were different
        common = 1.0 / (count.sum() + 2.0)
    variance = (squares + _SHRINKAGE_EXAMPLES * common) / (count - 1.0 + _SHRINKAGE_EXAMPLES)
    shared = seen @ seen.T
    relative = residuals / np.sqrt(variance)[:, None]
    products = relative @ relative.T
    leading = _groups(rows[:, :-1])
    alike = leading[:, None] == leading[None, :]
    names = np.unique([trial.allocation.choices[-1].model for trial in trials], return_inverse=True)
    last = _groups(np.column_stack([leading, names[1]]))
    nested = last[:, None] == last[None, :]
    counts = np.log2([trial.allocation.choices[-1].samples for trial in trials])
    octaves = np.abs(counts[:, None] - counts[None, :])
    of_all = _correlation(products, shared, ~alike, 0.0)
    of_alike = max(of_all, _correlation(products, shared, alike & ~nested, of_all))
    # The correlation of nested samples falls with the octaves between their counts.
    pairs = np.triu(nested & (shared > 0), 1)
    weight, distance = shared[pairs], octaves[pairs]
    reach = 1.0
    if weight.sum() > 0:
        wrong = [
            float(np.square(products[pairs] / weight - _nested(of_alike, distance, r)) @ weight)
            for r in _REACHES
        ]
        reach = _REACHES[int(np.argmin(wrong))]
    correlation = np.where(alike, of_alike, of_all)
    correlation = np.where(nested, _nested(of_alike, octaves, reach), correlation)
    np.fill_diagonal(correlation, 1.0)
    scale = np.sqrt(variance) / count
    covariance = correlation * shared * scale[:, None] * scale[None, :]
    return ExampleNoise(covariance, float(variance.mean()))


def _correlation(products: Floats, shared: Floats, pairs: Mask, prior: float) -> float:
    """The correlation on one example of these pairs of trials."""
    found = float(products[pairs].sum()) + _PRIOR_PAIRS * prior
    return min(max(0.0, found / (float(shared[pairs].sum()) + _PRIOR_PAIRS)), _MOST_CORRELATION)


def _nested(other: float, octaves: Floats, reach: float) -> Floats:
    """Correlations of trials whose samples are nested, ``octaves`` of samples apart."""
    correlation: Floats = other + (1.0 - other) * np.exp(-octaves / reach)
    return correlation


def _groups(rows: Rows) -> Rows:
    """Number equal rows equally."""
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


def squared_errors(stderrs: Sequence[float | None]) -> Floats:
    """Return the variances behind standard errors; NaN where none is known.

    A standard error of 0 (all examples alike) is a sign of few examples, not of certainty: it is
    taken for half of the others' root mean square.
    """
    squares = np.square(np.array([math.nan if e is None else e for e in stderrs], dtype=np.float64))
    squares[~np.isfinite(squares)] = np.nan
    known = squares[~np.isnan(squares)]
    floor = 0.25 * float(known.mean()) if len(known) else 0.0
    found: Floats = np.maximum(squares, floor) if floor > 0 else np.full(len(squares), np.nan)
    return found


def score_text(value: float, error: float | None, digits: int = 3) -> str:
    """Return a score as a text, without an exponent.

    It has at least so many significant digits, and two of its standard error (None: not known).
    """
    size = abs(value)
    if not math.isfinite(value) or size >= 1e15 or 0.0 < size < 1e-9:
        return f"{value:.{digits}g}"
    decimals = _decimals(size, digits)
    if error is not None and math.isfinite(error):
        decimals = max(decimals, _decimals(error, 2))
    text = f"{value:.{min(decimals, 12)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _decimals(size: float, digits: int) -> int:
    """Return the decimals with which a number has so many significant digits."""
    return max(0, digits - 1 - math.floor(math.log10(size))) if size > 0.0 else 0
