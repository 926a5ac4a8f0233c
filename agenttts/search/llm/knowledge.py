"""Finished searches as experience for a new one (MLCopilot).

Their tables are written as text, the most similar search first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from agenttts.errors import UserError, located
from agenttts.search.llm.prompts import choices_text, fixed_text
from agenttts.space import Allocation, Choice, SearchSpace
from agenttts.tables.aggregate import scored
from agenttts.tables.cells import count_in, number_in, score_in
from agenttts.tables.recorded_results import holds_parquet, of_report, read_results, stages_in
from agenttts.tables.schema import AFTER_SEARCH, read_trials

TRIALS_FILE = "trials.parquet"
"""The table in a run's directory."""
_MOST_PAST = 3
_BEST, _POOR = 6, 3

Point = tuple[Allocation, float, float | None]
"""An allocation, its score and its budget (None if it was not recorded)."""


@dataclass(frozen=True)
class Experience:
    """One finished search: its trials with a score, best first."""

    title: str
    points: tuple[Point, ...]

    def shown(self, lines: int) -> dict[str, Any]:
        """Return title and lines for a prompt, at most ``lines``.

        The lines are the best trials of the search and some of the worst.
        """
        best, poor = self.points[:_BEST], self.points[_BEST:][-_POOR:]
        kept = [*best, *poor][:lines]
        return {"title": self.title, "lines": [_line(point) for point in kept]}


def load_experience(sources: Sequence[str]) -> list[Experience]:
    """Return the searches in ``sources``.

    A source is a run's directory, a table of trials or a replay table (Parquet or CSV).

    Raises:
        UserError: A source is missing, damaged or without a score; the message names it.
    """
    found = []
    for number, source in enumerate(sources):
        with located(number):
            found.append(_load(source))
    return found


def most_similar(experience: Sequence[Experience], space: SearchSpace) -> list[Experience]:
    """Return the few searches that are most similar to ``space``.

    The similarity is the share of stage names, then of model names, that they have in common.
    """
    stages = {stage.name for stage in space.stages}
    models = {model.name for stage in space.stages for model in stage.models}

    def likeness(past: Experience) -> tuple[float, float]:
        choices = [choice for allocation, _, _ in past.points for choice in allocation.choices]
        return (
            _overlap({choice.stage for choice in choices}, stages),
            _overlap({choice.model for choice in choices}, models),
        )

    return sorted(experience, key=likeness, reverse=True)[:_MOST_PAST]


def table_of(source: str) -> Path:
    """Return the table of a source: that of a run's directory, or the file itself."""
    path = Path(source).expanduser()
    return path / TRIALS_FILE if path.is_dir() else path


def _load(source: str) -> Experience:
    table = table_of(source)
    if not table.is_file():
        raise UserError(f"{source} is neither a finished run nor a table of results", at=())
    title = table.parent.name if table.name == TRIALS_FILE else table.stem
    points = _trial_points(table) if _is_trials(table) else _replay_points(table)
    if not points:
        raise UserError(f"{table} has no trial with a score", at=())
    return Experience(title, tuple(sorted(points, key=lambda point: -point[1])))


def _is_trials(table: Path) -> bool:
    try:
        return holds_parquet(table) and "allocation" in pl.read_parquet_schema(table)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{table}: the table cannot be read: {error}", at=()) from None


def _trial_points(table: Path) -> list[Point]:
    return [
        (Allocation.from_records(row["allocation"]), row["score"], row["budget"])
        for row in scored(read_trials(table)).iter_rows(named=True)
    ]


def _replay_points(table: Path) -> list[Point]:
    frame = read_results(table)
    stages = [c.removesuffix(".model") for c in frame.columns if c.endswith(".model")]
    needed = [f"{stage}.samples" for stage in stages] + ["score"]
    missing = [name for name in needed if name not in frame.columns]
    if not stages or missing:
        lacking = f"; missing: {', '.join(missing)}" if missing else ""
        raise UserError(
            f"{table}: not a replay table; "
            f"it needs STAGE.model and STAGE.samples for every stage, and score{lacking}",
            at=(),
        )
    points: list[Point] = []
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        if row.get("source") in AFTER_SEARCH:
            continue
        # A table that `report` wrote of several runs has the stages of all of them.
        own = stages_in(frame.columns, row) if of_report(frame.columns) else stages
        choices = tuple(
            Choice(
                stage, str(row[f"{stage}.model"]), count_in(table, number, f"{stage}.samples", row)
            )
            for stage in own
        )
        score = score_in(table, number, row)
        if score is not None:
            points.append((Allocation(choices), score, number_in(row.get("budget"))))
    return points


def _line(point: Point) -> str:
    allocation, score, budget = point
    cost = "" if budget is None else f", cost {budget:.0f}"
    return f"{choices_text(allocation)}: score {fixed_text(score, 4)}{cost}"


def _overlap(first: set[str], second: set[str]) -> float:
    return len(first & second) / max(1, len(first | second))
