"""What a run recommends against the user's baseline, example by example."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from agenttts.loop.sides import KINDS, Of, Side, baseline_of, compare_tokens
from agenttts.report.summary import RunReport
from agenttts.run.directory import RunDirectory
from agenttts.tables.aggregate import main_metric
from agenttts.tables.difference import compare


def against_baseline(run: RunDirectory, report: RunReport) -> dict[str, Any] | None:
    """Return a run's result against its baseline.

    The result is the best finalist, else the recommended allocation, else the best one.

    Returns:
        The document (`BaselineDocument`); None without a baseline, or before both have scores.
    """
    baseline = baseline_of(run)
    if baseline is None or report.best is None:
        return None
    record = run.record()
    metric = record.main_metric or main_metric(report.trials)
    if metric is None:
        return None
    ranked = report.best_finalist is not None or report.recommended_trial is None
    of: Of = "best" if ranked else "recommended"
    own = report.recommended if of == "recommended" else None
    one = Side(run, record, report, of, own or report.best["allocation"], metric)
    two = Side(run, record, report, "baseline", baseline, metric)
    for kind in KINDS:
        first, second = one.scores(kind), two.scores(kind)
        own_row, row = one.trial(kind), two.trial(kind)
        if first and second and own_row and row:
            break
    else:
        return None
    score = compare(first, second)
    taken = [side.tokens(kind, r["trial"]) for side, r in ((one, own_row), (two, row))]
    tokens = compare_tokens(*taken)
    allocation = [dict(choice) for choice in two.allocation]
    return {
        "allocation": allocation,
        "trial": row["trial"],
        "of": of,
        "same_allocation": [dict(choice) for choice in one.allocation] == allocation,
        "kind": kind,
        "score": asdict(score) if score else None,
        "tokens": tokens and asdict(tokens),
        "gpu_seconds_per_example": [
            (each["gpu_seconds"] or 0.0) / len(tokens_of)
            for each, tokens_of in zip((own_row, row), taken, strict=True)
        ],
    }
