"""What the commands do: launch, resume, cancel, and starting the controller where it belongs."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import submitit
import yaml

from agenttts.dispatch.base import JobStatus, QueueUnavailable
from agenttts.dispatch.controller_process import ELSEWHERE, controller_kind, is_process
from agenttts.dispatch.local import RUNNER
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.slurm.batch_script import log_message
from agenttts.dispatch.slurm.queue import (
    cancel_jobs,
    job_states,
    row_status,
    rows_with_comment,
)
from agenttts.dispatch.slurm.request import JobNeeds
from agenttts.dispatch.slurm.submission import outer_environment, slurm_executor, submission_errors
from agenttts.errors import AgentTTSError, MissingRequirement, RunFailed, UserError
from agenttts.files.processes import command_line, pids, process_identity
from agenttts.launch.plan import Plan
from agenttts.launch.rebuild import Rebuilt, rebuild_journal
from agenttts.launch.resolve import run_record
from agenttts.launch.retry import retry_failed
from agenttts.loop.controller_job import (
    ControllerJob,
    close_cancelled,
    log_file,
    make_controller,
    make_dispatcher,
    run_token,
    run_tokens,
    warn_of_changed_weights,
)
from agenttts.loop.strays import end_strays
from agenttts.run.directory import RunDirectory
from agenttts.run.examples import write_examples
from agenttts.run.journal import Journal, read_state
from agenttts.run.record import write_record
from agenttts.run.starts import (
    ControllerHandle,
    RunRemoved,
    is_locked,
    one_command,
    only_controller,
    read_handle,
    write_handle,
)
from agenttts.spec import JobSpec, dump_spec
from agenttts.tasks.user_tasks import freeze_source

log = logging.getLogger(__name__)

# In the comment of a controller's job: the token of its start.
_START = "start="
_STOP_PATIENCE_S = 90.0
_BY_ITSELF_S = 3.0
_NO_ANSWER = "sbatch gave no answer when it was started, and no job of that start is in the queue"


def launch(plan: Plan, results: Path) -> tuple[RunDirectory, bool]:
    """Create the run and start its controller; or go on with it when it exists with the same spec.

    Returns the run and whether it is new. Raises `UserError` when a run of that name has another spec.
    """
    run = RunDirectory(results.absolute() / plan.spec.name)
    while True:
        try:
            if run.exists:
                _check_same(run, plan.spec)
                resume(run)
                return run, False
            first = not run.path.parent.exists()
            if _create(run, plan):
                _start_new(run, first)
                return run, True
        except RunRemoved:
            # Another launch of it was refused and has removed it.
            log.info("%s: removed by another launch", run.path)


def _start_new(run: RunDirectory, first: bool) -> None:
    """Start the controller of a run that was just made, ``first`` in its folder."""
    with one_command(run, "launch"):
        if _is_over_or_works(run):
            return  # another launch of it was faster
        try:
            go_on = start_controller(run)
        except QueueUnavailable:
            raise  # it may have been submitted: the run stays, and launching again goes on with it
        except MissingRequirement:  # refused: nothing was submitted, so nothing is left behind
            if run.journal_file.exists() or not run.exists:
                raise  # it was not: the run had begun, or is gone
            shutil.rmtree(run.path)
            if first:
                with suppress(OSError):  # somebody else has launched there meanwhile
                    run.path.parent.rmdir()
            raise
    if go_on is not None:
        go_on()


def resume(run: RunDirectory) -> None:
    """Start the controller of a run again unless it runs or the run is over."""
    with one_command(run, "resume"):
        go_on = None if _is_over_or_works(run) else start_controller(run)
    if go_on is not None:
        go_on()


def repair(
    run: RunDirectory, *, from_tables: bool = False, retry: bool = False
) -> tuple[Rebuilt | None, list[str]]:
    """Change a run's journal before it is resumed: make it anew from the trials' files, have failed trials run again.

    Returns what the new journal holds, and the trials to be tried again. Raises `UserError` while the controller runs.
    """
    if not (from_tables or retry):
        return None, []
    if _controller_works(run):
        raise UserError(
            f"{run.path}: its controller runs, and the journal is the controller's; wait until the run is over, or "
            f"'agenttts-hpc cancel {run.path}' first"
        )
    with one_command(run, "resume"), only_controller(run):
        rebuilt = rebuild_journal(run) if from_tables else None
        return rebuilt, retry_failed(run) if retry else []


def cancel(run: RunDirectory) -> None:
    """Stop the controller and every job of the run; what has finished is kept, `resume` may go on from it.

    The cancel is on disk first: where the controller cannot be stopped from here, or not now, it ends by itself.
    """
    with one_command(run, "cancel"):
        handle = read_handle(run)
        if handle is not None and read_state(run.journal_file).finished != "done":
            write_handle(run, replace(handle, cancelled=True))
        _refuse_elsewhere(run, "; the cancel is on record, and it ends when it sees that")
        _stop_controllers(run)
        with only_controller(run):
            close_cancelled(run)
            _end_strays(run)


def _end_strays(run: RunDirectory) -> None:
    """End jobs that have appeared after the run's end. For callers within `only_controller`."""
    journal = Journal(run.journal_file)
    try:
        dispatcher = make_dispatcher(run, run.profile())
        end_strays(journal, dispatcher, run_tokens(run), known=())
    finally:
        journal.close()


