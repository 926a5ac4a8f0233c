"""Whether a command may change a run from here.

It may not if the run's jobs are on another cluster, are of a user whose jobs cannot be seen, or are
those of the directory that this one was copied from.
"""

from __future__ import annotations

import shlex
from contextlib import suppress

from agenttts.dispatch.base import Scheduler
from agenttts.errors import MissingRequirement, UserError, cli_command
from agenttts.launch.controller import started_controller
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import DamagedJournal, read_state
from agenttts.run.schedulers import original_of, trial_scheduler


def check_reached(run: RunDirectory) -> None:
    """Check that a command may change a run here, before it writes anything.

    Raises:
        UserError: The directory is a copy of that of a run, and neither of the two is over.
        MissingRequirement: The run's jobs are on another cluster, or of a user whose jobs cannot be
            seen here, and may not have ended.
    """
    if not run.exists:
        return
    _check_no_copy(run)
    scheduler = trial_scheduler(run, run.profile())
    found = scheduler.elsewhere()
    if found is None:
        return
    with suppress(DamagedJournal):  # a new one is made of the trials' files, and jobs may run
        if _are_known_to_have_ended(run, scheduler):
            return
    what, fix = found
    raise MissingRequirement(
        f"{run.path}: {what}. Nothing was changed",
        fix=f"{fix}; where that cluster or user is gone for good, remove {run.controller_file} and "
        "run it here",
    )


def _are_known_to_have_ended(run: RunDirectory, scheduler: Scheduler) -> bool:
    """Return whether the journal or the queue shows that no job is left."""
    state = read_state(run.journal_file)
    if state.finished == "done":
        return True
    started = started_controller(run)
    jobs = [trial.job_id for trial in state.unfinished()]
    jobs += [worker.job_id for worker in state.workers.values()]
    if started is not None and started.scheduler.has_nodes:
        jobs.append(started.handle.job_id)
    states = scheduler.poll({job for job in jobs if job})
    return bool(states) and all(status.ended for status in states.values())


def _check_no_copy(run: RunDirectory) -> None:
    original = original_of(run)
    if original is None or _is_over(run) or _is_over(RunDirectory(original)):
        return
    samples = shlex.quote(f"samples={original / run.record().samples}")
    raise UserError(
        f"{run.path} is a copy of the run {original}, which is not over: the jobs in the copy's "
        f"journal are those of {original}. Nothing was changed; give {original} as RUN. Or go on "
        f"in the copy after '{cli_command('cancel', original)}'. Or launch the spec under another "
        f"--name, with '--set {samples}' to draw no sample twice"
    )


def _is_over(run: RunDirectory) -> bool:
    try:
        return read_state(run.journal_file).finished is not None
    except DamagedJournal:
        return False
