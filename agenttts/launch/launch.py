"""The commands launch, extend, resume, repair and cancel."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace

from agenttts.dispatch.base import QueueUnavailable
from agenttts.dispatch.profile import Profile, profile_name
from agenttts.errors import AgentTTSError, MissingRequirement, RunFailed, UserError, cli_command
from agenttts.files.locks import is_locked
from agenttts.files.signals import ended_in_order
from agenttts.launch.controller import (
    controller_works,
    scheduler_of_controller,
    start_controller,
    stop_controllers,
)
from agenttts.launch.create import check_same_spec, create_run
from agenttts.launch.differences import difference_lines, differences
from agenttts.launch.extension import (
    ExtensionOutcome,
    finish_extension,
    planned_extension,
    record_extension,
    release_controller,
)
from agenttts.launch.plan import Plan
from agenttts.launch.profile_change import (
    ProfileOutcome,
    check_takes,
    finish_change,
    planned_change,
    take_profile,
)
from agenttts.launch.reached import check_reached
from agenttts.launch.rebuild import Rebuilt, rebuild_journal
from agenttts.launch.retry import retry_failed
from agenttts.loop.controller_job import close_cancelled
from agenttts.loop.strays import end_strays
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import Journal, read_state
from agenttts.run.profile_fix import with_profile_fix
from agenttts.run.schedulers import trial_scheduler
from agenttts.run.starts import (
    ControllerHandle,
    RunRemoved,
    one_command,
    only_controller,
    read_handle,
    write_handle,
)
from agenttts.run.state import RunState
from agenttts.run.store_users import forget_store_user

log = logging.getLogger(__name__)


def _log_profile(outcome: ProfileOutcome) -> None:
    """Log a difference of profiles, for callers that show it nowhere else."""
    what = f"not taken, {outcome.refused}" if outcome.refused else "taken"
    log.warning(
        "the profile differs from the run's (%s): %s",
        what,
        "; ".join(difference_lines(outcome.changes)),
    )


def launch(
    plan: Plan, differs: Callable[[ProfileOutcome], None] = _log_profile
) -> tuple[RunDirectory, bool]:
    """Create the run and start its controller, or go on with a run of the same spec.

    A run of the same spec takes the plan's profile if it has been edited, unless it is running.
    A run that is done is left as it is.

    Args:
        plan: The plan.
        differs: Called with the outcome for an edited profile.

    Returns:
        The run, and whether it is new.

    Raises:
        UserError: A run of that name has another spec.
    """
    run = RunDirectory(plan.experiment.path)
    while True:
        try:
            if run.exists:
                complete_changes(run, "launch")
                check_same_spec(run, plan.experiment.spec, plan.experiment.profile)
                _take_edited(run, plan, differs)
                resume(run)
                return run, False
            first = not run.path.parent.exists()
            if create_run(run, plan):
                _start_new(run, first)
                return run, True
        except RunRemoved:
            # Another launch of it was refused and removed it.
            log.info("%s: removed by another launch", run.path)


def _take_edited(run: RunDirectory, plan: Plan, differs: Callable[[ProfileOutcome], None]) -> None:
    """Give the run the plan's profile if that is another version of the run's."""
    cluster, profile = plan.experiment.spec.cluster, plan.experiment.profile
    changes = differences(run.profile().model_dump(mode="json"), profile.model_dump(mode="json"))
    if not changes:
        return
    why = None
    if read_state(run.journal_file).finished == "done":
        why = "the run is over"
    elif controller_works(run):
        why = (
            f"its controller runs with its own: '{cli_command('cancel', run.path)}' first, then "
            "this command again"
        )
    if why is not None:
        differs(ProfileOutcome(changes, why))
        return
    taken = correct_profile(run, cluster, profile)
    if taken.changes:
        differs(taken)


def complete_changes(run: RunDirectory, command: str) -> None:
    """Complete a change of the run's files at which another command was killed.

    ``command`` is the name of this one.

    Raises:
        MissingRequirement: As in `check_reached`.
    """
    check_reached(run)
    state = read_state(run.journal_file)
    if state.profile_change is not None or state.extension is not None:
        with one_command(run, command), only_controller(run):
            _write_changes(run, read_state(run.journal_file))


def _write_changes(run: RunDirectory, state: RunState) -> RunState:
    """Complete changes of the run's files; return the run's state after them.

    For callers within `one_command`, while no controller runs.
    """
    if state.profile_change is None and state.extension is None:
        return state
    with closing(Journal(run.journal_file)) as journal:
        if state.profile_change is not None:
            finish_change(run, journal, state.profile_change)
        if state.extension is not None:
            finish_extension(run, journal, state.extension)
    return journal.state


def extend(run: RunDirectory, settings: Sequence[str]) -> ExtensionOutcome:
    """Widen the search of a run, and go on with it; its trials and samples stay.

    A controller that runs is replaced by one with the wider search; the run's jobs go on.

    Args:
        run: The run.
        settings: The keys and values, as given to ``--set``.

    Returns:
        What has changed.

    Raises:
        UserError: As in `planned_extension`.
        MissingRequirement: Something is missing here, or the controller runs on another host.
    """
    complete_changes(run, "extend")
    if planned_extension(run.read(), settings).extension.changes:  # before anything is ended
        with (
            ended_in_order(),
            _with_controller_after_failure(run),
            one_command(run, "extend"),
            _in_place_of_controller(run),
        ):
            _write_changes(run, read_state(run.journal_file))
            extension = planned_extension(run.read(), settings).extension
            if extension.changes:
                record_extension(run, extension)
        outcome = ExtensionOutcome(extension.changes)
    else:
        outcome = ExtensionOutcome()
    resume(run)
    return outcome


@contextmanager
def _with_controller_after_failure(run: RunDirectory) -> Iterator[None]:
    """Start the controller again if the block fails or is interrupted.

    The block has ended the controller. The run's jobs must not be left without a controller.
    """
    before = read_handle(run)
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit):
        if read_state(run.journal_file).finished is None:
            if not is_locked(run.lock_file):
                resume(run)
            elif read_handle(run) != before:  # it has been told to end, and has not ended yet
                log.warning(
                    "the controller of %s is ending; when it has ended, '%s' goes on with the run",
                    run.path,
                    cli_command("resume", run.path),
                )
        raise


@contextmanager
def _in_place_of_controller(run: RunDirectory) -> Iterator[None]:
    """Hold the run's lock, after its controller has ended if it runs."""
    release_controller(run)
    with ExitStack() as held:
        try:
            held.enter_context(only_controller(run))
        except RunFailed:  # a controller that waited in the queue has started meanwhile
            release_controller(run)
            held.enter_context(only_controller(run))
        yield


