"""What a run recommends against the user's baseline, example by example."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from agenttts.loop.sides import KINDS, OPPOSITE, Of, Side, baseline_of, side_document
from agenttts.report.summary import RunReport
from agenttts.run.directory import RunDirectory
from agenttts.tables.aggregate import main_metric
from agenttts.tables.difference import compare
from agenttts.tables.example_tokens import example_tokens


def against_baseline(run: RunDirectory, report: RunReport) -> dict[str, Any] | None:
    """Return a run's recommended (else best) allocation against its baseline.

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
    of: Of = "best" if report.recommended_trial is None else "recommended"
    own = report.recommended if of == "recommended" else None
    one = Side(run, record, report, of, own or report.best["allocation"], metric)
    two = Side(run, record, report, "baseline", baseline, metric)
    for kind in KINDS:
        first, second = one.scores(kind), two.scores(kind)
        rows = [one.trial(kind), two.trial(kind)]
        if first and second and rows[0] and rows[1]:
            break
    else:
        return None
    score = compare(first, second)
    taken = [
        side.by_example(example_tokens(side.table(row["trial"])), kind, row["trial"])
        for side, row in zip((one, two), (rows[0], rows[1]), strict=True)
    ]
    tokens = compare(*taken)
    documents = [
        side_document(side, row, len(by_example))
        for side, row, by_example in zip((one, two), (rows[0], rows[1]), taken, strict=True)
    ]
    return {
        "allocation": [dict(choice) for choice in two.allocation],
        "trial": rows[1]["trial"],
        "of": of,
        "same_allocation": documents[0]["allocation"] == documents[1]["allocation"],
        "kind": kind,
        "score": asdict(score) if score else None,
        "tokens": tokens and asdict(replace(tokens, verdict=OPPOSITE[tokens.verdict])),
        "gpu_seconds_per_example": [d["gpu_seconds_per_example"] for d in documents],
    }
