"""Tables of recorded results, and how a replay looks them up."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from agenttts.errors import UserError, valid_names
from agenttts.search.archive import STORED
from agenttts.search.base import TrialResult
from agenttts.search.stored import stored_trials
from agenttts.space import Allocation, SearchSpace
from agenttts.tables.aggregate import main_metric
from agenttts.tables.cells import count_in, number_in, score_in
from agenttts.tables.example_scores import example_ids, example_scores
from agenttts.tables.recorded_results import of_report, read_results, stages_in
from agenttts.tables.schema import (
    AFTER_SEARCH,
    OWN_FAULTS,
    TrialState,
    read_trials,
    trials_schema,
)
from agenttts.tables.stored_results import STORED_FILE, StoredResult, read_stored

log = logging.getLogger(__name__)

# Prefix of the columns in which `report` writes the standard error of each metric.
_METRIC_ERROR = "metrics_stderr."


@dataclass(frozen=True)
class Recorded:
    """What a table says of one combination of models and sample counts (a point).

    The fields are those of `TrialResult`.

    If ``score`` is None, it is a failure. ``blamed`` says whether the allocation was the cause.
    """

    score: float | None
    metrics: Mapping[str, float]
    stderr: float | None = None
    blamed: bool = True
    examples: tuple[float, ...] | None = None
    metrics_stderr: Mapping[str, float] = field(default_factory=dict)


_Point = tuple[tuple[str, ...], tuple[int, ...]]
"""The models and the sample counts of an allocation, in the order of the stages."""


@dataclass(frozen=True)
class _Row:
    """A row of a table: its number, models and sample counts, and its result."""

    number: int
    models: tuple[str, ...]
    counts: tuple[int, ...]
    recorded: Recorded
    stored: Sequence[StoredResult] = ()
    examples: tuple[str, ...] = ()
    """The ids of the examples that it is on; empty: not known."""
    example_count: int | None = None
    """Their number; None: not known."""


class RecordedTable:
    """Recorded results, by the models and sample counts of their allocations.

    A *point* is the models and the sample counts of an allocation. The points with equal models are
    a *grid*. An *outside failure* is a failure that the allocation did not cause, e.g. of a node.

    Args:
        points: The results: for each combination of models, a mapping by sample counts.
        of_run: Whether the table is a run's ``trials.parquet``.
        stored: For each point, the scores that the same models would have with fewer samples,
            computed from the samples that the run stored.
    """

    def __init__(
        self,
        points: Mapping[tuple[str, ...], Mapping[tuple[int, ...], Recorded]],
        *,
        of_run: bool = False,
        stored: Mapping[_Point, Sequence[StoredResult]] | None = None,
    ) -> None:
        self._of_run = of_run
        self._stored = stored or {}
        self._points: dict[tuple[str, ...], dict[tuple[int, ...], Recorded]] = {}
        self._outside_failures: set[_Point] = set()
        for models, grid in points.items():
            for counts, recorded in grid.items():
                if recorded.score is None and not recorded.blamed:
                    self._outside_failures.add((models, counts))
                else:
                    self._points.setdefault(models, {})[counts] = recorded
        self._grids = {
            models: [sorted(set(axis)) for axis in zip(*grid, strict=True)]
            for models, grid in self._points.items()
        }

    def has(self, models: tuple[str, ...], samples: tuple[int, ...]) -> bool:
        """Return whether a result of this very allocation is recorded."""
        point = (models, samples)
        return samples in self._points.get(models, ()) or point in self._outside_failures

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the table's results and of those in the trials' directories."""
        results = [
            *((models, sorted(self._points[models].items())) for models in sorted(self._points)),
            sorted(self._outside_failures),
            sorted((point, tuple(stored)) for point, stored in self._stored.items()),
            self._of_run,
        ]
        return hashlib.sha256(repr(results).encode(errors="surrogatepass")).hexdigest()

    @cached_property
    def example_count(self) -> int | None:
        """The smallest number of examples of any scored point.

        None if a scored point has no scores by example, or if no point has a score.
        """
        counts = {
            len(recorded.examples) if recorded.examples else 0
            for grid in self._points.values()
            for recorded in grid.values()
            if recorded.score is not None
        }
        return min(counts, default=0) or None

    def within(self, space: SearchSpace) -> SearchSpace:
        """Return the space with only the recorded sample counts.

        For another count, the table could only repeat the result of the nearest recorded count. A
        searcher would take this for new information.

        The space is returned unchanged in these cases: the table is a run's, no point has a
        score, a scored point has no scores by example, a stage would have no count, or no
        allocation would fit the budget.
        """
        if self.example_count is None or self._of_run:
            return space
        recorded = [
            {counts[i] for grid in self._points.values() for counts in grid}
            for i in range(len(space.stages))
        ]
        kept = [
            tuple(count for count in stage.samples if count in counts)
            for stage, counts in zip(space.stages, recorded, strict=True)
        ]
        if not all(kept):
            return space
        stages = (
            replace(stage, samples=counts) for stage, counts in zip(space.stages, kept, strict=True)
        )
        try:
            return SearchSpace(tuple(stages), space.budget)
        except UserError:  # the least counts that were recorded cost more than the budget
            return space

    def stored(
        self, space: SearchSpace, result: TrialResult, *, of_grid: bool
    ) -> list[TrialResult]:
        """Return what a trial's models would have scored with fewer samples.

        These are the stored results of a run and, with ``of_grid``, the recorded scores with fewer
        samples in the last stage. They are on the same examples as the trial's result.

        Args:
            space: The search space.
            result: The result of the trial.
            of_grid: Whether to return recorded scores too.
        """
        if result.failed:
            return []
        models = tuple(choice.model for choice in result.allocation.choices)
        *leading, last = result.allocation.choices
        counts = (*(choice.samples for choice in leading), last.samples)
        told = self._stored_of_run(space, result, (models, counts))
        if not of_grid or result.examples is None:
            return told
        smaller = sorted(
            point[-1]
            for point, recorded in self._points.get(models, {}).items()
            if recorded.score is not None and point[:-1] == counts[:-1] and point[-1] < last.samples
        )
        allocations = (Allocation((*leading, replace(last, samples=count))) for count in smaller)
        known = {trial.allocation for trial in told}
        return told + [
            self.trial(space, allocation, STORED, examples=tuple(result.examples))
            for allocation in allocations
            if allocation in space and allocation not in known
        ]

    def _stored_of_run(
        self, space: SearchSpace, result: TrialResult, point: _Point
    ) -> list[TrialResult]:
        """Return the stored results of a run's trial, on the examples of ``result``."""
        stored = self._stored.get(point, ())
        if result.examples is None:
            return stored_trials(result, stored, space)
        told: list[TrialResult] = []
        for one in stored:
            if len(result.examples) == len(one.examples):
                told += stored_trials(result, [one], space)
            elif (part := _on_part(one, tuple(result.examples))) is not None:
                told += stored_trials(result, [part], space, tuple(result.examples))
        return told

    def trial(
        self,
        space: SearchSpace,
        allocation: Allocation,
        source: str = "",
        *,
        again: bool = False,
        examples: Sequence[int] | None = None,
    ) -> TrialResult:
        """Return the recorded result that is nearest to an allocation.

        It is the result of a point with the same models. In each stage, the allocation's sample
        count is replaced by the nearest one in the grid (of two equally near, by the lower). If the
        grid lacks that point, the point with the least sum of distances is used. If no row has
        these models, the result is a failure. If all rows with these models are outside failures,
        so is the result: the table does not know whether the allocation is good.

        Args:
            space: The search space.
            allocation: The allocation.
            source: The source of the proposal.
            again: Whether the allocation was proposed before. If not, and its point is an outside
                failure, this failure is returned.
            examples: The examples to score it on; None: all. If they are fewer than all, the result
                has no metrics. A point without scores by example is not affected.
        """
        models = tuple(choice.model for choice in allocation.choices)
        wanted = tuple(choice.samples for choice in allocation.choices)
        cost = space.cost(allocation)
        if not again and (models, wanted) in self._outside_failures:
            return TrialResult(allocation, None, {}, cost, source, blamed=False)
        if models not in self._points:
            unknown = any(models == failed for failed, _ in self._outside_failures)
            return TrialResult(allocation, None, {}, cost, source, blamed=not unknown)
        grid = self._points[models]
        point = tuple(
            min(axis, key=lambda recorded, count=count: (abs(recorded - count), recorded))  # type: ignore[misc]
            for axis, count in zip(self._grids[models], wanted, strict=True)
        )
        if point not in grid:
            point = min(grid, key=lambda recorded: (_distance(recorded, wanted), recorded))
        found = grid[point]
        scores = None if found.examples is None else dict(enumerate(found.examples))
        if examples is not None and scores is not None and len(set(examples)) < len(scores):
            part = {example: scores[example] for example in examples}
            return TrialResult(allocation, fmean(part.values()), {}, cost, source, examples=part)
        return TrialResult(
            allocation,
            found.score,
            found.metrics,
            cost,
            source,
            stderr=found.stderr,
            examples=scores,
            metrics_stderr=found.metrics_stderr,
        )


