"""The common part of schedulers whose jobs are processes or threads of this host."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from submitit.core.utils import cloudpickle_dump

from agenttts.dispatch.base import JobRequest, JobStatus, Scheduler
from agenttts.dispatch.node.devices import numbered_devices
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.run_jobs import UNKNOWN_RUN, RunJobs
from agenttts.dispatch.service import ELSEWHERE, Service, ServiceRequest
from agenttts.files.processes import (
    command_line,
    die_with_parent,
    end_process,
    is_dying,
    pids,
    process_identity,
)
from agenttts.files.signals import signals_held
from agenttts.tables.schema import TrialState

# The module of a service that ends with its caller.
_CHILD = b"agenttts.dispatch.child_service"
_STOP_PATIENCE_S = 20.0


class HostScheduler(Scheduler):
    """The base of schedulers that run jobs on this host, without a queue.

    At most ``max_running`` jobs run at a time. A service is a process. One that ends with its
    caller is a child of the caller. It gets the last GPUs, because trials take the first ones.
    """

    def __init__(self, profile: Profile, folder: Path, jobs: RunJobs = UNKNOWN_RUN) -> None:
        super().__init__(profile, folder, jobs)
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def capacity(self, live: int) -> int:
        return max(0, self._profile.max_running - live)

    def withdraw(self, batch: str, requests: Sequence[JobRequest], trials: Collection[str]) -> None:
        """Do nothing: no job can appear later on this host."""

    def avoid(self, job_ids: object, nodes: Sequence[str]) -> list[str] | None:
        """Return None: this machine is the only node."""
        return None

    def start_service(self, request: ServiceRequest) -> Service:
        if request.ends_with_caller:
            return self._start_child(request)
        return self._start_own(request)

    def find_service(self, service: Service) -> str | None:
        own = (pid for pid, child in self._children.items() if child.poll() is None)
        return next(own, None) or next(iter(self._own_services(service)), None)

    def live_services(self, service: Service) -> list[str]:
        if not self.reaches(service):
            return [str(service.job_id)] if service.holds_lock else []
        return [*self._own_services(service), *self._live_children()]

    def is_seen_through(self, service: Service, job_id: str) -> bool:
        return not self.reaches(service)

    def service_status(self, service: Service) -> JobStatus:
        if not self.reaches(service):
            # On a shared file system, a held lock shows that the service runs. A free lock shows
            # nothing, because locks may be local to the host.
            if service.holds_lock:
                return JobStatus("RUNNING", ended=False)
            return JobStatus(ELSEWHERE, ended=False, detail=_elsewhere(service))
        return self._status_of(self._service_runs(service))

    def stop_service(self, service: Service, job_ids: Collection[str]) -> None:
        children = self._live_children()
        for pid in job_ids:
            if pid in children:
                end_process(int(pid), patience=_STOP_PATIENCE_S)
                if pid in self._children:
                    self._children.pop(pid).wait()
            else:
                with suppress(ProcessLookupError):  # it has ended in the meantime
                    os.kill(int(pid), signal.SIGINT)

    def reaches(self, service: Service) -> bool:
        return service.host in ("", socket.gethostname())

    def host_of(self, service: Service) -> str | None:
        return service.host or None

    def describe(self, service: Service) -> str:
        return f"process {service.job_id}{f' on {service.host}' if service.host else ''}"

    @abstractmethod
    def _start_own(self, request: ServiceRequest) -> Service:
        """Start a service that does not end with its caller."""

    @abstractmethod
    def _own_services(self, service: Service) -> list[str]:
        """Return the live processes of services that `_start_own` has started."""

    def _service_runs(self, service: Service) -> bool:
        """Return whether a service of this host runs."""
        if service.job_id is None:
            return self.find_service(service) is not None
        return is_process(service.job_id, os.fsencode(self._folder), service.identity)

    def _status_of(self, alive: bool, detail: str = "") -> JobStatus:
        if alive:
            return JobStatus("RUNNING", ended=False)
        return JobStatus("ENDED", ended=True, verdict=TrialState.INFRA_FAILED, detail=detail)

    def _start_child(self, request: ServiceRequest) -> Service:
        self._folder.mkdir(parents=True, exist_ok=True)
        pickled = self._folder / f"{request.name}.{request.start}.pkl"
        cloudpickle_dump(request.function, pickled)
        # In a user's own job of submitit, this process is not the job that submitit runs.
        env = {name: value for name, value in os.environ.items() if name != "SUBMITIT_EXECUTOR"}
        devices = self._devices()[-request.gpus :] if request.gpus else ()
        if devices:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
        log = request.log or self._folder / f"{request.name}.log"
        with log.open("ab") as output, signals_held():
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", os.fsdecode(_CHILD), str(pickled)],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
            self._children[str(child.pid)] = child
        return started(request, str(child.pid))

    def _devices(self) -> list[int]:
        """Return the GPUs that jobs may use.

        They are those of CUDA_VISIBLE_DEVICES, because others may use the rest of a shared host.
        """
        most = self._profile.gpus_per_node
        return (numbered_devices() or list(range(most)))[:most]

    def _live_children(self) -> list[str]:
        """Return the live children of this folder, including those of callers that died."""
        return [pid for pid in pids() if self._is_child(pid)]

    def _is_child(self, pid: str) -> bool:
        words = command_line(pid).split(b"\0")
        return _CHILD in words and any(
            Path(os.fsdecode(word)).parent == self._folder for word in words if word
        )


def is_process(pid: str, mark: bytes, identity: str | None) -> bool:
    """Return whether a process of this host is the one that was started as a service.

    Args:
        pid: The process.
        mark: A text in its command line.
        identity: Its `agenttts.files.processes.process_identity` when it was started; None if an
            older version did not record it.
    """
    if mark not in command_line(pid) or is_dying(pid):
        return False
    return identity is None or process_identity(pid) == identity


def started(request: ServiceRequest, pid: str, identity: str | None = None) -> Service:
    """Return the record of a service that was started here as the process ``pid``."""
    return Service(
        request.name,
        request.start,
        pid,
        socket.gethostname(),
        identity or process_identity(pid),
    )


def _elsewhere(service: Service) -> str:
    """Return why nothing is known here of a service on another host."""
    return (
        f"is process {service.job_id} on {service.host}, which cannot be reached from this host "
        f"({socket.gethostname()})"
    )
