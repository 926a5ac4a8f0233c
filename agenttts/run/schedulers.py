"""The schedulers of a run's jobs, and what tells these jobs from others."""

from __future__ import annotations

from pathlib import Path

from agenttts.dispatch.base import Scheduler
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.run_jobs import RunJobs
from agenttts.dispatch.schedulers import create_scheduler
from agenttts.errors import UserError
from agenttts.run.directory import RunDirectory
from agenttts.run.starts import ControllerHandle, read_handle


def trial_scheduler(run: RunDirectory, profile: Profile) -> Scheduler:
    """Return the scheduler of a run's trials."""
    return create_scheduler(profile, run.scheduler_logs / "trials", run_jobs(run))


def served_scheduler(run: RunDirectory, profile: Profile) -> Scheduler:
    """Return the scheduler of the model that a run serves itself."""
    return create_scheduler(profile, run.scheduler_logs / "agent", run_jobs(run))


def run_jobs(run: RunDirectory) -> RunJobs:
    """Return what is known of the jobs of a run.

    If a file of the run cannot be read, less is known; the readers of that file report it.
    """
    handle = _known_handle(run)
    record = run.known_record()
    here = run.path.resolve()
    ids = () if record is None else (record.token, *record.earlier_tokens)
    if handle is None:
        return RunJobs((here,), ids)
    before = Path(handle.path) if handle.path else here
    moved = before != here and not _has_run(before)
    return RunJobs(
        (here, before) if moved else (here,),
        ids,
        handle.cluster,
        tuple(dict.fromkeys(user for user in (handle.user, *handle.earlier_users) if user)),
    )


def original_of(run: RunDirectory) -> Path | None:
    """Return the run that a run's directory was copied from and that still exists.

    It is None for a run that was moved, and for one whose controller was started in its directory.
    """
    handle = _known_handle(run)
    if handle is None or not handle.path:
        return None
    there = RunDirectory(Path(handle.path))
    try:
        if not _has_run(there.path) or there.path.samefile(run.path):
            return None
    except OSError:  # this one is gone
        return None
    record, other = run.known_record(), there.known_record()
    if record is None or other is None:
        return None
    known = {record.token, *record.earlier_tokens}
    return there.path if known & {other.token, *other.earlier_tokens} else None


def _has_run(path: Path) -> bool:
    try:
        return RunDirectory(path).exists
    except OSError:  # it is closed to this user
        return False


def _known_handle(run: RunDirectory) -> ControllerHandle | None:
    try:
        return read_handle(run)
    except UserError:
        return None