def load_table(path: Path | str, space: SearchSpace) -> RecordedTable:
    """Read a replay table.

    The columns of a replay table are:

    - ``STAGE.model`` and ``STAGE.samples``, for every stage
    - ``score``; an empty score is a failure
    - ``stderr`` or ``score_stderr``, optional: the standard error of the score
    - ``examples``, optional: the list of scores by example, in CSV as JSON. The order of the
      examples is the same in all rows. ``score`` may then be left out; it is their mean.
    - metrics: all other columns with numbers; a value that is empty, NaN or infinite is not known

    Rows of the same point are averaged. Rows with a model that the space does not list for its
    stage are left out, with a warning. So are rows of runs with other stages, in a table that
    `report` wrote of several runs.

    Two other tables are valid: a run's ``trials.parquet`` and a table that `report` wrote. For a
    run, scores by example and stored results are also read, from the trials' directories that are
    still there. In both, finalists and final tests are left out, because they are scored on other
    examples. If the other trials are not all on the same examples, only the trial
    on the most examples is kept for each allocation, with a warning.

    Raises:
        UserError: The table is not valid. The message has the file and, where they apply, the
            column, the row (from 1) and the valid values.
    """
    path = Path(path)
    frame = _read(path)
    nested = isinstance(frame.schema.get("allocation"), pl.List)
    rows = list(_trials(path, space) if nested else _flat_rows(path, frame, space))
    rows = _comparable(path, rows)
    if not rows:
        only = ", only finalists and final tests, which are left out" if frame.height else ""
        raise UserError(f"{path}: the table has no rows{only}")
    points: dict[tuple[str, ...], dict[tuple[int, ...], list[Recorded]]] = {}
    for row in _rows_in_space(path, space, rows):
        points.setdefault(row.models, {}).setdefault(row.counts, []).append(row.recorded)
    return RecordedTable(
        {
            models: {counts: _merge(same) for counts, same in grid.items()}
            for models, grid in points.items()
        },
        of_run=nested,
        stored={(row.models, row.counts): row.stored for row in rows if row.stored},
    )


