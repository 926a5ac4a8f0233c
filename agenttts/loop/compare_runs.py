"""Compare an allocation of one run with that of another, example by example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from agenttts.errors import UserError
from agenttts.loop.compare_document import CompareDocument
from agenttts.loop.reports import report_of
from agenttts.report.summary import RunReport
from agenttts.run.directory import RunDirectory
from agenttts.run.record import RunRecord
from agenttts.tables.aggregate import main_metric
from agenttts.tables.difference import Difference, Verdict, compare
from agenttts.tables.documents import printed
from agenttts.tables.example_scores import example_scores
from agenttts.tables.example_tokens import example_tokens
from agenttts.tables.schema import AFTER_SEARCH, FINALIST_SOURCE, TEST_SOURCE, TrialState
from agenttts.trial.spec import SPEC_FILE, TrialSpec

Of = Literal["recommended", "best"]

# The kinds of trials, those on the most telling examples first: held-out ones are new to the
# search, and finalists have more of them.
_KINDS = (TEST_SOURCE, FINALIST_SOURCE, "search")
_OPPOSITE: Mapping[Verdict, Verdict] = {
    "better": "worse",
    "worse": "better",
    "not to be told": "not to be told",
}


@dataclass(frozen=True)
class _Side:
    directory: RunDirectory
    record: RunRecord
    report: RunReport
    of: Of
    allocation: Sequence[Mapping[str, Any]]
    metric: str

    def trial(self, kind: str) -> dict[str, Any] | None:
        """Return the row of the trial of a kind that evaluated the allocation.

        Of several it is that on the most examples.
        """
        rows = self.report.trials.filter(
            (pl.col("state") == TrialState.COMPLETED.value)
            & pl.col("score").is_finite().fill_null(False)
            & (
                ~pl.col("source").is_in(AFTER_SEARCH)
                if kind == "search"
                else pl.col("source") == kind
            )
        )
        wanted = [dict(choice) for choice in self.allocation]
        widest = rows.sort("examples", descending=True, nulls_last=True)
        found = (row for row in widest.iter_rows(named=True) if row["allocation"] == wanted)
        return next(found, None)

    def table(self, trial: str) -> Path:
        return self.directory.trial(trial) / "examples.parquet"

    def by_example(self, values: Mapping[int, float], kind: str, trial: str) -> dict[str, float]:
        """Return values of a trial by the line of the frozen example.

        ``values`` are by the place of the example in the trial.
        """
        numbers = TrialSpec.read(self.directory.trial(trial) / SPEC_FILE).example_numbers
        path = self.directory.examples_of(kind)
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: the run's examples cannot be read ({error}); restore the file from a copy"
            ) from error
        at = {place: place if numbers is None else numbers[place] for place in values}
        return {lines[at[p]]: value for p, value in values.items() if at[p] < len(lines)}

    def scores(self, kind: str) -> dict[str, float] | None:
        """Return the allocation's scores by example; None without a trial or table."""
        row = self.trial(kind)
        if row is None or not self.table(row["trial"]).exists():
            return None
        scores = example_scores(self.table(row["trial"]), self.metric)
        return None if scores is None else self.by_example(scores, kind, row["trial"])


def compare_runs(
    first: RunDirectory, second: RunDirectory, of: Of = "recommended"
) -> dict[str, Any]:
    """Return the document of a comparison (`CompareDocument`).

    Args:
        first: The run that is compared.
        second: The run that it is compared with.
        of: The allocation of each run. A run without a scored recommended allocation is compared by
            its best one, with a warning.

    Raises:
        UserError: The runs have different tasks or metrics, or one has no trial with scores by
            example.
    """
    warnings: list[str] = []
    sides = [_side(run, of, warnings) for run in (first, second)]
    one, two = sides
    settings = list(_differences(one.report.settings, two.report.settings))
    _check(one, two, warnings)
    kind, scores = _common_kind(one, two)
    score = compare(*scores)
    assert score is not None  # neither side is empty
    warnings += _limits(score, scores, kind)
    rows = [side.trial(kind) or {} for side in sides]
    taken = [
        side.by_example(example_tokens(side.table(row["trial"])), kind, row["trial"])
        for side, row in zip(sides, rows, strict=True)
    ]
    tokens = compare(*taken)
    same = [dict(c) for c in one.allocation] == [dict(c) for c in two.allocation]
    return printed(
        CompareDocument,
        {
            "metric": one.metric,
            "kind": kind,
            "same_allocation": same,
            "first": _side_document(one, rows[0], len(taken[0])),
            "second": _side_document(two, rows[1], len(taken[1])),
            "score": asdict(score),
            # Fewer tokens are better.
            "tokens": tokens and asdict(replace(tokens, verdict=_OPPOSITE[tokens.verdict])),
            "settings": settings,
            "warnings": warnings,
        },
    )


