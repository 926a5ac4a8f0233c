"""One side of a comparison: an allocation of a run, with its scores by example."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agenttts.errors import UserError
from agenttts.report.summary import RunReport
from agenttts.run.directory import RunDirectory
from agenttts.run.record import RunRecord
from agenttts.spec.allocations import read_allocations
from agenttts.tables.aggregate import scored
from agenttts.tables.difference import Difference, Verdict, compare
from agenttts.tables.example_scores import example_scores
from agenttts.tables.example_tokens import example_tokens
from agenttts.tables.schema import FINALIST_SOURCE, TEST_SOURCE, TrialState
from agenttts.trial.spec import SPEC_FILE, TrialSpec

Of = Literal["recommended", "best", "baseline"]

# The kinds of trials, those on the most telling examples first: held-out ones are new to the
# search, and finalists have more of them.
KINDS = (TEST_SOURCE, FINALIST_SOURCE, "search")
_OPPOSITE: Mapping[Verdict, Verdict] = {
    "better": "worse",
    "worse": "better",
    "not to be told": "not to be told",
}


@dataclass(frozen=True)
class Side:
    """An allocation of a run.

    Attributes:
        directory: The run.
        record: What it was launched with.
        report: Its report.
        of: What the allocation is.
        allocation: The allocation, as records.
        metric: The metric that is the score.
    """

    directory: RunDirectory
    record: RunRecord
    report: RunReport
    of: Of
    allocation: Sequence[Mapping[str, Any]]
    metric: str

    def trial(self, kind: str) -> dict[str, Any] | None:
        """Return the row of the trial of a kind that evaluated the allocation.

        If there are several, it is the one on the most examples. Closing trials before an extension
        of the search do not count.
        """
        rows = {
            TEST_SOURCE: self.report.tests,
            FINALIST_SOURCE: self.report.finalists,
            "search": scored(self.report.trials).to_dicts(),
        }[kind]
        wanted = [dict(choice) for choice in self.allocation]
        widest = sorted(rows, key=lambda row: -(row["examples"] or 0))
        found = (r for r in widest if r["allocation"] == wanted and _has_score(r))
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

    def tokens(self, kind: str, trial: str) -> dict[str, float]:
        """Return the tokens of a trial by the line of the frozen example."""
        return self.by_example(example_tokens(self.table(trial)), kind, trial)


def _has_score(row: Mapping[str, Any]) -> bool:
    score = row["score"]
    completed = row["state"] == TrialState.COMPLETED.value
    return completed and score is not None and math.isfinite(score)


def compare_tokens(first: Mapping[str, float], second: Mapping[str, float]) -> Difference | None:
    """Return the difference of two sides' tokens by example; fewer are better."""
    found = compare(first, second)
    return found and replace(found, verdict=_OPPOSITE[found.verdict])


def baseline_of(run: RunDirectory) -> Sequence[Mapping[str, Any]] | None:
    """Return the baseline of a run as records; None without one."""
    spec = run.spec()
    if spec.search.baseline is None:
        return None
    return read_allocations(spec.search.first, spec.space())[spec.search.baseline].to_records()


def side_document(side: Side, row: Mapping[str, Any], examples: int) -> dict[str, Any]:
    """Return a side as `agenttts.loop.compare_document.SideDocument`.

    Args:
        side: The side.
        row: The row of its trial.
        examples: Number of examples of that trial.
    """
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
        "run_gpu_hours": side.report.gpu_hours,
        "run_tokens": (
            totals["tokens"] - totals["reused_tokens"] if cost is None else cost.tokens_computed
        ),
        "run_trials": totals["trials"],
    }
