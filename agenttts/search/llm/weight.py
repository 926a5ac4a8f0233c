"""The weight of the language model, and its own places in a batch.

The weight is the posterior probability that the model, and not the surrogate, is the better
predictor of the trials that it has proposed: from the log density that each gave to the scores,
which it had not seen, summed over predictions made in order ("prequential", Dawid 1984). Trials
that beat the best raise it; failures, and scores below the mean of those known then, lower it.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from agenttts.search.archive import Archive, Scored
from agenttts.search.llm.overview import standard_errors
from agenttts.search.surrogate import Surrogate
from agenttts.space import Allocation

# The model's weight before any of its proposals was tried, and the least with own places.
PRIOR_WEIGHT = 0.2
_LEAST_WITH_PLACES = 0.5 * PRIOR_WEIGHT
# Predictions that count, the latest: a model may learn.
_MOST_PREDICTIONS = 20
# A pick counts like so much log score: if it beat the best expected score by two of its standard
# errors; if it is as far below the mean of the scores known then; if it failed.
_BETTER, _WORSE, _FAILED = 1.0, -1.0, -2.0
# The first standard deviation counts like so many errors when it is corrected by errors.
_PRIOR_ERRORS = 2.0
_MOST_LOG_ODDS = 27.6

Prediction = tuple[float, float]
"""An expected score and its standard deviation (noise not included)."""


Judged = tuple[Mapping[str, Any], Scored | None]
"""What the transcript says of a proposal, and its trial; None if it failed by its own fault."""


def places(weight: float, known: int, n: int) -> int:
    """Return the model's own places in a batch of ``n``, from 0 to half of it.

    Over several batches the share of its places is half of its weight, also if batches are small.
    There are none if its weight is below half of what it began with.

    Args:
        weight: The model's weight, 0 to 1.
        known: The allocations that trials have taken so far.
        n: The size of the batch.
    """
    share = 0.5 * weight if weight >= _LEAST_WITH_PLACES else 0.0
    due = math.floor((known + n) * share + 1e-9) - math.floor(known * share + 1e-9)
    return min((n + 1) // 2, due)


def model_weight(told: Sequence[Mapping[str, Any]], archive: Archive, model: Surrogate) -> float:
    """Return the weight of the language model against the surrogate, 0 to 1.

    It follows from the log scores of both on the trials that the model has proposed, and from how
    good these trials were. The model states no uncertainty. Its first predictions get the
    surrogate's; later ones get that of the model's own errors. A proposal without a predicted score
    counts as if it had predicted the mean of all scores that were known then.

    Args:
        told: The transcript's events with its proposals, in order.
        archive: The results so far.
        model: The surrogate, for the standard errors of scores.
    """
    scores = [trial.score for trial in archive.scored]
    batches = judged(told, archive)
    if not batches:
        return PRIOR_WEIGHT
    spread, mean = statistics.pstdev(scores) or 0.1, statistics.fmean(scores)
    known = standard_errors(model)
    made: list[list[tuple[float, float, float]]] = []
    surrogate: list[Prediction] = []
    picks = []
    for batch in batches:
        made.append([])
        for decision, trial in batch:
            if trial is None:
                picks.append(_FAILED)
                continue
            error = max(known.get(trial.allocation, model.noise), 0.01 * spread)
            then = mean if decision.get("mean") is None else decision["mean"]
            predicted = decision.get("predicted")
            made[-1].append((then if predicted is None else predicted, trial.score, error))
            surrogate.append((decision["expected"][0], decision["expected"][1]))
            better = trial.score > decision["best"] + 2.0 * error
            worse = trial.score < then - 2.0 * error
            picks.append(_BETTER * better + _WORSE * worse)
    made = [batch for batch in made if batch]
    first = [sd for _, sd in surrogate[: len(made[0])]] if made else [0.0]
    own = with_own_errors(made, math.hypot(*first) / math.sqrt(len(first)))
    pairs = [
        (mine, other, score, error)
        for mine, other, (_, score, error) in zip(
            own, surrogate, itertools.chain(*made), strict=True
        )
    ]
    prior = math.log(PRIOR_WEIGHT / (1.0 - PRIOR_WEIGHT)) + math.fsum(picks[-_MOST_PREDICTIONS:])
    return posterior_weight(prior, pairs[-_MOST_PREDICTIONS:])


def posterior_weight(
    prior: float, pairs: Sequence[tuple[Prediction, Prediction, float, float]]
) -> float:
    """Return the weight of the first of two experts; it is above 0 and below 1.

    Args:
        prior: Its log odds before any score.
        pairs: The predictions of both, made before the score was known, the score and its standard
            error.
    """
    gains = (
        log_score(a, score, error) - log_score(b, score, error) for a, b, score, error in pairs
    )
    # The bound keeps the weight from 0 and 1, so that it may change again.
    log_odds = max(-_MOST_LOG_ODDS, min(_MOST_LOG_ODDS, prior + math.fsum(gains)))
    return 1.0 / (1.0 + math.exp(-log_odds))


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


def judged(told: Sequence[Mapping[str, Any]], archive: Archive) -> list[list[Judged]]:
    """Return the proposals that were tried, by event; no event is empty.

    An allocation that was proposed several times before it was tried is judged once, by what was
    said of it last.
    """
    tried: dict[Allocation, Scored | None] = {
        r.allocation: None for r in archive.results if r.failed
    }
    tried |= {trial.allocation: trial for trial in archive.scored}
    last: dict[Allocation, tuple[int, Judged]] = {}
    for number, event in enumerate(told):
        for decision, allocation in usable(event):
            if allocation in tried and decision.get("expected"):
                last[allocation] = (number, (decision, tried[allocation]))
    batches: dict[int, list[Judged]] = {}
    for number, one in sorted(last.values(), key=lambda found: found[0]):
        batches.setdefault(number, []).append(one)
    return list(batches.values())


def usable(event: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Allocation]]:
    """Return the decisions of an event on allocations that could be tried."""
    return [
        (decision, Allocation.from_records(decision["allocation"]))
        for decision in event["decisions"]
        if decision["outcome"] in ("valid", "repaired")
    ]
