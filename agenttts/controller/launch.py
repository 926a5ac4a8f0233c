"""What the commands do: launch, resume, cancel, and starting the controller where it belongs."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import submitit
import yaml

from agenttts import __version__
from agenttts.controller.examples import write_examples
from agenttts.controller.journal import read_state
from agenttts.controller.plan import Plan
from agenttts.controller.process import (
    ControllerJob,
    is_locked,
    log_file,
    make_controller,
    only_controller,
    warn_of_changed_weights,
)
from agenttts.controller.rebuild import Rebuilt, rebuild_journal
from agenttts.controller.retry import retry_failed
from agenttts.controller.run import RunDirectory
from agenttts.dispatch.base import JobStatus, QueueUnavailable
from agenttts.dispatch.batch_script import log_message
from agenttts.dispatch.image import digest
from agenttts.dispatch.proc import command_line
from agenttts.dispatch.request import JobNeeds
from agenttts.dispatch.slurm_queue import job_states, run_slurm
from agenttts.dispatch.submission import outer_environment, slurm_executor, submission_errors
from agenttts.errors import AgentTTSError, MissingRequirement, RunFailed, UserError
from agenttts.spec import JobSpec, dump_spec
from agenttts.tables.atomic import atomic_write_json
from agenttts.tasks.user_tasks import freeze_source


@dataclass(frozen=True)
class ControllerHandle:
    """Which job the controller is: a Slurm job id, or the pid of submitit's local process or of the launching one."""

    kind: str
    job_id: str


def launch(plan: Plan, results: Path) -> tuple[RunDirectory, bool]:
    """Create the run and start its controller; or go on with it when it exists with the same spec.

    Returns the run and whether it is new. Raises `UserError` when a run of that name has another spec.
    """
    run = RunDirectory(results.absolute() / plan.spec.name)
    if run.exists:
        _check_same(run, plan.spec)
        resume(run)
        return run, False
    first = not run.path.parent.exists()
    _create(run, plan)
    try:
        start_controller(run)
    except (
        QueueUnavailable
    ):  # it may have been submitted: the run stays, and launching again goes on with it
        raise
    except MissingRequirement:  # refused: nothing was submitted, so nothing is left behind either
        if run.journal_file.exists() or not run.exists:
            raise  # it was not: the run had begun, or is gone
        shutil.rmtree(run.path)
        if first:
            with suppress(OSError):  # somebody else has launched there meanwhile
                run.path.parent.rmdir()
        raise
    return run, True


def resume(run: RunDirectory) -> None:
    """Start the controller of a run again unless it runs or the run is over."""
    if read_state(run.journal_file).finished == "done" or _controller_works(run):
        return
    start_controller(run)


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
    with only_controller(run):
        rebuilt = rebuild_journal(run) if from_tables else None
        return rebuilt, retry_failed(run) if retry else []


def cancel(run: RunDirectory) -> None:
    """Stop the controller and every job of the run; what has finished is kept, `resume` may go on from it."""
    handle = read_handle(run)
    if handle and controller_alive(run):
        _stop_controller(handle)
        deadline = time.monotonic() + 90
        while controller_alive(run):
            if time.monotonic() > deadline:
                raise RunFailed(f"the controller (job {handle.job_id}) of {run.path} does not end")
            time.sleep(0.2)
    state = read_state(run.journal_file)
    # A run that an error ended may have left jobs behind.
    if state.finished is None or (state.finished != "done" and state.unfinished()):
        make_controller(run).cancel("cancelled")


