"""The weight of the language model, and its own places in a batch.

The weight is the posterior probability that the model, and not the surrogate, is the better
predictor of the trials that it has proposed (`agenttts.search.log_score`). Trials that beat the
best raise it; failures, and scores below the mean of those known then, lower it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from agenttts.search.archive import Archive, Scored
from agenttts.search.llm.overview import standard_errors
from agenttts.search.log_score import Prediction, expert_weights, with_own_errors
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
    observed, errors, picks = [], [], []
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
            observed.append(trial.score)
            errors.append(error)
            better = trial.score > decision["best"] + 2.0 * error
            worse = trial.score < then - 2.0 * error
            picks.append(_BETTER * better + _WORSE * worse)
    made = [batch for batch in made if batch]
    first = [sd for _, sd in surrogate[: len(made[0])]] if made else [0.0]
    latest = slice(-_MOST_PREDICTIONS, None)
    own = with_own_errors(made, math.hypot(*first) / math.sqrt(len(first)))
    worth = math.fsum(picks[latest])
    weights = expert_weights(
        {"model": own[latest], "surrogate": surrogate[latest]},
        observed[latest],
        errors[latest],
        {"model": PRIOR_WEIGHT * math.exp(worth), "surrogate": 1.0 - PRIOR_WEIGHT},
    )
    return weights["model"]


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
