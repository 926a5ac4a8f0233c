"""Trials as processes of this machine, through submitit's local executor."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]  # it has no types
import submitit
from typing_extensions import override

from agenttts.dispatch.base import OUTLIVED, JobRequest, JobStatus, NamedJob
from agenttts.dispatch.host import HostScheduler, started
from agenttts.dispatch.local_executor import SafePathExecutor
from agenttts.dispatch.node.devices import numbered_devices
from agenttts.dispatch.node.job import UNLIMITED_REQUEUES, TrialJob
from agenttts.dispatch.pickled import Pickled
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.run_jobs import UNKNOWN_RUN, RunJobs
from agenttts.dispatch.service import Service, ServiceRequest
from agenttts.dispatch.slurm.syntax import minutes
from agenttts.errors import MissingRequirement, counted
from agenttts.files.documents import parse_json
from agenttts.files.processes import (
    children,
    command_line,
    environment,
    is_dying,
    parents,
    pids,
)

log = logging.getLogger(__name__)

# The module that runs a local job's process from start to end.
RUNNER = b"submitit.local._local"
# The module that it starts, which continues if the first one is killed.
_TASK = b"submitit.core._submit"
# Variables that submitit sets: the first in all processes of a job, the second in its task's.
_COMMAND = "SUBMITIT_LOCAL_COMMAND"
_JOB = "SUBMITIT_LOCAL_JOB_ID"


class LocalScheduler(HostScheduler):
    """Processes of this host: ``max_running`` jobs at a time.

    GPUs are divided among them. A job id is the pid of submitit's process for the job, which
    outlives the controller. A restarted controller finds it by pid and folder.

    A service that does not end with its caller is such a process too, in a session of its own:
    neither Ctrl-C nor a closed terminal reaches it.
    """

    name = "local"

    def __init__(self, profile: Profile, folder: Path, jobs: RunJobs = UNKNOWN_RUN) -> None:
        # Jobs are known by the folder in their command lines. It may be named by a link, or not.
        super().__init__(profile, folder.resolve(), jobs)
        self._jobs: dict[str, submitit.Job[str]] = {}
        self._given: dict[str, list[int]] = {}
        self._quoted = shlex.quote(str(self._folder))

    def submit(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        return {request.trial: self._start(request) for request in requests}

    def find(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        trials: dict[Path | None, str] = {request.directory: request.trial for request in requests}
        found: dict[str, str] = {}
        for job_id in self._live():
            directory = self._directory(job_id)
            if directory in trials:
                found[trials[directory]] = job_id
        return found

    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        return {job_id: self._status(job_id) for job_id in job_ids}

    def strays(self, token: str, known: Collection[str]) -> dict[str, str]:
        """Return processes of unknown jobs, and those that outlived their job's process."""
        live = self._live()
        mine = {*known, *live}
        # A job's shell runs the job's process, which runs its task, which runs its program. The
        # helpers of a container leave their parents, but know their job.
        jobs = [pid for pid in live if pid not in known and not mine & set(parents(pid))]
        strays = dict.fromkeys(jobs, "a process")
        for pid in self._members():
            if pid not in live and environment(pid).get(_JOB) not in live:
                above = set(parents(pid))
                if not above & set(live) and self._started(pid):
                    strays[pid] = OUTLIVED
        return strays

    @override
    @classmethod
    def jobs_of(cls, run: str) -> list[NamedJob]:
        folders = {pid: _folder_of(pid) for pid in pids()}
        return [
            NamedJob(pid, "", "RUNNING", folder)
            for pid, folder in folders.items()
            if folder is not None and run in folder.parts
        ]

    def cancel(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            if self._alive(job_id):
                with suppress(ProcessLookupError):  # it ended before the signal
                    os.kill(_runner(int(job_id)), signal.SIGINT)
            elif self._started(job_id):  # a trial's program that outlived its job
                with suppress(ProcessLookupError):
                    os.kill(int(job_id), signal.SIGTERM)

    def check_request(self, section: str, gpus: int) -> None:
        listed = len(self._devices())
        if gpus > listed and numbered_devices():
            raise MissingRequirement(
                f"a trial takes {counted(gpus, 'GPU')}, and CUDA_VISIBLE_DEVICES lists {listed}",
                fix="list more GPUs in CUDA_VISIBLE_DEVICES, or unset it to use all of this "
                "machine",
            )

    def await_cancelled(self) -> None:
        deadline = time.monotonic() + self._profile.grace_seconds
        while members := self._members():
            if time.monotonic() > deadline:
                log.warning("processes of cancelled jobs are killed: %s", ", ".join(members))
                for pid in members:
                    # It has ended, or is another user's who resumed the run.
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(int(pid), signal.SIGKILL)
                return
            time.sleep(0.05)

    def _start(self, request: JobRequest) -> str:
        executor = SafePathExecutor(self._folder, max_num_timeout=UNLIMITED_REQUEUES)
        limit = minutes(self._profile.trial.time)
        devices = self._free_devices(request.gpus)
        executor.update_parameters(
            timeout_min=limit,
            signal_delay_s=self._profile.grace_seconds,
            gpus_per_node=len(devices),
            visible_gpus=devices,
            setup=self._profile.setup,
        )
        job = executor.submit(Pickled.of(TrialJob.of(request, self._profile)))
        self._jobs[job.job_id] = job
        self._given[job.job_id] = devices
        return str(job.job_id)

    def _free_devices(self, count: int) -> list[int]:
        # An earlier controller's jobs are known from their processes. This one's may not be visible
        # there yet: for a moment after its start, a program has no environment.
        live = self._live()
        busy = {device for job in live for device in numbered_devices(environment(job))}
        for job_id, given in self._given.items():
            if self._alive(job_id):
                busy.update(given)
        ours = self._devices()
        free = [d for d in ours if d not in busy]
        # If trials ask for more GPUs than there are, GPUs are shared; the operator sets
        # `max_running`.
        return [*free, *(d for d in ours if d in busy)][:count]

    @override
    def _start_own(self, request: ServiceRequest) -> Service:
        problem = self._run_starter(request)
        if problem is None:
            known = parse_json((self._folder / f"{request.start}.json").read_bytes())
            return started(request, known["job_id"], known["identity"])
        for pid in self._own_pids():
            # It started, and what failed came after that.
            log.warning(
                "the starter process of %s failed after the start: %s", request.name, problem
            )
            return started(request, pid)
        raise MissingRequirement(
            f"the {request.section} could not be started here: {problem}",
            fix=(
                "fix the cause (a limit on processes or memory, a full disk or quota), "
                "then run the same command again"
            ),
        )

    def _run_starter(self, request: ServiceRequest) -> str | None:
        """Run the program that starts a service.

        Returns:
            None if it succeeded, else the last line that it wrote.
        """
        output = self._folder.parent / "start.log"
        problem = ""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            function = cloudpickle.dumps(request.function)
            told = cloudpickle.dumps((self._folder, request.start, function))
            with output.open("ab") as stream:
                before = stream.tell()
                done = subprocess.run(
                    [sys.executable, "-P", "-m", "agenttts.dispatch.detached"],
                    input=told,
                    # In a session of its own, so that neither Ctrl-C nor a closed terminal reaches
                    # the service.
                    start_new_session=True,
                    stdout=stream,
                    stderr=stream,
                    check=False,
                )
            if done.returncode == 0:
                return None
            problem = f"exit code {done.returncode}"
            with output.open("rb") as stream:
                stream.seek(before)
                lines = stream.read().decode(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), problem)
        except OSError as error:  # a limit on processes, a full disk
            return problem or f"{error.filename or sys.executable}: {error.strerror}"

    @override
    def _own_services(self, service: Service) -> list[str]:
        """Return the processes that started the service.

        When interrupted, they end it in order.
        """
        return self._own_pids()

    def _own_pids(self) -> list[str]:
        wanted = {RUNNER, os.fsencode(self._folder)}
        return [pid for pid in pids() if wanted <= set(command_line(pid).split(b"\0"))]

    def _status(self, job_id: str) -> JobStatus:
        return self._status_of(self._alive(job_id))

    def _alive(self, job_id: str) -> bool:
        job = self._jobs.get(job_id)
        if job is not None:
            return not job.done()
        return self._is_ours(job_id) or self._is_child(job_id)

    def _live(self) -> list[str]:
        """Return the processes of jobs of this folder, whoever started them."""
        return [pid for pid in pids() if self._is_ours(pid)]

    def _members(self) -> list[str]:
        """Return the processes of jobs of this folder, and all that these have started."""
        return [pid for pid in pids() if self._is_ours(pid) or self._started(pid)]

    def _started(self, pid: str) -> bool:
        """Return whether the task of a job of this folder has started a process.

        What the profile's `setup` lines have started (a daemon that other runs use, too) is not
        counted.
        """
        variables = environment(pid)
        mine = variables.get(_COMMAND, "").endswith(f" {self._quoted}")
        return mine and _JOB in variables and not is_dying(pid)

    def _is_ours(self, pid: str) -> bool:
        # The pid may have been given to another program since. It is a job of ours only if its
        # command line has our folder.
        command = command_line(pid)
        if RUNNER not in command and _TASK not in command:
            return False
        # With `setup` lines the shell's program ends with the command.
        folder, last = os.fsencode(self._folder), os.fsencode(f" {self._quoted}")
        return any(word == folder or word.endswith(last) for word in command.split(b"\0"))

    def _directory(self, job_id: str) -> Path | None:
        """Return the directory of the trial that a job is for.

        None if the job has not been told; it then ends by itself.
        """
        path = submitit.core.utils.JobPaths(self._folder, job_id).submitted_pickle
        try:
            job = submitit.core.utils.DelayedSubmission.load(path).function
        except FileNotFoundError:
            return None
        return job.directory if isinstance(job, TrialJob) else None


def _runner(pid: int) -> int:
    """Return the process that ends a job in order when interrupted.

    With `setup` lines it is a child of the job's shell.
    """
    if RUNNER in command_line(pid).split(b"\0"):
        return pid
    return next((int(c) for c in children(pid) if RUNNER in command_line(c).split(b"\0")), pid)


def _folder_of(pid: str) -> Path | None:
    """Return the folder that a job was submitted from; None for any other process."""
    words = command_line(pid).rstrip(b"\0").split(b"\0")
    # With `setup` lines a shell, which is not the job's own process, has the words in one.
    return Path(os.fsdecode(words[-1])) if RUNNER in words else None
