"""The noise of scores: from reported standard errors, or from the scores' common step.

A score that is the share of examples answered right is a multiple of 1/examples. When all scores
are multiples of one such step, their number of examples is known, and with it the binomial noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from agenttts.search.gaussian import Floats

# Numbers of examples that are tested, and how many different scores a common step must explain.
_MIN_EXAMPLES, _MAX_EXAMPLES, _MIN_DISTINCT_SCORES = 10, 1000, 6


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
