"""What the live jobs of a run do now, from what their programs have written down.

The directory of each job that does not wait is read; nothing is asked. The program in the job
writes its progress (`agenttts.trial.progress`) and its phase (`agenttts.trial.phase`), the job its
starts (`agenttts.dispatch.job_starts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agenttts.dispatch.base import JobStatus
from agenttts.dispatch.job_starts import JobStart, read_job_starts
from agenttts.run.directory import RunDirectory
from agenttts.run.progress import TrialProgress, worker_name
from agenttts.run.state import RunState
from agenttts.trial.phase import read_phase
from agenttts.trial.progress import Progress, TrialStage, read_progress


def live_directories(run: RunDirectory, state: RunState) -> dict[str, Path]:
    """Return the directories of the jobs that may run, by id.

    They are those of workers, which may have no trial, and of unfinished trials.
    """
    found = {w.job_id: run.worker(w.name) for w in state.workers.values() if w.job_id}
    for trial in state.unfinished():
        if trial.job_id and trial.job_id not in found:
            shared = run.worker(worker_name(trial.batch, trial.position)) if trial.batch else None
            alone = run.trial(trial.planned.trial)
            found[trial.job_id] = shared if shared and shared.is_dir() else alone
    return found


def live_work(
    directories: Mapping[str, Path],
    statuses: Mapping[str, JobStatus],
    live: Sequence[TrialProgress],
) -> tuple[list[dict[str, Any]], dict[str, TrialStage]]:
    """Return what each job does, and how far its trials are.

    Args:
        directories: The directories of the jobs, by id.
        statuses: What the queue says of them, by id.
        live: The unfinished trials that have a job.

    Returns:
        A `WorkerDocument` for each job that has not ended, and the stage of each trial that has
        begun.
    """
    workers: list[dict[str, Any]] = []
    stages: dict[str, TrialStage] = {}
    trials_of: dict[str | None, list[str]] = {}
    for trial in live:
        trials_of.setdefault(trial.job_id, []).append(trial.planned.trial)
    for job_id, directory in directories.items():
        status = statuses.get(job_id, JobStatus("UNKNOWN", ended=False))
        if status.ended:
            continue
        trials = trials_of.get(job_id, [])
        start = None if status.pending else _start(directory, job_id)
        progress = _progress(directory, start)
        stages |= {s.trial: s for s in (progress.trials if progress else ()) if s.trial in trials}
        workers.append(
            {
                "name": directory.name,
                "job_id": job_id,
                "state": status.state,
                "reason": status.detail,
                "stuck": status.stuck,
                "node": (start.node if start else "") or status.node or None,
                "gpus": start.gpus if start else None,
                "seconds": None if start is None else _since(start.started),
                "trials": trials,
                **_doing(directory, start, progress, trials),
            }
        )
    return workers, stages


def _start(directory: Path, job_id: str) -> JobStart | None:
    starts = [start for start in read_job_starts(directory) if start.job_id == job_id]
    return starts[-1] if starts else None


def _progress(directory: Path, start: JobStart | None) -> Progress | None:
    """Return the progress of a job's present start; None before its program begins."""
    progress = read_progress(directory) if start is not None else None
    if progress is None or start is None or _moment(progress.started) < _moment(start.started):
        return None
    return progress


def _doing(
    directory: Path, start: JobStart | None, progress: Progress | None, trials: Sequence[str]
) -> dict[str, Any]:
    """Return what a job's program does, its model and the rate of its draw."""
    phase = read_phase(directory) if progress is not None else None
    if start is None:
        name = None
    elif phase is None or progress is None:
        name = "start"
    elif not trials:
        name = "idle"
    else:
        name = phase.name
    works = progress is not None and name in ("load", "generate", "other")
    return {
        "phase": name,
        "model": (phase.model or None) if phase and name in ("load", "generate") else None,
        "tokens_per_second": progress.tokens_per_second if progress and works else None,
    }


def _since(moment: str) -> float:
    return max(0.0, (datetime.now(UTC) - _moment(moment)).total_seconds())


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
