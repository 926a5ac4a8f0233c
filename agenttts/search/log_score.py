"""Weights of experts by how well they predicted scores that they had not seen.

The log score of a prediction is the log density that it gave to what was observed then. Summed over
predictions made in order ("prequential", Dawid 1984), it is the log evidence for the expert, and so
weights from it are posterior probabilities of the experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Prediction = tuple[float, float]
"""An expected score and its standard deviation (noise not included)."""

# The first standard deviation counts like so many errors when it is corrected by errors.
_PRIOR_ERRORS = 2.0


def log_score(prediction: Prediction, observed: float, stderr: float) -> float:
    """Return the log density of an observed score under a normal prediction.

    Args:
        prediction: The expected score and its standard deviation.
        observed: The score.
        stderr: The score's standard error; with the standard deviation it must be above 0.
    """
    mean, sd = prediction
    variance = sd * sd + stderr * stderr
    return -0.5 * (math.log(2.0 * math.pi * variance) + (observed - mean) ** 2 / variance)


def expert_weights(
    predictions: Mapping[str, Sequence[Prediction]],
    observed: Sequence[float],
    stderrs: Sequence[float],
    prior: Mapping[str, float],
) -> dict[str, float]:
    """Return the weight of every expert; the weights are positive and their sum is 1.

    Args:
        predictions: By expert, one for each score, made before it was known.
        observed: The scores.
        stderrs: Their standard errors.
        prior: The weights before any score.
    """
    logs = {
        name: math.log(prior[name])
        + math.fsum(
            log_score(*made) for made in zip(predictions[name], observed, stderrs, strict=True)
        )
        for name in predictions
    }
    top = max(logs.values())
    # The bound keeps every weight positive, so that an expert may come back.
    weights = {name: max(math.exp(value - top), 1e-12) for name, value in logs.items()}
    whole = math.fsum(weights.values())
    return {name: weight / whole for name, weight in weights.items()}


def with_own_errors(
    batches: Sequence[Sequence[tuple[float, float, float]]], sd: float
) -> list[Prediction]:
    """Return predictions that state no uncertainty with standard deviations.

    Each batch's standard deviation is the root mean square of the errors in earlier batches,
    beyond the noise of the scores.

    Args:
        batches: By batch, in order: the prediction, the score and its standard error.
        sd: The standard deviation of the first batch.
    """
    total, count, made = _PRIOR_ERRORS * sd * sd, _PRIOR_ERRORS, []
    for batch in batches:
        made += [(mean, math.sqrt(total / count)) for mean, _, _ in batch]
        for mean, observed, stderr in batch:
            total += max(0.0, (observed - mean) ** 2 - stderr * stderr)
            count += 1.0
    return made