def _read(path: Path) -> pl.DataFrame:
    if path.is_dir():
        raise UserError(
            f"{path} is a directory; valid: a Parquet or CSV table. If this is a run's directory: "
            f"{path / 'trials.parquet'}"
        )
    if not path.is_file():
        raise UserError(
            f"{path}: the file does not exist; valid: a Parquet or CSV table of recorded results"
        )
    return read_results(path)


def _trials(path: Path, space: SearchSpace) -> Iterator[_Row]:
    """Yield the rows of a run's table of trials."""
    stages = [stage.name for stage in space.stages]
    trials = read_trials(path)
    metric = main_metric(trials)
    for number, trial in enumerate(trials.iter_rows(named=True), start=1):
        if trial["source"] in AFTER_SEARCH:
            continue
        choices = trial["allocation"] or []
        found = [choice["stage"] for choice in choices]
        if sorted(found) != sorted(stages):
            raise UserError(
                f"{path}: row {number}: the stages of the trial "
                f"are {', '.join(found) or '(none)'}, but the stages of the spec "
                f"are {', '.join(stages)}"
            )
        cells = {
            f"{choice['stage']}.{part}": choice[part]
            for choice in choices
            for part in ("model", "samples")
        }
        models, counts = _point(path, number, space, cells)
        metrics = _finite(trial["metrics"] or {})
        error = _stderr(path, number, trial, "score_stderr")
        score = score_in(path, number, trial)
        recorded = _recorded(trial["state"], score, error, metrics)
        recorded = replace(recorded, metrics_stderr=_finite(trial["metrics_stderr"] or {}))
        directory = path.parent / "trials" / trial["trial"]
        examples = directory / "examples.parquet"
        ids: tuple[str, ...] = ()
        if metric is not None and recorded.score is not None and examples.is_file():
            ids = example_ids(examples)
            scores = example_scores(examples, metric) or {}
            if len(scores) == trial["examples"]:  # every example has a score
                recorded = replace(recorded, examples=tuple(scores.values()))
        stored = read_stored(directory / STORED_FILE) if recorded.score is not None else ()
        yield _Row(number, models, counts, recorded, stored, ids, trial["examples"])


