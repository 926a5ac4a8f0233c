"""The answer of a run: what it recommends, how surely, and at what cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agenttts.errors import counted
from agenttts.report.contents import (
    Grid,
    allocation_text,
    baseline_text,
    metrics_text,
    number,
    score_text,
    tested_row,
    unscored_text,
)
from agenttts.report.summary import RunReport
from agenttts.space import stage_flops
from agenttts.tables.insights import Expected, Outlook

# Half the width of a 95 % interval, in standard deviations.
_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Answer:
    """What a run recommends.

    Attributes:
        allocation: The allocation in short form.
        unscored: Why it has no measured score; '' if it has one.
        stages: Its choices, a row for each stage.
        facts: Names and texts: how sure it is, and what one example costs.
    """

    allocation: str
    unscored: str
    stages: Grid
    facts: tuple[tuple[str, str], ...]


def answer(run: RunReport) -> Answer | None:
    """Return a run's answer; None before any trial has a score.

    It is the best finalist, else the recommended allocation, or the best trial's if the searcher
    recommends none.
    """
    records, row = run.recommended, run.recommended_trial
    if run.best_finalist is not None:
        records, row = run.best_finalist["allocation"], run.best_finalist
    elif records is None:
        if run.best is None:
            return None
        records, row = run.best["allocation"], run.best
    unscored = "" if row else unscored_text(run) or "no trial has evaluated it"
    facts = [*_sure(run, records, row, unscored), *_cost(run, row)]
    return Answer(allocation_text(records), unscored, _stages(records, row), tuple(facts))


def enough_grid(outlook: Outlook) -> Grid:
    """Return the table of the numbers of samples from which on more gain little."""
    rows = []
    for curve in outlook.curves:
        at = {point.samples: point.expected for point in curve.points}
        if not at:
            continue
        first, enough, best = at[min(at)], at[curve.enough], max(e.mean for e in at.values())
        rows.append(
            (
                curve.stage,
                curve.model,
                f"{curve.tried}",
                f"{first.mean:.4f}",
                f"{curve.enough}",
                f"{enough.mean:.4f} ± {_NORMAL_95 * enough.sd:.3f}",
                f"{best:.4f}",
                "-" if curve.chosen is None else f"{curve.chosen}",
            )
        )
    columns = (
        *(
            "stage",
            "model",
            "allocations tried",
            "expected with the fewest samples",
            "samples that are enough",
        ),
        *("expected with them", "highest expected", "recommended samples"),
    )
    title = "Saturation: samples with 95 % of the gain that more samples can bring"
    return Grid(title, columns, tuple(rows), frozenset(columns[2:]))


def _stages(records: Any, row: Mapping[str, Any] | None) -> Grid:
    metrics = row["metrics"] if row else {}
    rows = [
        (
            str(choice["stage"]),
            str(choice["model"]),
            str(choice["samples"]),
            metrics_text(metrics, choice["stage"], records),
        )
        for choice in records
    ]
    columns = ("stage", "model", "samples", "metrics")
    return Grid("", columns, tuple(rows), frozenset({"samples"}))


def _sure(
    run: RunReport,
    records: Sequence[Mapping[str, Any]],
    row: Mapping[str, Any] | None,
    unscored: str,
) -> Iterator[tuple[str, str]]:
    """Yield the measured score, the expected one, and the lead over others."""
    if row is not None:
        score, stderr = row["score"], row.get("score_stderr")
        text = f"{score:.4f}"
        if stderr is not None:
            text += f" ± {_NORMAL_95 * stderr:.3f}"
        if row.get("examples"):
            text += f" on {counted(row['examples'], 'example')}"
        yield "measured score", f"{text} ({row['trial']})"
    else:
        yield "measured score", f"none: {unscored}"
    tested = tested_row(run.tests, records)
    if tested is not None:
        interval = run.after_intervals.get(tested["trial"])
        own = allocation_text(tested["allocation"])
        yield "on the test split", f"{score_text(tested['score'], interval)} ({own})"
    # The model of the scores knows nothing of finalists; what it says is of its recommendation.
    known = run.search_agrees
    if run.recommended is not None and not known:
        yield "recommended by the search", allocation_text(run.recommended)
    of = "" if known else " (of the search's recommendation)"
    if run.confidence is not None:
        yield f"how sure{of}", str(run.confidence)
    if text := baseline_text(run):
        yield "against the baseline", text
    outlook = run.background.outlook
    if outlook is None:
        return
    expected = outlook.expected
    yield (
        f"expected score{of}",
        f"{expected.mean:.4f} ± {_NORMAL_95 * expected.sd:.3f} by the model of all trials; "
        f"one score deviates from it by {outlook.noise:.3f} (standard deviation)",
    )
    if outlook.rival is not None:
        yield (
            f"against the best other{of}",
            f"{_lead(outlook.rival.ahead)} than {outlook.rival.allocation}",
        )


def _lead(ahead: Expected) -> str:
    """Return by how much an allocation is better, or worse, with an interval."""
    word, by = ("worse", -ahead.mean) if ahead.mean < 0 else ("better", ahead.mean)
    low, high = by - _NORMAL_95 * ahead.sd, by + _NORMAL_95 * ahead.sd
    verdict = word if low > 0 else f"not to be told apart: {word}"
    return f"{verdict} by {by:.4f} [{low:.4f}, {high:.4f}]"


def _cost(run: RunReport, row: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Yield what one example costs, as the trial of the allocation measured it."""
    if row is None:
        return
    flops = _flops(run.settings, row["allocation"])
    compute = "" if flops is None else f" ({number(flops / 1e12)} TFLOPs)"
    yield "budget of one example", f"{number(row['budget'])} units{compute}"
    if row.get("examples"):
        tokens = (row["prompt_tokens"] + row["decode_tokens"]) / row["examples"]
        yield "tokens of one example", f"{number(round(tokens, 1))}, prompts included"
        if row["gpu_seconds"]:
            seconds = row["gpu_seconds"] / row["examples"]
            reused = row["reused_tokens"] / max(1, row["prompt_tokens"] + row["decode_tokens"])
            yield (
                "GPU time of one example",
                f"{number(seconds)} s in its trial, engine starts included; {reused:.0%} of its "
                "tokens were reused from the sample store",
            )


def _flops(settings: Mapping[str, Any], allocation: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the FLOPs of one example by the spec; None if it does not tell them."""
    try:
        return sum(
            stage_flops(
                float(settings["models"][choice["model"]]["params"]),
                int((stage := settings["stages"][choice["stage"]])["prompt_tokens"]),
                int(stage["decode_tokens"]),
                choice["samples"],
            )
            for choice in allocation
        )
    except (KeyError, TypeError, ValueError):
        return None
