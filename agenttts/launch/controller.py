"""Start, look at and stop the controller of a run, a service of its scheduler."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from agenttts.dispatch.base import JobStatus, QueueUnavailable, Scheduler
from agenttts.dispatch.schedulers import controller_scheduler
from agenttts.dispatch.service import ELSEWHERE, Service, ServiceRequest
from agenttts.errors import AgentTTSError, MissingRequirement, RunFailed
from agenttts.files.locks import is_locked
from agenttts.loop.controller_job import (
    ControllerJob,
    close_cancelled,
    log_file,
    make_controller,
    patiently,
    run_token,
    warn_of_changed_weights,
)
from agenttts.run.access import check_access
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.starts import (
    ControllerHandle,
    only_controller,
    read_handle,
    write_handle,
)

_STOP_PATIENCE_S = 90.0


def scheduler_of_controller(run: RunDirectory, handle: ControllerHandle | None) -> Scheduler:
    """Return the scheduler that started the controller, or that would start it."""
    folder = run.scheduler_logs / "controller"
    return controller_scheduler(run.profile(), folder, handle.kind if handle else None)


def service_of(run: RunDirectory, handle: ControllerHandle) -> Service:
    """Return the controller as its scheduler knows it."""
    return Service(
        _name(run),
        handle.start,
        handle.job_id,
        handle.host,
        handle.identity,
        lambda: is_locked(run.lock_file),
    )


def start_controller(run: RunDirectory) -> Callable[[], None] | None:
    """Start the controller at the place that the profile names.

    For callers within `one_command`.

    Returns:
        A function to call after `one_command`, or None. It runs the controller in this process.
        When it returns, the run is over or has failed.
    """
    check_access(run)  # what the controller could not read is refused here
    scheduler = scheduler_of_controller(run, None)
    run.scheduler_logs.mkdir(exist_ok=True)
    if scheduler.runs_in_this_process:
        return _prepare_here(run, scheduler)
    before = read_handle(run)
    handle = ControllerHandle(scheduler.name)
    # The handle is written before the job starts. If this process then dies, a job that appears
    # is known to belong to this start.
    write_handle(run, handle)
    try:
        _start(run, scheduler, handle)
    except QueueUnavailable:
        raise
    except MissingRequirement:
        if before is not None:
            write_handle(run, before)
        raise
    return None


def _start(run: RunDirectory, scheduler: Scheduler, handle: ControllerHandle) -> None:
    """Start the service, and record which job it is."""
    name = _name(run)
    request = ServiceRequest(
        name=name,
        start=handle.start,
        function=ControllerJob(run.path, handle.start),
        title=f"ctl-{run_token(run)}",
        comment=f"agenttts run={run.name} controller",
        section="controller",
        # A run has one controller, however many are started.
        one_at_a_time=True,
    )
    service = scheduler.start_service(request)
    write_handle(run, replace(handle, job_id=service.job_id, identity=service.identity))


def _name(run: RunDirectory) -> str:
    """Return the name of the service, which all starts of a run's controller share."""
    return f"{run_token(run)}-controller"


def _prepare_here(run: RunDirectory, scheduler: Scheduler) -> Callable[[], None]:
    """Make this process the run's controller, and return the function that runs it.

    Its log is ``slurm/controller/PID.err``. A failure of the run is in its journal afterwards, as
    for other kinds of controllers. An interrupt cancels the run and raises `RunFailed`.
    """
    handle = ControllerHandle(scheduler.name)
    folder = run.scheduler_logs / "controller"
    folder.mkdir(parents=True, exist_ok=True)
    held = ExitStack()
    held.enter_context(only_controller(run))
    with held:
        _start(run, scheduler, handle)
        held = held.pop_all()

    def go_on() -> None:
        with held, log_file(folder / f"{os.getpid()}.err"):
            try:
                warn_of_changed_weights(run)
                patiently(run, lambda: make_controller(run, handle.start).run())
            except KeyboardInterrupt:
                close_cancelled(run)
                raise RunFailed(
                    f"run {run.path} was interrupted; 'agenttts-hpc resume {run.name}' goes on "
                    "with it"
                ) from None
            except AgentTTSError:
                if read_state(run.journal_file).finished is None:
                    raise

    return go_on


def controller_state(run: RunDirectory) -> JobStatus | None:
    """Return the state of the controller; None if none was started.

    ``detail`` says why it waits or did not start. ``state`` is `ELSEWHERE` for a controller on
    another host whose state is not known here.
    """
    handle = read_handle(run)
    if handle is None:
        return None
    status = scheduler_of_controller(run, handle).service_status(service_of(run, handle))
    if status.state == ELSEWHERE and read_state(run.journal_file).finished == "done":
        return JobStatus("ENDED", ended=True)
    return status


def refuse_elsewhere(run: RunDirectory, more: str = "") -> JobStatus | None:
    """Return `controller_state`, if this host can tell it.

    Raises:
        MissingRequirement: Only another host can tell.
    """
    handle, state = read_handle(run), controller_state(run)
    if handle is not None and state is not None and state.state == ELSEWHERE:
        raise MissingRequirement(
            f"the controller {state.detail}{more}",
            fix=f"run this command on {handle.host}; where that host is gone for good, remove "
            f"{run.controller_file} and run it here",
        )
    return state


def controller_works(run: RunDirectory) -> bool:
    """Return whether the controller runs or will run.

    It does not while its scheduler cleans up after its end. It also does not after a cancel, even
    if it has not ended yet.
    """
    state = refuse_elsewhere(run)
    handle = read_handle(run)
    if handle is None or state is None or state.ended or handle.cancelled:
        return False
    if handle.job_id is None:
        found = scheduler_of_controller(run, handle).find_service(service_of(run, handle))
        write_handle(run, replace(handle, job_id=found))
    # A job that is being requeued is completing too; a second controller then waits for its end.
    return not state.completing


def stop_controllers(run: RunDirectory) -> None:
    """Stop all controllers of the run, also of earlier starts, and wait for their end."""
    handle = read_handle(run)
    if handle is None:
        return
    scheduler, service = scheduler_of_controller(run, handle), service_of(run, handle)
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
            if all(state.completing for state in states) and not is_locked(run.lock_file):
                return  # their processes have ended, although their nodes do not clean up
            where = "" if reached else f" on {handle.host}"
            raise RunFailed(
                f"the controller (job {', '.join(live)}{where}) of {run.path} has not ended within "
                f"{_STOP_PATIENCE_S:g} s. The cancel is on record, and the controller ends when it "
                f"sees it; 'agenttts-hpc cancel {run.name}' waits again"
            )
        time.sleep(0.2)