def correct_profile(
    run: RunDirectory, cluster: str, profile: Profile, *, retry: bool = False
) -> ProfileOutcome:
    """Give a run another profile; its trials and samples stay.

    Args:
        run: The run.
        cluster: The name or file of the profile.
        profile: The profile, completed from this shell's environment.
        retry: Whether trials without a score are about to be tried again, so that a run that is
            over goes on.

    Returns:
        What has changed.

    Raises:
        UserError: The controller runs, the run is over, it has jobs of another kind of scheduler,
            or its spec does not fit the profile.
        MissingRequirement: Something is missing here.
    """
    check_reached(run)
    _check_stopped(run, "the profile is the controller's")
    with one_command(run, "resume"), only_controller(run):
        state = _write_changes(run, read_state(run.journal_file))
        change = planned_change(run.read(), profile_name(cluster), profile)
        if change.changes:
            if not (retry and state.finished == "done"):
                check_takes(run, state, change)
            take_profile(run, change)
    return ProfileOutcome(change.changes)


def _check_stopped(run: RunDirectory, why: str) -> None:
    """Check that no controller runs, which would not see a change of the run's files.

    Raises:
        UserError: It runs; the message says ``why`` that matters.
    """
    if controller_works(run):
        raise UserError(
            f"{run.path}: its controller runs, and {why}; wait until "
            f"the run is over, or '{cli_command('cancel', run.path)}' first"
        )


def _start_new(run: RunDirectory, first: bool) -> None:
    """Start the controller of a run that was just made.

    ``first`` says that the results folder was made for this run.
    """
    with one_command(run, "launch"):
        if _is_over_or_works(run, read_state(run.journal_file)):
            return  # another launch of it was faster
        try:
            go_on = start_controller(run)
        except QueueUnavailable:
            raise  # the job may have been submitted: the run stays, for another launch to go on
        except MissingRequirement:  # refused: no job was submitted, so no directory is left behind
            if run.journal_file.exists() or not run.exists:
                raise  # the run had begun, or is gone
            store = run.path / run.record().samples
            if not store.is_relative_to(run.path):
                forget_store_user(store, run.path)
            shutil.rmtree(run.path)
            if first:
                with suppress(OSError):  # another run was launched there meanwhile
                    run.path.parent.rmdir()
            raise
    if go_on is not None:
        go_on()