def _comparable(path: Path, rows: list[_Row]) -> list[_Row]:
    """Return the rows that a searcher may compare.

    If the trials are not all on the same examples, only the trial on the most examples is kept for
    each allocation. The scores by example and the stored results of the kept trials are dropped.
    """
    examples = {row.examples for row in rows if row.examples}
    example_counts = {row.example_count for row in rows if row.example_count}
    if len(examples) < 2 and len(example_counts) < 2:
        return rows
    log.warning(
        "%s: its trials are on different parts of the examples; for each allocation, the score on "
        "the most examples is used, without the scores by example",
        path,
    )
    by_count = sorted(rows, key=lambda row: row.example_count or len(row.examples))
    widest = {(row.models, row.counts): row for row in by_count}
    return [
        replace(row, recorded=replace(row.recorded, examples=None), stored=())
        for row in rows
        if row is widest[row.models, row.counts]
    ]


def _flat_rows(path: Path, frame: pl.DataFrame, space: SearchSpace) -> Iterator[_Row]:
    """Yield the rows of a replay table, or of a table that `report` wrote."""
    keys = [f"{stage.name}.{part}" for stage in space.stages for part in ("model", "samples")]
    exported = of_report(frame.columns)
    # In a table that `report` wrote, the column ``examples`` is the number of examples.
    by_example = "examples" in frame.columns and not (
        exported and frame["examples"].dtype.is_integer()
    )
    needed = keys if by_example else [*keys, "score"]
    for column in needed:
        if column not in frame.columns:
            raise UserError(
                f"{path}: column '{column}' is missing; needed: {', '.join(needed)}; "
                f"the file has: {', '.join(frame.columns)}"
            )
    metrics = _metric_columns(frame, keys, exported=exported)
    error_columns = {
        column: column.removeprefix(_METRIC_ERROR)
        for column in frame.columns
        if exported and column.startswith(_METRIC_ERROR)
    }
    error_column = "stderr" if "stderr" in frame.columns else "score_stderr"
    own = {stage.name for stage in space.stages}
    others: list[list[str]] = []
    searched = 0
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        if row.get("source") in AFTER_SEARCH:
            continue
        searched += 1
        if exported and {*(stages := stages_in(frame.columns, row))} != own:
            others.append(stages)
            continue
        models, counts = _point(path, number, space, row)
        found = _finite({name: row[column] for column, name in metrics.items()})
        error = _stderr(path, number, row, error_column)
        state = row["state"] if exported else TrialState.COMPLETED
        scores = _examples(path, number, row["examples"]) if by_example else None
        score = score_in(path, number, row)
        if score is None and scores is not None:
            score = fmean(scores)
        recorded = _recorded(state, score, error, found)
        if recorded.score is not None:
            errors = {name: _stderr(path, number, row, c) for c, name in error_columns.items()}
            known = {name: value for name, value in errors.items() if value is not None}
            recorded = replace(recorded, examples=scores, metrics_stderr=known)
        count = row.get("examples") if exported and not by_example else None
        yield _Row(number, models, counts, recorded, example_count=count)
    if others:
        wanted = ", ".join(stage.name for stage in space.stages)
        theirs = " or ".join(dict.fromkeys(", ".join(stages) or "(none)" for stages in others))
        if len(others) == searched:
            raise UserError(
                f"{path}: every row is of a run with the stages {theirs}, but the stages of the "
                f"spec are {wanted}; give --space a spec with the stages of one of these runs"
            )
        log.warning(
            "%s: %d of %d rows are left out: the stages of their runs are %s, not those of the "
            "spec (%s)",
            path,
            len(others),
            frame.height,
            theirs,
            wanted,
        )


