"""Make a trial's row of the table of trials from the files in its directory."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from agenttts.dispatch.attempts import HANDED_OVER, Attempt, read_attempts
from agenttts.run.costs import cut_off_at, trial_seconds, worker_of
from agenttts.run.progress import TrialProgress
from agenttts.tables.schema import LOST_STATES, TrialRow, TrialState
from agenttts.trial.result import TrialOutput


def finished_row(
    run: str, progress: TrialProgress, output: TrialOutput, directory: Path
) -> TrialRow:
    """Return the row of a completed trial."""
    return TrialRow(
        **_common(run, progress, directory, TrialState.COMPLETED, output),
        engine_starts=output.engine_starts,
        score=output.score,
        score_stderr=output.score_stderr,
        metrics=output.metrics,
        metrics_stderr=output.metrics_stderr,
        prompt_tokens=output.prompt_tokens,
        decode_tokens=output.decode_tokens,
        reused_tokens=output.reused_tokens,
        cut_samples=tuple(output.cut_samples),
        examples=output.examples,
    )


def failed_row(
    run: str, progress: TrialProgress, state: TrialState, error: str, directory: Path
) -> TrialRow:
    """Return the row of a trial without a result.

    It has no score, which differs from a score of 0.
    """
    return TrialRow(**_common(run, progress, directory, state, None), score=None, error=error)


def gpu_seconds(directory: Path, attempts: list[Attempt], now: datetime) -> float:
    """Return the GPU-seconds of all attempts of the trial in ``directory`` together.

    An attempt without a recorded end counts until the last sign of life of its job. The last
    attempt counts until ``now``: its job may have ended a moment ago. If trials began together in
    one job, each counts its share.
    """
    total = 0.0
    for attempt, following in zip_longest(attempts, attempts[1:]):
        if attempt.gpu_seconds is not None:
            total += attempt.gpu_seconds
            continue
        seconds = attempt.seconds
        if attempt.finished is None:
            end = cut_off_at(directory, attempt, following) if following else now
            seconds = (end - datetime.fromisoformat(attempt.started)).total_seconds()
        total += attempt.gpus * max(0.0, seconds) / max(1, attempt.together)
    return total


def _common(
    run: str,
    progress: TrialProgress,
    directory: Path,
    state: TrialState,
    output: TrialOutput | None,
) -> dict[str, Any]:
    attempts = read_attempts(directory)
    now = datetime.now(UTC)
    planned = progress.planned
    return {
        "run": run,
        "state": state,
        "trial": planned.trial,
        "iteration": planned.iteration,
        "source": planned.source,
        "budget": planned.cost,
        "allocation": planned.allocation,
        "started": _moment(attempts[0].started) if attempts else None,
        "finished": (_moment(attempts[-1].finished) if attempts else None) or now,
        "gpu_seconds": gpu_seconds(directory, attempts, now),
        "job_id": progress.job_id or (attempts[-1].job_id if attempts else None),
        "attempts": max(1, sum(attempt.state != HANDED_OVER for attempt in attempts)),
        "worker": worker_of(attempts),
        "seconds": trial_seconds(
            directory, attempts, output, lost_until=now if state in LOST_STATES else None
        ),
    }


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
