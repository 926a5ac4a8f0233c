"""The uncertainty of a score from the values of its examples.

A trial's score is the mean over its examples. Other examples would have given another score, and
resampling the examples with replacement shows by how much it varies. Reference: Efron & Tibshirani,
*An Introduction to the Bootstrap* (1993), chapters 6 and 13.

Equal values show nothing by resampling, although a few of them say little about other examples. If
all examples are right, or all wrong, the interval is Wilson's, which is that of a share (E. B.
Wilson, *Probable Inference, the Law of Succession, and Statistical Inference*, 1927).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

DEFAULT_RESAMPLES = 1000


@dataclass(frozen=True)
class Uncertainty:
    """Standard error of a mean, and its 95 % confidence interval.

    Both are in the units of the values.
    """

    stderr: float
    low: float
    high: float


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of a mean.

    It is the values' standard deviation over the root of their number. Unlike the bootstrap it has
    no random part, and its sums are exact. A searcher that is told of it therefore proposes the
    same on every machine.

    Args:
        values: One value per example.

    Returns:
        The standard error, in the units of the values; None with fewer than two values.
    """
    count = len(values)
    if count < 2:
        return None
    mean = math.fsum(values) / count
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)


def other_share(count: int, level: float = 0.95) -> float:
    """Return the largest share of other examples that may differ from equal ones.

    It is the width of Wilson's interval of a share of 0 or 1.

    Args:
        count: The number of examples that are equal.
        level: The level of the interval.
    """
    square = NormalDist().inv_cdf((1 + level) / 2) ** 2
    return square / (count + square)


def interval_of_equal(value: float, count: int, level: float = 0.95) -> tuple[float, float] | None:
    """Return the interval of a mean where all examples have the same value.

    Args:
        value: The value.
        count: The number of examples.
        level: The level of the interval.

    Returns:
        Its bounds; None unless the value is 0 or 1, the least and greatest of a share.
    """
    if value not in (0.0, 1.0):
        return None
    other = other_share(count, level)
    return (0.0, other) if value == 0.0 else (1.0 - other, 1.0)


def bootstrap(
    values: Sequence[float], *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0
) -> Uncertainty | None:
    """Return the uncertainty of a mean.

    The interval is the percentile interval of the resampled means. The same values and seed give
    the same result. With one example, or equal values, the bootstrap knows no other value and the
    standard error is 0.

    Args:
        values: One value per example.
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        The uncertainty; None without values.

    Raises:
        ValueError: A value is not finite. The caller has to count or leave out a failed example.
    """
    import numpy as np

    if resamples < 2:
        raise ValueError(f"resamples is {resamples}; at least 2 are needed")
    if not values:
        return None
    if not all(math.isfinite(value) for value in values):
        raise ValueError("values of examples must be finite numbers")
    observed = np.asarray(values, dtype=np.float64)
    if observed.min() == observed.max():
        return Uncertainty(0.0, float(observed[0]), float(observed[0]))
    rng = np.random.default_rng(seed)
    # In blocks, so that a large test split does not take resamples x examples numbers at once.
    block = max(1, 1_000_000 // len(observed))
    means = np.concatenate(
        [
            observed[
                rng.integers(0, len(observed), (min(block, resamples - start), len(observed)))
            ].mean(axis=1)
            for start in range(0, resamples, block)
        ]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    return Uncertainty(float(means.std(ddof=1)), float(low), float(high))
