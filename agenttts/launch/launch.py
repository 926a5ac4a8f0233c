"""The commands launch, resume, repair and cancel."""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from agenttts.dispatch.base import QueueUnavailable
from agenttts.errors import MissingRequirement, UserError
from agenttts.launch.controller import (
    controller_works,
    start_controller,
    stop_controllers,
)
from agenttts.launch.create import check_same_spec, create_run
from agenttts.launch.plan import Plan
from agenttts.launch.rebuild import Rebuilt, rebuild_journal
from agenttts.launch.retry import retry_failed
from agenttts.loop.controller_job import close_cancelled, trial_scheduler
from agenttts.loop.strays import end_strays
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import Journal, read_state
from agenttts.run.starts import (
    ControllerHandle,
    RunRemoved,
    one_command,
    only_controller,
    read_handle,
    write_handle,
)

log = logging.getLogger(__name__)


def launch(plan: Plan, results: Path) -> tuple[RunDirectory, bool]:
    """Create the run and start its controller, or go on with a run of the same spec.

    Returns:
        The run, and whether it is new.

    Raises:
        UserError: A run of that name has another spec.
    """
    run = RunDirectory(results.absolute() / plan.experiment.spec.name)
    while True:
        try:
            if run.exists:
                check_same_spec(run, plan.experiment.spec)
                resume(run)
                return run, False
            first = not run.path.parent.exists()
            if create_run(run, plan):
                _start_new(run, first)
                return run, True
        except RunRemoved:
            # Another launch of it was refused and removed it.
            log.info("%s: removed by another launch", run.path)


def _start_new(run: RunDirectory, first: bool) -> None:
    """Start the controller of a run that was just made.

    ``first`` says that the results folder was made for this run.
    """
    with one_command(run, "launch"):
        if _is_over_or_works(run):
            return  # another launch of it was faster
        try:
            go_on = start_controller(run)
        except QueueUnavailable:
            raise  # the job may have been submitted: the run stays, for another launch to go on
        except MissingRequirement:  # refused: no job was submitted, so no directory is left behind
            if run.journal_file.exists() or not run.exists:
                raise  # the run had begun, or is gone
            shutil.rmtree(run.path)
            if first:
                with suppress(OSError):  # another run was launched there meanwhile
                    run.path.parent.rmdir()
            raise
    if go_on is not None:
        go_on()


def resume(run: RunDirectory) -> None:
    """Start the controller of a run again, unless it runs or the run is over."""
    with one_command(run, "resume"):
        go_on = None if _is_over_or_works(run) else start_controller(run)
    if go_on is not None:
        go_on()


def repair(
    run: RunDirectory, *, from_tables: bool = False, retry: bool = False
) -> tuple[Rebuilt | None, list[str]]:
    """Change a run's journal before the run is resumed.

    Args:
        run: The run.
        from_tables: Make the journal anew from the trials' files.
        retry: Run failed trials again.

    Returns:
        What the new journal holds (None without one), and the trials to be tried again.

    Raises:
        UserError: The controller runs.
    """
    if not (from_tables or retry):
        return None, []
    if controller_works(run):
        raise UserError(
            f"{run.path}: its controller runs, and the journal is the controller's; wait until "
            "the run is over, or "
            f"'agenttts-hpc cancel {run.path}' first"
        )
    with one_command(run, "resume"), only_controller(run):
        rebuilt = rebuild_journal(run) if from_tables else None
        return rebuilt, retry_failed(run) if retry else []


def cancel(run: RunDirectory) -> None:
    """Stop the controller and every job of the run.

    Finished trials are kept, and `resume` may go on from them. The cancel is on disk first, so that
    a controller that cannot be stopped from here, or not now, ends by itself.
    """
    with one_command(run, "cancel"):
        handle = read_handle(run)
        cancelled: ControllerHandle | None = None
        if handle is not None and read_state(run.journal_file).finished != "done":
            cancelled = replace(handle, cancelled=True)
            try:
                write_handle(run, cancelled)
                cancelled = None
            except OSError as error:  # a full disk: what runs is stopped all the same
                log.info("the cancel is not on record yet: %s", error)
        stop_controllers(run, on_record=cancelled is None)
        with only_controller(run):
            close_cancelled(run)
            _end_strays(run)
        if cancelled is not None:
            write_handle(run, cancelled)


def _is_over_or_works(run: RunDirectory) -> bool:
    return read_state(run.journal_file).finished == "done" or controller_works(run)


def _end_strays(run: RunDirectory) -> None:
    """End jobs that appeared after the run's end.

    For callers within `only_controller`.
    """
    journal = Journal(run.journal_file)
    try:
        scheduler = trial_scheduler(run, run.profile())
        # Workers that were cancelled a moment ago may still be closing their engines.
        workers = [w.job_id for w in journal.state.workers.values() if w.job_id is not None]
        scheduler.cancel(workers)
        end_strays(journal, scheduler, run.record().tokens(run.name), known=workers)
        scheduler.await_cancelled()
    finally:
        journal.close()
