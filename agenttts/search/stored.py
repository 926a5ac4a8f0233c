"""Stored results: scores of fewer samples, computed from a trial's own samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agenttts.search.archive import STORED, TrialResult
from agenttts.space import Allocation, Choice, SearchSpace
from agenttts.tables.stored_results import StoredResult


def stored_trials(
    result: TrialResult,
    stored: Sequence[StoredResult],
    space: SearchSpace,
    numbers: Sequence[int] | None = None,
) -> list[TrialResult]:
    """Return what a searcher is told of stored results.

    Results of allocations outside the space are left out. The standard errors of their metrics are
    those of the trial's own, which are on the same examples. Without the trial's scores by example,
    those of the stored results are left out too, so that trials stay comparable.

    Args:
        result: The result of the trial.
        stored: What its samples give with fewer of them.
        space: The search space.
        numbers: The numbers of the trial's examples, in their order; None: from 0.
    """
    found = []
    for one in stored:
        choices = zip(result.allocation.choices, one.samples, strict=True)
        allocation = Allocation(
            tuple(Choice(choice.stage, choice.model, count) for choice, count in choices)
        )
        if allocation not in space:
            continue
        found.append(
            TrialResult(
                allocation=allocation,
                score=one.score,
                metrics=one.metrics,
                cost=space.cost(allocation),
                source=STORED,
                stderr=one.score_stderr,
                examples=_scores(one, numbers) if result.examples else None,
                metrics_stderr={n: e for n, e in result.metrics_stderr.items() if n in one.metrics},
            )
        )
    return found


def _scores(stored: StoredResult, numbers: Sequence[int] | None) -> dict[int, float] | None:
    if numbers is None:
        numbers = range(len(stored.examples))
    known = zip(numbers, stored.examples, strict=True)
    scores = {number: v for number, v in known if v is not None and math.isfinite(v)}
    return scores or None