def _finite(metrics: Mapping[str, object]) -> dict[str, float]:
    """Return the metrics of a row that are finite numbers; the others are not known."""
    numbers = {name: number_in(value) for name, value in metrics.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _examples(path: Path, number: int, cell: object) -> tuple[float, ...] | None:
    """Return the scores by example in a cell; None if it is empty."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except json.JSONDecodeError:
            cell = [None]
    if cell is None or cell == []:
        return None
    values = [number_in(value) for value in cell] if isinstance(cell, list) else [None]
    if any(value is None for value in values):
        raise UserError(
            f"{path}: row {number}: column 'examples' is not a list of finite numbers; valid: "
            "the scores by example, as many as in every other row"
        )
    return tuple(value for value in values if value is not None)


def _metric_columns(frame: pl.DataFrame, keys: Sequence[str], *, exported: bool) -> dict[str, str]:
    """Return the columns of metrics, and the name of each metric."""
    others = {*keys, "score", "stderr", "score_stderr", "examples"}
    if exported:
        others |= {*trials_schema([])}
    return {
        column: column.removeprefix("metrics.") if exported else column
        for column in frame.columns
        if column not in others
        and frame[column].dtype.is_numeric()
        and not (exported and column.startswith(("cut_share.", "seconds.", _METRIC_ERROR)))
    }


def _point(
    path: Path, number: int, space: SearchSpace, row: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    models = tuple(str(row[f"{stage.name}.model"]) for stage in space.stages)
    counts = tuple(count_in(path, number, f"{stage.name}.samples", row) for stage in space.stages)
    return models, counts


def _recorded(
    state: str, score: float | None, stderr: float | None, metrics: Mapping[str, float]
) -> Recorded:
    """Return the result in a row; if the trial did not complete, it is a failure."""
    if state != TrialState.COMPLETED:
        return Recorded(None, {}, blamed=state in OWN_FAULTS)
    if score is None:
        return Recorded(None, {})
    return Recorded(score, metrics, stderr)


def _rows_in_space(path: Path, space: SearchSpace, rows: Sequence[_Row]) -> list[_Row]:
    """Return the rows whose models are in the space.

    Raises:
        UserError: There is no such row, or the lists of scores by example differ in length.
    """
    names = [[model.name for model in stage.models] for stage in space.stages]
    kept = [row for row in rows if all(map(list.__contains__, names, row.models))]
    if not kept:
        row = rows[0]
        for stage, known, model in zip(space.stages, names, row.models, strict=True):
            if model not in known:
                raise UserError(
                    f"{path}: row {row.number}: column '{stage.name}.model' is '{model}'; "
                    f"{valid_names(model, known)} (every row has a model that the spec does not "
                    "list for its stage)"
                )
        raise UserError(f"{path}: every row has a model that the spec does not list for its stage")
    if len(kept) < len(rows):
        others = {
            m for row in rows for m, known in zip(row.models, names, strict=True) if m not in known
        }
        log.warning(
            "%s: %d of %d rows are left out: the spec does not list their models for the stage "
            "(%s)",
            path,
            len(rows) - len(kept),
            len(rows),
            ", ".join(sorted(others)),
        )
    lengths: dict[int, int] = {}
    for row in kept:
        if row.recorded.examples:
            lengths.setdefault(len(row.recorded.examples), row.number)
    if len(lengths) > 1:
        (one, first), (other, second), *_ = lengths.items()
        raise UserError(
            f"{path}: column 'examples' has {one} scores in row {first} and {other} in row "
            f"{second}; valid: the scores of the same examples, in one order, in every row"
        )
    return kept


def _stderr(path: Path, number: int, row: Mapping[str, Any], column: str) -> float | None:
    if row.get(column) is None:
        return None
    value = number_in(row[column])
    if value is None or value < 0:
        raise UserError(
            f"{path}: row {number}: column '{column}' is '{row[column]}'; "
            "valid: finite numbers from 0, or empty if it is not known"
        )
    return value


def _merge(same: Sequence[Recorded]) -> Recorded:
    """Merge the rows of one point: return the means over the rows with a score."""
    scored = [recorded for recorded in same if recorded.score is not None]
    if not scored:
        return Recorded(None, {}, blamed=any(recorded.blamed for recorded in same))
    if len(scored) == 1:
        return scored[0]
    values: dict[str, list[float]] = {}
    metric_errors: dict[str, list[float]] = {}
    for recorded in scored:
        for name, value in recorded.metrics.items():
            values.setdefault(name, []).append(value)
        for name, error in recorded.metrics_stderr.items():
            metric_errors.setdefault(name, []).append(error)
    errors = [recorded.stderr for recorded in scored if recorded.stderr is not None]
    lists = [recorded.examples for recorded in scored if recorded.examples is not None]
    return Recorded(
        fmean(recorded.score for recorded in scored if recorded.score is not None),
        {name: fmean(found) for name, found in values.items()},
        # The standard error of a mean of independent scores.
        math.hypot(*errors) / len(errors) if len(errors) == len(scored) else None,
        examples=tuple(map(fmean, zip(*lists, strict=True))) if len(lists) == len(scored) else None,
        metrics_stderr={
            name: math.hypot(*found) / len(found)
            for name, found in metric_errors.items()
            if len(found) == len(values.get(name, ()))
        },
    )


def _on_part(stored: StoredResult, part: Sequence[int]) -> StoredResult | None:
    """Return a stored result on a part of its examples, without metrics.

    ``part`` has the numbers of the examples. The result is None if none of them has a score.
    """
    scores = tuple(stored.examples[number] for number in part)
    known = [score for score in scores if score is not None and math.isfinite(score)]
    if not known:
        return None
    return StoredResult(stored.samples, fmean(known), None, {}, scores)


def _distance(recorded: tuple[int, ...], wanted: tuple[int, ...]) -> int:
    return sum(abs(a - b) for a, b in zip(recorded, wanted, strict=True))