def start_controller(run: RunDirectory) -> ControllerHandle:
    """Start the controller: as a light Slurm job, as a process of its own session here, or in this process.

    In this process (``kind: in_process``) the run is over, or has failed, when this returns.
    """
    profile = run.profile()
    run.slurm.mkdir(exist_ok=True)
    if profile.kind == "slurm":
        token = run.origin()["token"]
        needs = JobNeeds(
            name=f"ctl-{run.name}-{token}",
            comment=f"agenttts run={run.name} controller",
            gpus=0,
            grace_seconds=profile.grace_seconds,
            # One controller a run, whoever starts how many: Slurm holds the second until the first has ended.
            dependency="singleton",
        )
        executor = slurm_executor(run.slurm / "controller", profile, profile.controller, needs)
        with submission_errors(), outer_environment():
            [job_id] = executor.submit_each([ControllerJob(run.path)])
        handle = ControllerHandle("slurm", job_id)
        atomic_write_json(run.controller_file, vars(handle))
        return handle
    if profile.kind == "in_process":
        return _run_here(run)
    # A session of its own: neither Ctrl-C nor a closed terminal reaches the run.
    with (run.slurm / "start.log").open("ab") as log:
        subprocess.run(
            [sys.executable, "-m", "agenttts.controller", str(run.path)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
        )
    started = read_handle(run)
    assert started is not None
    return started


def _run_here(run: RunDirectory) -> ControllerHandle:
    """Run the controller in this process, its log in the run's ``slurm/controller/PID.err``.

    A failure of the run is in its journal afterwards, as other kinds of controllers leave it. An interrupt cancels
    the run and raises `RunFailed`.
    """
    handle = ControllerHandle("in_process", str(os.getpid()))
    folder = run.slurm / "controller"
    folder.mkdir(exist_ok=True)
    with only_controller(run), log_file(folder / f"{handle.job_id}.err"):
        atomic_write_json(run.controller_file, vars(handle))
        try:
            warn_of_changed_weights(run)
            make_controller(run).run()
        except KeyboardInterrupt:
            make_controller(run).cancel("cancelled")
            raise RunFailed(
                f"run {run.path} was interrupted; 'agenttts-hpc resume {run.name}' goes on with it"
            ) from None
        except AgentTTSError:
            if read_state(run.journal_file).finished is None:
                raise
    return handle


def submit_local(run: RunDirectory) -> None:
    """Start the controller as a local submitit job of the calling session."""
    executor = submitit.LocalExecutor(run.slurm / "controller")
    executor.update_parameters(timeout_min=60 * 24 * 365)
    job: submitit.Job[Any] = executor.submit(ControllerJob(run.path))
    atomic_write_json(run.controller_file, vars(ControllerHandle("local", str(job.job_id))))


def read_handle(run: RunDirectory) -> ControllerHandle | None:
    """Which job the controller was last started as."""
    document = run.controller()
    return ControllerHandle(document["kind"], str(document["job_id"])) if document else None


def controller_state(run: RunDirectory) -> JobStatus | None:
    """How the controller stands, with the reason in ``detail`` why it waits or did not start; None where none was started."""
    handle = read_handle(run)
    if handle is None:
        return None
    if handle.kind == "slurm":
        state = job_states([handle.job_id])[handle.job_id]
        said = log_message(run.slurm / "controller", handle.job_id) if state.ended else ""
        return replace(state, detail=said) if said else state
    if handle.kind == "in_process":
        alive = is_locked(run.lock_file)
    else:
        alive = str(run.slurm).encode() in command_line(handle.job_id)
    return JobStatus("RUNNING" if alive else "ENDED", ended=not alive)


def controller_alive(run: RunDirectory) -> bool:
    """Whether the controller runs or waits in the queue."""
    state = controller_state(run)
    return state is not None and not state.ended


def _controller_works(run: RunDirectory) -> bool:
    """Whether the controller runs or will: unlike `controller_alive` not while Slurm is clearing up after its end."""
    handle = read_handle(run)
    if handle is not None and handle.kind == "slurm":
        state = job_states([handle.job_id])[handle.job_id]
        # A job that is being requeued passes through COMPLETING too: a second controller then waits for it to end.
        return not state.ended and state.state != "COMPLETING"
    return controller_alive(run)


def _stop_controller(handle: ControllerHandle) -> None:
    if handle.kind == "slurm":
        run_slurm(["scancel", handle.job_id])
        return
    with suppress(ProcessLookupError):  # ended meanwhile
        os.kill(int(handle.job_id), signal.SIGINT)


def _create(run: RunDirectory, plan: Plan) -> None:
    """Make the run directory: built beside its place and moved there whole."""
    origin: dict[str, Any] = {
        "token": secrets.token_hex(4),
        "version": __version__,
        "gpus": {name: need.gpus for name, need in plan.needs.items()},
        "models": {name: facts.to_record() for name, facts in plan.facts.items()},
        "agent_gpus": plan.agent_need.gpus if plan.agent_need else None,
        "skip_bad": plan.spec.task.skip_bad,
        "data": plan.data.to_json(),
        "image": None,
    }
    if plan.container is not None:
        image = plan.container.image
        origin["image"] = {"path": str(image), "sha256": digest(image)}
    temporary = run.path.with_name(f".{run.name}.{origin['token']}")
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
        origin["examples"] = {
            file.name: write_examples(file, examples)
            for file, examples in frozen.items()
            if examples is not None
        }
        profile = plan.profile.model_dump(mode="json")
        staged.profile_file.write_text(yaml.safe_dump(profile, sort_keys=False), encoding="utf-8")
        staged.origin_file.write_text(json.dumps(origin, indent=2), encoding="utf-8")
        staged.spec_file.write_text(dump_spec(plan.spec), encoding="utf-8")
        if plan.spec.samples:
            Path(plan.spec.samples).mkdir(parents=True, exist_ok=True)
        temporary.rename(run.path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise MissingRequirement(
            f"the run directory {run.path} cannot be made: {error.strerror}",
            fix="choose another place with --results DIR, or another --name",
        ) from None


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
