"""The weight of the language model against the surrogate, and its own places in a batch.

The posterior probability that the model, and not the surrogate, is the better predictor of the
trials that it has proposed (`agenttts.search.log_score`). Trials that beat the best raise it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agenttts.search.archive import Archive, Scored
from agenttts.search.llm.overview import standard_errors
from agenttts.search.log_score import Prediction, expert_weights, with_own_errors
from agenttts.search.surrogate import Surrogate
from agenttts.space import Allocation

# The model's weight before any of its proposals was tried.
PRIOR_WEIGHT = 0.2
# Predictions that count, the latest: a model may learn.
_MOST_PREDICTIONS = 20
# A pick that beat the best expected score by two of its standard errors counts like so much log
# score.
_PICK_BONUS = 1.0


@dataclass(frozen=True)
class Judged:
    """A proposal of the model that was tried: its decision in the transcript, and its trial."""

    decision: Mapping[str, Any]
    trial: Scored


def places(weight: float, known: int, n: int) -> int:
    """Return the model's own places in a batch of ``n``, from 0 to half of it.

    Over several batches the share of its places is half of its weight, also if batches are small.

    Args:
        weight: The model's weight, 0 to 1.
        known: The allocations that trials have taken so far.
        n: The size of the batch.
    """
    share = 0.5 * weight
    due = math.floor((known + n) * share + 1e-9) - math.floor(known * share + 1e-9)
    return min((n + 1) // 2, due)


def model_weight(told: Sequence[Mapping[str, Any]], archive: Archive, model: Surrogate) -> float:
    """Return the weight of the language model against the surrogate, 0 to 1.

    The prequential log scores of both on the trials that it has proposed decide, and how many of
    these beat the best by two of their standard errors. A proposal without a predicted score
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
        for one in batch:
            decision, trial = one.decision, one.trial
            error = max(known.get(trial.allocation, model.noise), 0.01 * spread)
            predicted = decision.get("predicted")
            if predicted is None:
                predicted = decision.get("mean", mean)
            made[-1].append((predicted, trial.score, error))
            mean_then, sd = decision["expected"]
            surrogate.append((mean_then, sd))
            observed.append(trial.score)
            errors.append(error)
            picks.append(_PICK_BONUS * (trial.score > decision["best"] + 2.0 * error))
    latest = slice(-_MOST_PREDICTIONS, None)
    bonus = math.fsum(picks[latest])
    weights = expert_weights(
        {"model": with_own_errors(made, spread)[latest], "surrogate": surrogate[latest]},
        observed[latest],
        errors[latest],
        {"model": PRIOR_WEIGHT * math.exp(bonus), "surrogate": 1.0 - PRIOR_WEIGHT},
    )
    return weights["model"]


def judged(told: Sequence[Mapping[str, Any]], archive: Archive) -> list[list[Judged]]:
    """Return the proposals that have a score now, by event; events without any are left out.

    An allocation that was proposed several times before it was tried is judged once, by what was
    said of it last.
    """
    scored = {trial.allocation: trial for trial in archive.scored}
    last: dict[Allocation, tuple[int, Judged]] = {}
    for number, event in enumerate(told):
        for decision, allocation in usable(event):
            if allocation in scored and decision.get("expected"):
                last[allocation] = (number, Judged(decision, scored[allocation]))
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
