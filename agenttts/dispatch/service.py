"""A service: a long-lived single job, e.g. a run's controller or served model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agenttts.dispatch.run_jobs import RunJobs

ELSEWHERE = "ELSEWHERE"
"""The state of a service or job that cannot be seen from here.

It is a process of another host, a job of another cluster, or of a user whose jobs are hidden."""


@dataclass(frozen=True)
class ServiceRequest:
    """A service to start: the controller of a run, or the model that a run serves.

    Args:
        name: Says which service it is. All its starts have it in common, and no other service.
        start: Unique to this start of the service.
        function: What the job calls; it is pickled. Its base class says what becomes of a job that
            the queue stops (`agenttts.dispatch.service_job`).
        title: The job's name in the queue, the same for all starts of the service.
        comment: What the queue shows of it for people.
        section: The section of the profile that says what the job asks for.
        gpus: GPUs of the job.
        requeue: Whether the queue may start the job again when its node is lost.
        exclude: Nodes that it should not run on. Where the queue refuses the job because no other
            node is left, it is submitted without them. Ignored where there are no nodes to choose
            among.
        one_at_a_time: The job waits until earlier ones of the same title have ended.
        ends_with_caller: Where services are processes of this host, it is a child of the caller and
            ends with it. Otherwise it goes on when the caller, its terminal or its session ends.
        log: Where a child's output goes.
    """

    name: str
    start: str
    function: Callable[[], Any]
    title: str
    comment: str
    section: Literal["controller", "trial"] = "controller"
    gpus: int = 0
    requeue: bool = True
    exclude: tuple[str, ...] = ()
    one_at_a_time: bool = False
    ends_with_caller: bool = False
    log: Path | None = None


@dataclass(frozen=True)
class Service:
    """A service as its owner has it on record.

    Args:
        name: As in `ServiceRequest`.
        start: Its last start; '' where that is not known.
        job_id: The job of that start; None as long as that is not known.
        host: The host that it was started from; '' where that is not known.
        identity: What tells its process from a later one with the same pid, for a process.
        is_locked: Says whether the service holds its own lock; None where it has none.
        jobs: The jobs of its run; None: those of the scheduler's run.
    """

    name: str
    start: str = ""
    job_id: str | None = None
    host: str = ""
    identity: str | None = None
    is_locked: Callable[[], bool] | None = None
    jobs: RunJobs | None = None

    @property
    def holds_lock(self) -> bool:
        """Whether the service has a lock of its own, and holds it."""
        return self.is_locked is not None and self.is_locked()
