"""What the searcher is told of a trial: row, scores by example, stored results."""

from __future__ import annotations

from pathlib import Path

from agenttts.run.progress import TrialProgress
from agenttts.run.rows import row_from_json
from agenttts.search.base import TrialResult
from agenttts.search.stored import stored_trials
from agenttts.space import SearchSpace
from agenttts.tables.example_scores import example_scores
from agenttts.tables.schema import OWN_FAULTS, TrialState
from agenttts.tables.stored_results import STORED_FILE, read_stored
from agenttts.trial.result import EXAMPLES_FILE


def told_results(
    progress: TrialProgress, directory: Path, main_metric: str, space: SearchSpace
) -> list[TrialResult]:
    """Return what the searcher is told when a trial has ended.

    The first is the trial's own result. The others are those that its samples give with fewer of
    them, without a trial.

    Args:
        progress: The trial, with its row.
        directory: The trial's directory.
        main_metric: The metric that is the score, ``STAGE.METRIC``; empty if it is not known.
        space: The search space.

    Raises:
        OSError: The file system is in trouble that may pass.
        UserError: As above.
    """
    assert progress.row is not None
    row = row_from_json(progress.row)
    completed = row.state is TrialState.COMPLETED
    numbers = progress.planned.examples
    examples = None
    if completed and main_metric:
        examples = example_scores(directory / EXAMPLES_FILE, main_metric)
        if examples is not None and numbers is not None:
            examples = {numbers[position]: score for position, score in examples.items()}
    own = TrialResult(
        allocation=progress.planned.allocation,
        score=row.score,
        metrics={name: value for name, value in row.metrics.items() if value is not None},
        cost=row.budget,
        source=row.source,
        stderr=row.score_stderr,
        blamed=completed or row.state in OWN_FAULTS,
        examples=examples,
        metrics_stderr={n: error for n, error in row.metrics_stderr.items() if error is not None},
    )
    if not completed:
        return [own]
    stored = read_stored(directory / STORED_FILE)
    return [own, *stored_trials(own, stored, space, numbers)]