def _side(run: RunDirectory, of: Of, warnings: list[str]) -> _Side:
    report = report_of([run]).runs[0]
    record = run.record()
    metric = record.main_metric or main_metric(report.trials)
    if report.best is None or metric is None:
        raise UserError(
            f"run '{run.name}' has no trial with a score yet; see 'agenttts-hpc status {run.path}'"
        )
    if report.outcome is None:
        warnings.append(f"run '{run.name}' is not over; its allocation may still change")
    recommended = report.recommended
    if of == "recommended" and recommended is not None and report.recommended_trial is not None:
        return _Side(run, record, report, "recommended", recommended, metric)
    if of == "recommended":
        warnings.append(
            f"run '{run.name}' has no recommended allocation with a score, so its best measured "
            "one is compared"
        )
    return _Side(run, record, report, "best", report.best["allocation"], metric)


def _check(one: _Side, two: _Side, warnings: list[str]) -> None:
    """Check that the runs measure the same, and warn where what they use differs."""
    tasks = [side.directory.spec().task.name for side in (one, two)]
    names = [side.directory.name for side in (one, two)]
    if tasks[0] != tasks[1]:
        raise UserError(
            f"run '{names[0]}' is of the task '{tasks[0]}' and run '{names[1]}' of '{tasks[1]}'; "
            "their scores are not comparable: give two runs of one task"
        )
    if one.metric != two.metric:
        raise UserError(
            f"the score of run '{names[0]}' is {one.metric} and that of run '{names[1]}' is "
            f"{two.metric}; give two runs with the same metric"
        )
    models = [side.record.models for side in (one, two)]
    changed = [n for n in models[0] if n in models[1] and models[0][n] != models[1][n]]
    if changed:
        warnings.append(
            f"the runs have other files or options for the same models: {', '.join(changed)}"
        )
    alone = [n for n in {**models[0], **models[1]} if (n in models[0]) != (n in models[1])]
    if alone:
        warnings.append(f"only one of the runs has these models: {', '.join(alone)}")


def _common_kind(one: _Side, two: _Side) -> tuple[str, tuple[dict[str, float], dict[str, float]]]:
    """Return the first kind of trials with scores on both sides, and the scores."""
    for kind in _KINDS:
        first, second = one.scores(kind), two.scores(kind)
        if first is not None and second is not None:
            return kind, (first, second)
    without = [
        side for side in (one, two) if all(side.scores(kind) is None for kind in _KINDS)
    ] or [two]
    raise UserError(
        f"run '{without[0].directory.name}' has no scores by example of its {without[0].of} "
        "allocation that can be compared; restore trials/ID/examples.parquet from a copy, or "
        "compare with --of best"
    )


def _limits(
    score: Difference, scores: tuple[Mapping[str, float], Mapping[str, float]], kind: str
) -> Iterator[str]:
    first, second = scores
    if not score.paired:
        common = sum(example in second for example in first)
        yield (
            f"the runs have {common} common examples (of {len(first)} and {len(second)}), so "
            "their means are compared, not example by example"
        )
    elif score.examples < max(len(first), len(second)):
        yield (
            f"only the {score.examples} common examples are compared (of {len(first)} and "
            f"{len(second)})"
        )
    if kind == "search":
        yield (
            "the scores are of examples that the runs chose their allocations on, and such scores "
            "are too high on average; a final test on held-out examples has no such bias"
        )


def _side_document(side: _Side, row: Mapping[str, Any], examples: int) -> dict[str, Any]:
    tokens = row["prompt_tokens"] + row["decode_tokens"]
    totals, cost = side.report.totals, side.report.cost
    return {
        "run": side.directory.name,
        "path": str(side.directory.path),
        "finished": side.report.outcome is not None,
        "of": side.of,
        "allocation": [dict(choice) for choice in side.allocation],
        "trial": row["trial"],
        "examples": examples,
        "budget": row["budget"],
        "tokens_per_example": tokens / examples,
        "gpu_seconds_per_example": (row["gpu_seconds"] or 0.0) / examples,
        "reused_share": row["reused_tokens"] / tokens if tokens else None,
        "run_gpu_hours": totals["gpu_hours"] if cost is None else cost.gpu_seconds.used / 3600,
        "run_tokens": (
            totals["tokens"] - totals["reused_tokens"] if cost is None else cost.tokens_computed
        ),
        "run_trials": totals["trials"],
    }


def _differences(
    first: Mapping[str, Any], second: Mapping[str, Any], keys: tuple[str, ...] = ()
) -> Iterator[dict[str, Any]]:
    """Yield the settings in which two specs differ; the name of the run is not one."""
    for key in {**first, **second}:
        one, two = first.get(key), second.get(key)
        if one == two or (not keys and key == "name"):
            continue
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            yield from _differences(one, two, (*keys, key))
        else:
            yield {"key": ".".join(map(str, (*keys, key))), "first": one, "second": two}