def resume(run: RunDirectory) -> None:
    """Start the controller of a run again, unless it runs or the run is over.

    Raises:
        MissingRequirement: As in `check_reached`.
    """
    check_reached(run)
    with one_command(run, "resume"):
        state = read_state(run.journal_file)
        go_on = None if _is_over_or_works(run, state) else _start_again(run, state)
    if go_on is not None:
        go_on()


def _start_again(run: RunDirectory, state: RunState) -> Callable[[], None] | None:
    state = _write_changes(run, state)
    try:
        with _going_on(run, state.finished):
            return start_controller(run)
    except MissingRequirement as error:
        fix = with_profile_fix(error.fix, run)
        if fix == error.fix:
            raise
        raise type(error)(error.what, fix=fix) from None


@contextmanager
def _going_on(run: RunDirectory, outcome: str | None) -> Iterator[None]:
    """Record that a run goes on, before its controller is started.

    A controller that ends before it has recorded anything would else leave the run with the outcome
    of its predecessor. ``outcome`` is that one; None: the run has not ended. It is recorded again
    if the start is refused.
    """
    # A predecessor whose node does not let its process end may hold the journal's lock still.
    if outcome is None or is_locked(run.lock_file):
        yield
        return
    _record(run, "resumed")
    try:
        yield
    except QueueUnavailable:
        raise  # the job may have been submitted
    except AgentTTSError:
        _record(run, "ended", outcome=outcome)
        raise


def _record(run: RunDirectory, event: str, **values: str) -> None:
    with only_controller(run), closing(Journal(run.journal_file)) as journal:
        journal.append(event, **values)


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
    check_reached(run)
    _check_stopped(run, "the journal is the controller's")
    with one_command(run, "resume"), only_controller(run):
        rebuilt = rebuild_journal(run) if from_tables else None
        return rebuilt, retry_failed(run) if retry else []


def cancel(run: RunDirectory) -> None:
    """Stop the controller and every job of the run.

    Finished trials are kept, and `resume` may go on from them. The cancel is on disk first, so that
    a controller that cannot be stopped from here, or not now, ends by itself.

    Raises:
        MissingRequirement: As in `check_reached`.
    """
    check_reached(run)
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
        _tell_what_is_left(run, handle)
        stop_controllers(run, on_record=cancelled is None)
        with only_controller(run):
            close_cancelled(run)
            _end_strays(run)
        if cancelled is not None:
            write_handle(run, cancelled)


def _tell_what_is_left(run: RunDirectory, handle: ControllerHandle | None) -> None:
    """Log which jobs that have the numbers of the run's jobs are left alone, and why."""
    state = read_state(run.journal_file)
    known = [trial.job_id for trial in state.unfinished()]
    known += [worker.job_id for worker in state.workers.values()]
    # A controller on the host (controller: {where: here}) has the number of a process.
    if handle is not None and scheduler_of_controller(run, handle.kind).has_nodes:
        known.append(handle.job_id)
    scheduler = trial_scheduler(run, run.profile())
    try:
        others = scheduler.others_with_numbers(dict.fromkeys(job for job in known if job))
    except QueueUnavailable as error:  # a controller on this host is stopped all the same
        log.info("which jobs go on is not known: %s", error)
        return
    if others:
        named = "; ".join(f"{job}: {why}" for job, why in others.items())
        log.warning(
            "jobs with the numbers of this run's jobs are not of this run and go on: %s", named
        )


def _is_over_or_works(run: RunDirectory, state: RunState) -> bool:
    return state.finished == "done" or controller_works(run)


def _end_strays(run: RunDirectory) -> None:
    """End jobs that appeared after the run's end.

    For callers within `only_controller`.
    """
    with closing(Journal(run.journal_file)) as journal:
        scheduler = trial_scheduler(run, run.profile())
        # Workers that were cancelled a moment ago may still be closing their engines.
        workers = [w.job_id for w in journal.state.workers.values() if w.job_id is not None]
        scheduler.cancel(workers)
        end_strays(journal, scheduler, run.record().tokens(run.name), known=workers)
        scheduler.await_cancelled()
