"""The course of a search: its iterations, and all of its trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from agenttts.report.contents import Grid, allocation_text, duration, number
from agenttts.report.summary import RunReport
from agenttts.tables.aggregate import BY_TRIAL, best_so_far
from agenttts.tables.schema import AFTER_SEARCH, TrialState

_NORMAL_95 = 1.96
_MOST_REASONS, _LONGEST_REASON = 3, 180
# More trials than this are left out of the page, so that it stays small.
MOST_TRIALS = 2000


def iterations_grid(run: RunReport) -> Grid | None:
    """Return the table of iterations: who proposed, why, and what came of it."""
    searched = run.trials.filter(~pl.col("source").is_in(AFTER_SEARCH)).sort("iteration", *BY_TRIAL)
    if searched.is_empty():
        return None
    rows: list[tuple[str, ...]] = []
    trace = {row["trial"]: row for row in best_so_far(searched, proposed=True).to_dicts()}
    best: Mapping[str, Any] | None = None
    for (iteration,), trials in searched.group_by("iteration", maintain_order=True):
        found = trials.to_dicts()
        scores = _scores(found)
        sources = Counter(str(row["source"]) for row in found)
        before = best
        improved = (
            row for row in found if row["trial"] in trace and trace[row["trial"]]["improved"]
        )
        best = next(reversed([*improved]), before)
        rows.append(
            (
                str(iteration),
                str(len(found)),
                ", ".join(f"{count} {source}" for source, count in sources.items()),
                _reasons(run.background.reasons.get(str(row["trial"]), "") for row in found),
                _span(scores),
                "-" if best is None else f"{best['score']:.4f}",
                _outcome(found, before, best),
            )
        )
    columns = (
        *("iteration", "trials", "proposed by", "why", "scores", "best so far", "what came of it"),
    )
    return Grid(
        "Iterations of the search",
        columns,
        tuple(rows),
        frozenset({"iteration", "trials", "best so far"}),
    )


def trials_grid(run: RunReport) -> Grid | None:
    """Return the table of all trials, in their order.

    Of very many trials it holds the best: those on the most examples, with the highest scores.
    """
    if run.trials.is_empty():
        return None
    count = run.trials.height
    shown = run.trials
    title = f"All {count:,} trials" if count > 1 else "The trial"
    if count > MOST_TRIALS:
        order = pl.col("score").is_not_null(), pl.col("examples"), pl.col("score")
        shown = shown.sort(*order, descending=True, nulls_last=True).head(MOST_TRIALS)
        title = f"The {MOST_TRIALS:,} best of {count:,} trials ('--format csv' gives all)"
    ordered = shown.sort(*BY_TRIAL).to_dicts()
    times = [run.seconds_between(row["started"], row["finished"]) for row in ordered]
    rows = [
        (
            str(row["trial"]),
            str(row["iteration"]),
            str(row["source"]),
            str(row["state"]),
            _score(row),
            number(row["budget"]),
            allocation_text(row["allocation"]),
            number(row["prompt_tokens"] + row["decode_tokens"]),
            number(row["reused_tokens"]),
            number(row["gpu_seconds"]),
            duration(seconds),
            run.background.reasons.get(row["trial"], ""),
        )
        for row, seconds in zip(ordered, times, strict=True)
    ]
    columns = (
        *("trial", "iteration", "proposed by", "state", "score", "budget", "allocation", "tokens"),
        *("reused", "GPU-seconds", "time", "why"),
    )
    numbers = {"iteration", "score", "budget", "tokens", "reused", "GPU-seconds", "time"}
    return Grid(title, columns, tuple(rows), frozenset(numbers), {"time": times})


def _scores(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    done = TrialState.COMPLETED.value
    return [row["score"] for row in rows if row["state"] == done and _is_number(row["score"])]


def _is_number(score: float | None) -> bool:
    return score is not None and abs(score) < float("inf")


def _span(scores: Sequence[float]) -> str:
    if not scores:
        return "-"
    low, high = min(scores), max(scores)
    return f"{low:.4f}" if low == high else f"{low:.4f} to {high:.4f}"


def _reasons(reasons: Iterable[str]) -> str:
    """Return the most frequent reasons, each once."""
    counts = Counter(reason for reason in reasons if reason)
    shown = [
        (reason if len(reason) <= _LONGEST_REASON else f"{reason[: _LONGEST_REASON - 1]}…")
        + (f" ({count} times)" if count > 1 else "")
        for reason, count in counts.most_common(_MOST_REASONS)
    ]
    rest = len(counts) - len(shown)
    return "; ".join(shown) + (f"; and {rest} more" if rest else "") or "-"


def _outcome(
    rows: Sequence[Mapping[str, Any]],
    before: Mapping[str, Any] | None,
    best: Mapping[str, Any] | None,
) -> str:
    """Return whether the best trial is another, and how many trials have no score."""
    failed = Counter(row["state"] for row in rows if row["state"] != TrialState.COMPLETED.value)
    parts = [f"{count} {state}" for state, count in failed.items()]
    if best is not None and best is not before:
        by = f"{allocation_text(best['allocation'])} ({best['trial']})"
        gain = "" if before is None else f" ({best['score'] - before['score']:+.4f})"
        if before is not None and best["examples"] != before["examples"]:
            gain = " (on more examples)"
        parts.insert(0, f"best: {by}{gain}")
    elif before is not None:
        parts.insert(0, "the best score stays")
    return "; ".join(parts) or "no score yet"


def _score(row: Mapping[str, Any]) -> str:
    if not _is_number(row["score"]):
        return "-"
    stderr = row["score_stderr"]
    return f"{row['score']:.4f}" + ("" if stderr is None else f" ± {_NORMAL_95 * stderr:.3f}")
