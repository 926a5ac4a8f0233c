"""Trials as threads of the controller's own process.

This is meant for debugging, notebooks and tests.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from typing_extensions import override

from agenttts.dispatch.attempts import count_state
from agenttts.dispatch.base import JobRequest, JobStatus
from agenttts.dispatch.blame import AttemptEnd, blame
from agenttts.dispatch.host import HostScheduler, started
from agenttts.dispatch.node.job import TrialJob, due_trials, job_settings
from agenttts.dispatch.node.trial_log import LOG_FILE
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.run_jobs import UNKNOWN_RUN, RunJobs
from agenttts.dispatch.service import Service, ServiceRequest
from agenttts.errors import UserError
from agenttts.inference.base import (
    Completion,
    Engine,
    ModelConfig,
    OnFinished,
    Request,
    WrappedEngine,
)
from agenttts.inference.engine_process import create_engine
from agenttts.tables.schema import TrialState
from agenttts.trial.command import MODULE, AskedQuestion, DueTrial, TrialCommand
from agenttts.trial.spec import TrialSpec

log = logging.getLogger(__name__)

# Time between two checks whether a job's child has ended or the job was told to stop.
_POLL_S = 0.02


class InProcessScheduler(HostScheduler):
    """Threads of this process, one per job, at most ``max_running`` at a time.

    A trial's Python code runs in this process, so that a debugger and ``print`` work. Three kinds
    of trials run as child processes instead:

    - trials in a container
    - trials of a task of the user's own, whose modules would stay loaded for the next run
    - trials with the profile's ``setup`` lines, ``env`` or ``cache``

    GPUs are not divided: every trial sees all of them.

    All schedulers of one process know its jobs, by their folder. The jobs end with that process;
    polled from another process they have ended (`is_seen_through`). A service that does not end
    with its caller runs in the caller's own process too. It is identified by the lock that it
    holds, because the process may have other work to do.
    """

    name = "in_process"
    runs_in_this_process = True
    self_end_seconds = 3.0

    def __init__(self, profile: Profile, folder: Path, jobs: RunJobs = UNKNOWN_RUN) -> None:
        super().__init__(profile, folder, jobs)
        self._jobs = JOBS.setdefault(folder, {})

    def submit(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        return {request.trial: self._start(batch, request) for request in requests}

    def find(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        trials = {request.directory: request.trial for request in requests}
        jobs = {j.directory: job_id for job_id, j in self._jobs.items() if j.batch == batch}
        return {trials[place]: job_id for place, job_id in jobs.items() if place in trials}

    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        return {job_id: self._status(job_id) for job_id in job_ids}

    def strays(self, token: str, known: Collection[str]) -> dict[str, str]:
        live = (job_id for job_id, job in self._jobs.items() if job.alive)
        return {job_id: "a thread" for job_id in live if job_id not in known}

    def cancel(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            if job_id in self._jobs:
                self._jobs[job_id].stop()

    def await_cancelled(self) -> None:
        """Wait for the threads, for at most ``grace_seconds`` of the profile.

        A thread that has not ended then is a daemon, and ends with its process.
        """
        deadline = time.monotonic() + self._profile.grace_seconds
        for job in self._jobs.values():
            job.wait(deadline - time.monotonic())

    def _start(self, batch: str, request: JobRequest) -> str:
        job_id = f"{os.getpid()}.{next(_NUMBERS)}"
        job = _ThreadJob(job_id, batch, request, self._profile)
        self._jobs[job_id] = job
        job.start()
        return job_id

    def _status(self, job_id: str) -> JobStatus:
        job = self._jobs.get(job_id)
        if job is not None:
            return self._status_of(job.alive, "" if job.alive else job.problem)
        alive = self._is_child(job_id)
        return self._status_of(alive, "" if alive else "the process that was running it has ended")

    @override
    def is_seen_through(self, service: Service, job_id: str) -> bool:
        thread = job_id not in self._jobs and job_id.partition(".")[0] == service.job_id
        return thread or super().is_seen_through(service, job_id)

    @override
    def _start_own(self, request: ServiceRequest) -> Service:
        """Return the service that is to be this process; its owner calls the function."""
        return started(request, str(os.getpid()))

    @override
    def _own_services(self, service: Service) -> list[str]:
        return [service.job_id] if service.holds_lock and service.job_id else []

    @override
    def _service_runs(self, service: Service) -> bool:
        if service.is_locked is not None:
            return service.holds_lock
        return super()._service_runs(service)


class _Stop(BaseException):
    """The job was told to stop, or its time limit has passed."""


class _ThreadJob(TrialJob):
    """A trial's job in a thread of this process."""

    def __init__(self, job_id: str, batch: str, request: JobRequest, profile: Profile) -> None:
        super().__init__(**job_settings(request, profile))
        self.batch = batch
        self.problem = ""
        self._id = job_id
        self._setup = profile.setup
        self._stopped = threading.Event()
        self._deadline = time.monotonic() + self.limit_seconds
        self._thread = threading.Thread(target=self._target, name=f"trial-{job_id}", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Make the job end soon.

        Its child process ends at once. A trial in this process ends after its engine call.
        """
        self._stopped.set()

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, at most for so many seconds."""
        self._thread.join(max(0.0, seconds))

    def _target(self) -> None:
        try:
            while True:
                try:
                    self()
                    return
                except _Stop:
                    if self._stopped.is_set() or not self._may_go_on():
                        return
                    self._deadline = time.monotonic() + self.limit_seconds
        except (
            Exception
        ) as error:  # an error of this scheduler, e.g. a full disk: the trial is started again
            log.exception("the job of %s failed", self.directory.name)
            self.problem = f"{type(error).__name__}: {error}"

    def _may_go_on(self) -> bool:
        """Return whether a trial that reached its time limit is run again."""
        return any(
            count_state(self._counted_attempts(trial), TrialState.TIMEOUT) <= self.max_timeouts
            for trial in self.all_trials
        )

    @override
    def _say(self, text: str) -> None:
        log.info("%s", text)

    @override
    def _job_id(self) -> str:
        return self._id

    @override
    def _is_queued(self) -> bool:
        return False  # also in a user's own job of submitit

    @override
    def _execute(self, command: list[str]) -> int:
        trials = self._trials_to_run_here(command)
        if trials is not None:
            return self._evaluate(trials)
        if self._setup:
            script = "\n".join([*self._setup, 'exec "$@"'])
            command = ["/bin/bash", "-e", "-c", script, "bash", *command]
        child = self._start_child(command)
        while child.poll() is None:
            self._check()
            self._check_progress()
            if self.linger_seconds:
                self._feed_child(child)
            time.sleep(_POLL_S)
        return child.returncode

    def _trials_to_run_here(self, command: list[str]) -> TrialCommand | None:
        """Return the trials of the job if they may run in this process, else None."""
        program = [sys.executable, *MODULE]
        if command[: len(program)] != program or self._setup or self.env:
            return None
        if self._caches:  # variables of the trial's own process
            return None
        trials = TrialCommand.parse(command[len(program) :])
        return None if any(_has_own_modules(t.spec) for t in trials.trials) else trials

    def _evaluate(self, trials: TrialCommand) -> int:
        # Imported by the first job. A command that only looks at a run saves 100 modules.
        from agenttts.trial.run import run_trials

        with (self.directory / LOG_FILE).open("a", encoding="utf-8") as stream:

            def engine(config: ModelConfig) -> Engine:
                self._check()
                return _StoppableEngine(create_engine(config, stream), self._check)

            return run_trials(
                trials,
                engine,
                more=self._further_lists(),
                out=stream,
                err=stream,
                ended=lambda _: self._finish_ended(),
            )

    def _further_lists(self) -> Iterator[Sequence[DueTrial] | AskedQuestion]:
        """Yield the mailbox's lists, and questions, while the job stays."""
        while self.linger_seconds:
            if (question := self._next_question()) is not None:
                yield question
            if (due := self._next_trials()) is None:
                return
            self._check()
            self._finish_ended()  # of a trial whose end could not be recorded when it ended
            if due:
                yield due_trials(due)
            else:
                time.sleep(_POLL_S)

    def _check(self) -> None:
        """Raise `_Stop` if the job must end."""
        if self._stopped.is_set():
            raise _Stop
        if time.monotonic() > self._deadline:
            self._stop_child(self.grace_seconds * 0.7)
            self._attempts.finish_all(blame(AttemptEnd(stopped="time limit")), "time limit")
            raise _Stop


def _has_own_modules(spec: Path) -> bool:
    """Return whether a trial's task is the user's own.

    Its modules would stay loaded in this process.
    """
    try:
        return TrialSpec.read(spec).task_source is not None
    except UserError:
        return False  # the trial itself reports what is wrong with it


class _StoppableEngine(WrappedEngine):
    """An engine that calls ``check``, which may raise, before each of its calls."""

    def __init__(self, engine: Engine, check: Callable[[], None]) -> None:
        super().__init__(engine)
        self._check = check

    def generate(
        self, requests: Sequence[Request], on_finished: OnFinished | None = None
    ) -> list[Completion]:
        """Return what the engine generates, unless the check raises."""
        self._check()
        return super().generate(requests, on_finished)


_NUMBERS = itertools.count()
JOBS: dict[Path, dict[str, _ThreadJob]] = {}
"""The jobs of this process by folder and number, also those that have ended."""
