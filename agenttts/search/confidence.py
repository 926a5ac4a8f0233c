"""How sure a recommendation is, by the joint posterior of the scores."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from agenttts.search.encoding import Rows
from agenttts.search.gaussian import Floats
from agenttts.search.surrogate import Surrogate
from agenttts.tables.confidence import Confidence

# Draws from the posterior, and the most allocations that may turn out best.
_DRAWS, _RIVALS = 4000, 150
# Added to variances, as a share of the largest.
_JITTER = 1e-8


def confidence_of(
    model: Surrogate, recommended: Rows, rivals: Rows, within: float, seed: int = 0
) -> Confidence:
    """Return how sure a recommendation is.

    Args:
        model: The surrogate.
        recommended: The row of the recommended allocation, shape (1, stages).
        rivals: Rows of allocations that may be better, with or without the recommended one.
        within: A share of the best expected score.
        seed: Seed of the draws.
    """
    rows = np.concatenate([recommended, _promising(model, rivals)])
    points = model.at(rows)
    means, whitened = model.predict(points)
    covariances = model.kernel(model.settings, points, points)
    covariances = covariances - whitened @ np.swapaxes(whitened, 1, 2)
    rng = np.random.default_rng(seed)
    draws = []
    for number, count in enumerate(rng.multinomial(_DRAWS, model.weights)):
        if count:
            root = _root(covariances[number])
            draws.append(means[number] + rng.standard_normal((count, len(rows))) @ root.T)
    scores = model.in_score_units(np.concatenate(draws))
    best = scores.max(axis=1)
    near = scores[:, 0] >= best - within * np.abs(best)
    return Confidence(within, float(near.mean()), float((best - scores[:, 0]).mean()))


def _promising(model: Surrogate, rows: Rows) -> Rows:
    """Return the rows with the highest upper confidence bounds."""
    points = model.at(rows)
    means, whitened = model.predict(points)
    variance = model.kernel.variance(model.settings, points) - np.square(whitened).sum(axis=2)
    bound = model.weights @ (means + 2.0 * np.sqrt(np.maximum(variance, 0.0)))
    return rows[np.argsort(-bound, kind="stable")[:_RIVALS]]


def _root(covariance: Floats) -> Floats:
    """Return a square root of a covariance that may be singular.

    A Cholesky factor takes a tenth of the time of eigenvalues. They serve where rounding has made
    the covariance indefinite.
    """
    padded = covariance + _JITTER * covariance.diagonal().max() * np.eye(len(covariance))
    with suppress(np.linalg.LinAlgError):
        factor: Floats = np.linalg.cholesky(padded)
        return factor
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = vectors * np.sqrt(np.maximum(values, 0.0))
    return root
