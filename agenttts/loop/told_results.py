"""What the searcher is told of a trial: its row, and its scores by example."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from agenttts.errors import UserError
from agenttts.files.trouble import passing_trouble
from agenttts.run.journal import TrialProgress
from agenttts.run.rows import row_from_json
from agenttts.search.base import TrialResult
from agenttts.tables.example_scores import example_scores
from agenttts.tables.schema import OWN_FAULTS, TrialState
from agenttts.trial.result import EXAMPLES_FILE

log = logging.getLogger(__name__)


def told_result(progress: TrialProgress, directory: Path, main_metric: str) -> TrialResult:
    """Return what the searcher is told of a trial that has ended.

    Args:
        progress: The trial, with its row.
        directory: The trial's directory.
        main_metric: The metric that is the score, ``STAGE.METRIC``; empty if it is not known.

    Raises:
        OSError: The file system is in trouble that may pass.
        UserError: As above.
    """
    assert progress.row is not None
    row = row_from_json(progress.row)
    completed = row.state is TrialState.COMPLETED
    return TrialResult(
        allocation=progress.planned.allocation,
        score=row.score,
        metrics={name: value for name, value in row.metrics.items() if value is not None},
        cost=row.budget,
        source=row.source,
        stderr=row.score_stderr,
        blamed=completed or row.state in OWN_FAULTS,
        examples=_example_scores(directory, main_metric) if completed else None,
    )


def _example_scores(directory: Path, main_metric: str) -> Mapping[int, float] | None:
    """Return a trial's scores by example; None if they are not known."""
    if not main_metric:
        return None
    try:
        return example_scores(directory / EXAMPLES_FILE, main_metric)
    except (OSError, UserError) as error:
        if passing_trouble(error):
            raise
        log.warning("the search goes on without the scores by example of a trial: %s", error)
        return None
