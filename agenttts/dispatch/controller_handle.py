"""Which job or process a run's controller is, and whether a process of some host is still that one."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from agenttts.dispatch.base import JobStatus
from agenttts.dispatch.proc import command_line, process_identity
from agenttts.dispatch.profile import Profile
from agenttts.errors import MissingRequirement

ControllerKind = Literal["slurm", "local", "in_process"]

ELSEWHERE = "ELSEWHERE"
"""The state of a controller on another host, whose processes cannot be seen from here."""


def controller_kind(profile: Profile) -> ControllerKind:
    """How a profile's controller runs: as a job of Slurm, as a process of its own here, or in the launching process."""
    if profile.kind == "slurm" and profile.controller.where == "here":
        return "local"
    return profile.kind


@dataclass(frozen=True)
class ControllerHandle:
    """A Slurm job id; or the pid of submitit's local process, or of the launching one, with its host.

    ``identity`` tells the process from a later one with the same pid (`agenttts.dispatch.proc.process_identity`). Both
    are None for jobs, and in handles that an older version wrote.
    """

    kind: str
    job_id: str
    host: str | None = None
    identity: str | None = None

    @classmethod
    def of_process(cls, kind: ControllerKind, pid: int | str) -> ControllerHandle:
        """The handle of a process of this host."""
        return cls(kind, str(pid), socket.gethostname(), process_identity(pid))

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ControllerHandle:
        """The handle in a run's ``controller.json``."""
        host, identity = document.get("host"), document.get("identity")
        return cls(
            str(document["kind"]),
            str(document["job_id"]),
            None if host is None else str(host),
            None if identity is None else str(identity),
        )

    @property
    def elsewhere(self) -> bool:
        """Whether it is a process of another host."""
        return self.host is not None and self.host != socket.gethostname()

    def described(self) -> str:
        """For people: what it is and how it is found."""
        if self.kind == "slurm":
            return f"Slurm job {self.job_id} (squeue --me)"
        return f"process {self.job_id}{f' on {self.host}' if self.host else ''}"

    def process_status(self, mark: bytes, *, locked: bool) -> JobStatus:
        """How a controller that is a process of its own stands.

        Args:
            mark: What its command line holds.
            locked: Whether somebody holds the run's lock. On a shared file system that says that a controller of another
                host runs; that nobody holds it says nothing, because locks may be the host's own.
        """
        if self.elsewhere:
            if locked:
                return JobStatus("RUNNING", ended=False)
            return JobStatus(ELSEWHERE, ended=False, detail=self._elsewhere())
        alive = mark in command_line(self.job_id)
        if alive and self.identity is not None:
            alive = process_identity(self.job_id) == self.identity
        return JobStatus("RUNNING" if alive else "ENDED", ended=not alive)

    def interrupt(self) -> None:
        """Ask the process to end in order. Raises `MissingRequirement` where it is another host's."""
        self.check_here()
        with suppress(ProcessLookupError):  # ended meanwhile
            os.kill(int(self.job_id), signal.SIGINT)

    def check_here(self, otherwise: str = "") -> None:
        """Raise `MissingRequirement` where the process is another host's; ``otherwise``: what to do where that host is gone."""
        if self.elsewhere:
            raise MissingRequirement(
                f"the controller {self._elsewhere()}",
                fix=f"run this command on {self.host}{otherwise}",
            )

    def _elsewhere(self) -> str:
        return (
            f"was started on {self.host} as process {self.job_id}; this is {socket.gethostname()}, from where it cannot be "
            "seen or signalled"
        )
