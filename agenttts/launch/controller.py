"""Start, look at and stop the controller of a run, a service of its scheduler."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from agenttts.dispatch.base import JobStatus, QueueUnavailable, Scheduler
from agenttts.dispatch.run_jobs import user_name
from agenttts.dispatch.schedulers import controller_scheduler
from agenttts.dispatch.service import ELSEWHERE, Service, ServiceRequest
from agenttts.errors import MissingRequirement, RunFailed, cli_command
from agenttts.files.locks import is_locked
from agenttts.run.access import check_access
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.record import update_record
from agenttts.run.schedulers import original_of, run_jobs, trial_scheduler
from agenttts.run.starts import (
    ControllerHandle,
    only_controller,
    read_handle,
    write_handle,
)

_STOP_PATIENCE_S = 90.0


@dataclass(frozen=True)
class StartedController:
    """The last start of a run's controller, as the scheduler that started it knows it."""

    run: RunDirectory
    handle: ControllerHandle
    scheduler: Scheduler
    service: Service


def started_controller(run: RunDirectory) -> StartedController | None:
    """Return the last start of a run's controller; None before the first."""
    handle = read_handle(run)
    if handle is None:
        return None
    jobs = run_jobs(run)
    service = Service(
        _service_name(run.record().tokens(run.name)[0]),
        handle.start,
        handle.job_id,
        handle.host,
        handle.identity,
        lambda: is_locked(run.lock_file),
        jobs,
    )
    return StartedController(run, handle, scheduler_of_controller(run, handle.kind), service)


def scheduler_of_controller(run: RunDirectory, kind: str | None = None) -> Scheduler:
    """Return the scheduler of a run's controller.

    ``kind`` names the scheduler that started it; None: the one that would start it.
    """
    folder = run.scheduler_logs / "controller"
    return controller_scheduler(run.profile(), folder, kind, run_jobs(run))


def start_controller(run: RunDirectory) -> Callable[[], None] | None:
    """Start the controller at the place that the profile names.

    For callers within `one_command`.

    Returns:
        A function to call after `one_command`, or None. It runs the controller in this process.
        When it returns, the run is over or has failed.
    """
    if original_of(run) is not None:
        # The jobs of the copy must not be taken for those of the original.
        update_record(run.record_file, {"token": secrets.token_hex(4), "earlier_tokens": ()})
    record = run.record()
    check_access(run, record)  # what the controller could not read is refused here
    token = record.tokens(run.name)[0]
    scheduler = scheduler_of_controller(run)
    run.scheduler_logs.mkdir(exist_ok=True)
    if scheduler.runs_in_this_process:
        return _prepare_here(run, token, scheduler)
    before = read_handle(run)
    handle = _new_handle(run, scheduler)
    # The handle is written before the job starts. If this process then dies, a job that appears
    # is known to belong to this start.
    write_handle(run, handle)
    try:
        _start(run, token, scheduler, handle)
    except QueueUnavailable:
        raise
    except MissingRequirement:
        if before is not None:
            write_handle(run, before)
        raise
    return None


def _new_handle(run: RunDirectory, scheduler: Scheduler) -> ControllerHandle:
    """Return a new start of the controller, by this user on this cluster."""
    of_trials = trial_scheduler(run, run.profile())
    me, before = user_name(), run_jobs(run).users
    # Of users whose jobs are hidden, `check_reached` has found that none is left.
    others = () if of_trials.elsewhere() else tuple(user for user in before if user != me)
    return ControllerHandle(
        scheduler.name,
        cluster=of_trials.cluster(),
        user=me,
        earlier_users=others,
        path=str(run.path.resolve()),
    )


def _start(run: RunDirectory, token: str, scheduler: Scheduler, handle: ControllerHandle) -> None:
    """Start the service, and record which job it is."""
    # Imported only to start a controller. A command that looks at one saves half of its imports.
    from agenttts.loop.controller_job import ControllerJob

    request = ServiceRequest(
        name=_service_name(token),
        start=handle.start,
        function=ControllerJob(run.path, handle.start),
        title=f"ctl-{token}",
        comment=f"agenttts run={run.name} controller",
        section="controller",
        # A run has one controller, however many are started.
        one_at_a_time=True,
    )
    service = scheduler.start_service(request)
    write_handle(run, replace(handle, job_id=service.job_id, identity=service.identity))


def _service_name(token: str) -> str:
    """Return the name of the service, which all starts of a run's controller share.

    ``token`` is the prefix of the batch tokens of the run's jobs.
    """
    return f"{token}-controller"