def start_controller(run: RunDirectory) -> Callable[[], None] | None:
    """Start the controller: as a light Slurm job, as a process of its own session here, or in this process.

    For callers within `one_command`. What is returned, if anything, is to be called when that is over: in this process
    (``kind: in_process``) it runs the controller, and the run is over, or has failed, when it returns.
    """
    run.record()  # one that the controller could not read is refused here
    profile = run.profile()
    kind = controller_kind(profile)
    run.slurm.mkdir(exist_ok=True)
    if kind == "in_process":
        return _prepare_here(run)
    before = read_handle(run)
    handle = ControllerHandle(kind)
    # Before the job: whatever becomes of this process, one that appears is known for this start's.
    write_handle(run, handle)
    if kind == "slurm":
        try:
            job_id = _submit_controller(run, profile, handle)
        except QueueUnavailable:
            raise
        except MissingRequirement:
            if before is not None:
                write_handle(run, before)
            raise
        write_handle(run, replace(handle, job_id=job_id))
        return None
    # A session of its own: neither Ctrl-C nor a closed terminal reaches the run.
    with (run.slurm / "start.log").open("ab") as output:
        subprocess.run(
            [sys.executable, "-m", "agenttts.launch", str(run.path)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=True,
        )
    return None


def _submit_controller(run: RunDirectory, profile: Profile, handle: ControllerHandle) -> str:
    """The id of the Slurm job that becomes the controller."""
    needs = JobNeeds(
        name=f"ctl-{run_token(run)}",
        comment=f"agenttts run={run.name} controller {_mark(run)} {_START}{handle.start}",
        gpus=0,
        grace_seconds=profile.grace_seconds,
        # One controller a run, whoever starts how many: Slurm holds the second until the first has ended.
        dependency="singleton",
    )
    executor = slurm_executor(run.slurm / "controller", profile, profile.controller, needs)
    with submission_errors(), outer_environment():
        [job_id] = executor.submit_each(
            [ControllerJob(run.path, handle.start)], f"controller-{handle.start}"
        )
    return job_id


def _mark(run: RunDirectory) -> str:
    """The word in the comment of every job of a run's controllers."""
    return f"batch={run_token(run)}-controller"


def _prepare_here(run: RunDirectory) -> Callable[[], None]:
    """Make this process the run's controller; what is returned runs it, its log in ``slurm/controller/PID.err``.

    A failure of the run is in its journal afterwards, as other kinds of controllers leave it. An interrupt cancels
    the run and raises `RunFailed`.
    """
    handle = ControllerHandle(
        "in_process", str(os.getpid()), identity=process_identity(os.getpid())
    )
    folder = run.slurm / "controller"
    folder.mkdir(parents=True, exist_ok=True)
    held = ExitStack()
    held.enter_context(only_controller(run))
    with held:
        write_handle(run, handle)
        held = held.pop_all()

    def go_on() -> None:
        with held, log_file(folder / f"{handle.job_id}.err"):
            try:
                warn_of_changed_weights(run)
                make_controller(run, handle.start).run()
            except KeyboardInterrupt:
                close_cancelled(run)
                raise RunFailed(
                    f"run {run.path} was interrupted; 'agenttts-hpc resume {run.name}' goes on with it"
                ) from None
            except AgentTTSError:
                if read_state(run.journal_file).finished is None:
                    raise

    return go_on


def submit_local(run: RunDirectory) -> None:
    """Start the controller as a local submitit job of the calling session, for a start that is on record."""
    handle = read_handle(run)
    assert handle is not None
    executor = submitit.LocalExecutor(run.slurm / "controller")
    executor.update_parameters(timeout_min=60 * 24 * 365)
    job: submitit.Job[Any] = executor.submit(ControllerJob(run.path, handle.start))
    pid = str(job.job_id)
    write_handle(run, replace(handle, job_id=pid, identity=process_identity(pid)))


def controller_state(run: RunDirectory) -> JobStatus | None:
    """How the controller stands, with the reason in ``detail`` why it waits or did not start; None where none was started.

    ``state`` is `ELSEWHERE` for one on another host of which nothing is known here.
    """
    handle = read_handle(run)
    if handle is None:
        return None
    if handle.kind == "slurm":
        job_id = handle.job_id or _job_of_start(run, handle)
        if job_id is None:
            return JobStatus("UNKNOWN", ended=True, detail=_NO_ANSWER)
        state = job_states([job_id])[job_id]
        said = log_message(run.slurm / "controller", job_id) if state.ended else ""
        return replace(state, detail=said) if said else state
    if not handle.is_here:
        # On a shared file system a lock that is held says that a controller runs; that nobody holds it says nothing, because
        # locks may be the host's own.
        alive = is_locked(run.lock_file)
        if not alive and read_state(run.journal_file).finished != "done":
            return JobStatus(ELSEWHERE, ended=False, detail=handle.elsewhere())
    elif handle.kind == "in_process":
        alive = is_locked(run.lock_file)
    elif handle.job_id is None:
        alive = bool(_local_controllers(run))
    else:
        alive = is_process(handle.job_id, os.fsencode(run.slurm), handle.identity)
    return JobStatus("RUNNING" if alive else "ENDED", ended=not alive)


def _refuse_elsewhere(run: RunDirectory, more: str = "") -> None:
    """Raise `MissingRequirement` where only another host can tell whether the controller runs."""
    handle, state = read_handle(run), controller_state(run)
    if handle is not None and state is not None and state.state == ELSEWHERE:
        raise MissingRequirement(
            f"the controller {handle.elsewhere()}{more}",
            fix=f"run this command on {handle.host}; where that host is gone for good, remove {run.controller_file} and run "
            "it here",
        )


def _is_over_or_works(run: RunDirectory) -> bool:
    return read_state(run.journal_file).finished == "done" or _controller_works(run)


def _controller_works(run: RunDirectory) -> bool:
    """Whether the controller runs or will: not while Slurm is clearing up after its end, nor
    when it has been cancelled and is yet to end."""
    _refuse_elsewhere(run)
    handle, state = read_handle(run), controller_state(run)
    if handle is None or state is None or state.ended or handle.cancelled:
        return False
    if handle.kind == "slurm" and handle.job_id is None:
        write_handle(run, replace(handle, job_id=_job_of_start(run, handle)))
    # A job that is being requeued passes through COMPLETING too: a second controller then waits for it to end.
    return state.state != "COMPLETING"


def _job_of_start(run: RunDirectory, handle: ControllerHandle) -> str | None:
    """The job of a start whose submission got no answer."""
    rows = rows_with_comment(f"{_START}{handle.start}")
    live = [job for job, row in rows.items() if not row_status(job, row).ended]
    return next(iter([*live, *rows]), None)


def _stop_controllers(run: RunDirectory) -> None:
    """Stop every controller of the run, those of earlier starts too, and wait for their end."""
    handle = read_handle(run)
    if handle is None:
        return
    told: set[str] = set()
    start = time.monotonic()
    while live := _live_controllers(run, handle):
        new = [job for job in live if job not in told]
        # A process that does other things too, such as a notebook's, is to end the run by itself and go on with them.
        by_itself = handle.kind == "in_process" and time.monotonic() - start < _BY_ITSELF_S
        if handle.kind == "slurm" and new:
            cancel_jobs(new)
            told.update(new)
        elif handle.is_here and not by_itself:
            for pid in new:
                with suppress(ProcessLookupError):  # ended meanwhile
                    os.kill(int(pid), signal.SIGINT)
            told.update(new)
        if time.monotonic() - start > _STOP_PATIENCE_S:
            where = "" if handle.kind == "slurm" or handle.is_here else f" on {handle.host}"
            raise RunFailed(
                f"the controller (job {', '.join(live)}{where}) of {run.path} has not ended within {_STOP_PATIENCE_S:g} s. The "
                f"cancel is on record, and the controller ends when it sees it; 'agenttts-hpc cancel {run.name}' waits again"
            )
        time.sleep(0.2)


def _live_controllers(run: RunDirectory, handle: ControllerHandle) -> list[str]:
    """The jobs or processes of all controllers of the run that have not ended."""
    if handle.kind == "slurm":
        jobs = [*rows_with_comment(_mark(run)), *filter(None, [handle.job_id])]
        return [job for job, state in job_states(dict.fromkeys(jobs)).items() if not state.ended]
    if handle.kind == "local" and handle.is_here:
        return _local_controllers(run)
    return [str(handle.job_id)] if is_locked(run.lock_file) else []


def _local_controllers(run: RunDirectory) -> list[str]:
    """The processes of this machine that started controllers of the run, and end them in order when interrupted."""
    folder = os.fsencode(run.slurm / "controller")
    return [pid for pid in pids() if {RUNNER, folder} <= set(command_line(pid).split(b"\0"))]


def _create(run: RunDirectory, plan: Plan) -> bool:
    """Make the run directory: built beside its place and moved there whole; False where another launch was faster."""
    record = run_record(plan)
    temporary = run.path.with_name(f".{run.name}.{record.token}")
    staged = RunDirectory(temporary)
    try:
        temporary.mkdir(parents=True)
        for folder in (staged.samples, staged.slurm, temporary / "trials"):
            folder.mkdir()
        freeze_source(plan.spec.task.name, staged.task_source)
        frozen = {
            staged.examples_file: plan.examples,
            staged.finalist_examples_file: plan.finalist_examples,
            staged.test_examples_file: plan.test_examples,
        }
        digests = {
            file.name: write_examples(file, examples)
            for file, examples in frozen.items()
            if examples is not None
        }
        profile = plan.profile.model_dump(mode="json")
        staged.profile_file.write_text(yaml.safe_dump(profile, sort_keys=False), encoding="utf-8")
        write_record(staged.record_file, record.model_copy(update={"examples": digests}))
        staged.spec_file.write_text(dump_spec(plan.spec), encoding="utf-8")
        if plan.spec.samples:
            Path(plan.spec.samples).mkdir(parents=True, exist_ok=True)
        temporary.rename(run.path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if run.exists:
            return False
        raise MissingRequirement(
            f"the run directory {run.path} cannot be made: {error.strerror}",
            fix="choose another place with --results DIR, or another --name",
        ) from None
    return True


def _check_same(run: RunDirectory, spec: JobSpec) -> None:
    old, new = run.spec().model_dump(mode="json"), spec.model_dump(mode="json")
    changed = _differences(old, new)
    if changed:
        raise UserError(
            f"{run.path}: a run named '{run.name}' exists with another spec ({'; '.join(changed[:5])}); "
            "choose another name with --name, remove that run, or 'agenttts-hpc resume' it as it was"
        )


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            difference
            for key in dict.fromkeys([*old, *new])
            for difference in _differences(
                old.get(key), new.get(key), f"{path}.{key}" if path else str(key)
            )
        ]
    return [] if old == new else [f"{path} was {old!r}, is {new!r}"]