def _prepare_here(run: RunDirectory, token: str, scheduler: Scheduler) -> Callable[[], None]:
    """Make this process the run's controller, and return the function that runs it.

    Its log is ``slurm/controller/PID.err``.
    """
    from agenttts.loop.controller_job import run_here  # as in `_start`

    handle = _new_handle(run, scheduler)
    folder = run.scheduler_logs / "controller"
    folder.mkdir(parents=True, exist_ok=True)
    held = ExitStack()
    held.enter_context(only_controller(run))
    with held:
        _start(run, token, scheduler, handle)
        held = held.pop_all()
    return partial(run_here, run, handle.start, folder / f"{os.getpid()}.err", held)


def controller_state(started: StartedController) -> JobStatus:
    """Return the state of a controller.

    ``detail`` says why it waits or did not start. ``state`` is `ELSEWHERE` for a controller on
    another host whose state is not known here.
    """
    status = started.scheduler.service_status(started.service)
    if status.state == ELSEWHERE and read_state(started.run.journal_file).finished == "done":
        return JobStatus("ENDED", ended=True)
    return status


def _state_here(started: StartedController, more: str = "") -> JobStatus:
    """Return the state of a controller, if this host can tell it.

    Raises:
        MissingRequirement: Only another host can tell; the message says ``more``.
    """
    state = controller_state(started)
    if state.state == ELSEWHERE:
        found = started.scheduler.elsewhere()
        host = f"run this command on {started.handle.host}; where that host"
        fix = f"{found[1]}; where that cluster or user" if found else host
        raise MissingRequirement(
            f"the controller {state.detail}{more}",
            fix=f"{fix} is gone for good, remove {started.run.controller_file} and run it here",
        )
    return state


def controller_works(run: RunDirectory) -> bool:
    """Return whether the controller runs or will run.

    It does not while its scheduler cleans up after its end. It also does not after a cancel, even
    if it has not ended yet.

    Raises:
        MissingRequirement: Only another host can tell.
    """
    started = started_controller(run)
    if started is None:
        return False
    state = _state_here(started)
    if state.ended or started.handle.cancelled:
        return False
    if started.handle.job_id is None:
        found = started.scheduler.find_service(started.service)
        write_handle(run, replace(started.handle, job_id=found))
    # A job that is being requeued is completing too; a second controller then waits for its end.
    return not state.completing


def controller_waits(run: RunDirectory) -> bool:
    """Return whether the controller is in the queue and has not started.

    It reads the run's files when it starts.

    Raises:
        MissingRequirement: Only another host can tell.
    """
    started = started_controller(run)
    return started is not None and _state_here(started).pending and not is_locked(run.lock_file)


def stop_controllers(
    run: RunDirectory, *, on_record: bool, again: Sequence[str] = ("cancel",)
) -> None:
    """Stop all controllers of the run, also of earlier starts, and wait for their end.

    Args:
        run: The run.
        on_record: Whether it is on disk that they have to end, so that a controller sees it.
        again: The command that waits for them again, for a message; the run's path follows.

    Raises:
        MissingRequirement: They are on another host.
        RunFailed: They do not end.
    """
    started = started_controller(run)
    if started is None:
        return
    sees = "; the cancel is on record, and it ends when it sees that" if on_record else ""
    handle, scheduler, service = started.handle, started.scheduler, started.service
    if not scheduler.has_nodes:  # a queue is the same on every host
        _state_here(started, sees)
    reached = scheduler.reaches(service)
    told: set[str] = set()
    start = time.monotonic()
    while live := scheduler.live_services(service):
        waited = time.monotonic() - start
        new = [job for job in live if job not in told]
        if new and reached and waited >= scheduler.self_end_seconds:
            scheduler.stop_service(service, new)
            told.update(new)
        if waited > _STOP_PATIENCE_S:
            states = [scheduler.service_status(replace(service, job_id=job)) for job in live]
            over = all(state.completing or state.ended for state in states)
            if over and not is_locked(run.lock_file):
                return  # their processes have ended, although their nodes do not clean up
            where = "" if reached else f" on {handle.host}"
            raise RunFailed(
                f"the controller (job {', '.join(live)}{where}) of {run.path} has not ended within "
                f"{_STOP_PATIENCE_S:g} s. It is on record that it has to end, and it ends when it "
                f"sees that; '{cli_command(*again, run.path)}' waits again"
            )
        time.sleep(0.2)
