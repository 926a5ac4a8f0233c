"""What a scheduler is: it starts the jobs of a run somewhere and says how they stand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from agenttts.dispatch.check import Check
from agenttts.dispatch.node.scratch import CompileCache
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.errors import MissingRequirement
from agenttts.tables.schema import TrialState

ELSEWHERE = "ELSEWHERE"
"""The state of a service on another host, whose processes cannot be seen from here."""


class QueueUnavailable(MissingRequirement):
    """The queue does not do for now what is asked of it; without an answer, it may have done it all the same."""


class SubmitLimitReached(QueueUnavailable):
    """So many jobs more are refused for now; fewer may be taken, or these when others have ended."""


@dataclass(frozen=True)
class JobRequest:
    """One trial to start: the command of its job, where it writes, and how it shows in the queue.

    ``name`` and ``comment`` are what squeue shows; ``gpus`` is its resource class; ``cache`` is where a container keeps
    compiled code between jobs; ``needs`` are the files and directories that it reads, which its node must see; ``exclude``
    are nodes that it should not run on. ``earlier_attempts`` of the trial's attempts do not count against its limits.
    """

    trial: str
    directory: Path
    command: tuple[str, ...]
    env: Mapping[str, str]
    gpus: int
    name: str
    comment: str
    cache: CompileCache | None = None
    needs: tuple[Path, ...] = ()
    exclude: tuple[str, ...] = ()
    earlier_attempts: int = 0


@dataclass(frozen=True)
class ServiceRequest:
    """A long-lived single job to start: the controller of a run, the model that a run serves.

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
    """

    name: str
    start: str = ""
    job_id: str | None = None
    host: str = ""
    identity: str | None = None
    is_locked: Callable[[], bool] | None = None


@dataclass(frozen=True)
class JobStatus:
    """How a job stands.

    ``state`` is PENDING for a job that waits, COMPLETING for one that is cleaned up after, and the queue's own word for
    the rest; ``ended`` says that it will not run again by itself. ``verdict`` is what the end means for a trial that left no
    result; None while the job lives. ``never_started``: the job has ended before its trial's attempt began, and ``detail``
    says why. ``stuck``: it waits for what will not come by itself. ``node``: where it ran last, '' when unknown.
    """

    state: str
    ended: bool
    verdict: TrialState | None = None
    detail: str = ""
    never_started: bool = False
    stuck: bool = False
    node: str = ""

    @property
    def pending(self) -> bool:
        """Whether it waits to be started."""
        return self.state == "PENDING"

    @property
    def completing(self) -> bool:
        """Whether its program has ended, and only its node is being cleaned up."""
        return self.state == "COMPLETING"


class Scheduler(ABC):
    """Starts the jobs of one run, and says how they stand. A new backend is a subclass of this one.

    To add one: write the subclass, name it in `agenttts.dispatch.schedulers.SCHEDULERS` and in
    ``Profile.kind``, and add it to ``tests/dispatch/test_scheduler_conformance.py``, which it must pass.

    **Ownership.** A scheduler is made for a profile and a folder. The folder is for what it submits
    (batch files, pickles, logs) and belongs to it alone. Trials have one folder and each service has
    one of its own. The trial's directory belongs to the job while it runs; the scheduler never
    writes there. Journal and handles belong to the caller, which writes down what it is about to
    submit *before* it calls `submit` or `start_service`.

    **State.** A scheduler keeps nothing that a new one could not rebuild from job ids, batch tokens
    and names of services, or find out again. Making one asks nothing of a queue and writes nothing.

    **A killed caller.** The caller may be killed between any two lines. Jobs that it has submitted
    run on (but for services with ``ends_with_caller``), and a new scheduler of the same profile and
    folder finds them: those of a batch by `find`, a service by `find_service`. What a job runs must
    be on disk before the job can start. So each job carries its batch token, or its service's name
    and start, where the queue can be asked for it.

    **Order of calls.** All of them may be called at any time, by several processes at once, for jobs that another
    process has submitted. A batch token or a start is used for one submission that was taken; the same batch may be
    submitted again after a refusal. `cancel`, `withdraw` and `stop_service` may be called for jobs that have ended, and
    again.

    **Errors.** `QueueUnavailable` means that asking again later may do; a `submit` or `start_service` that raised it may
    have been done all the same. `SubmitLimitReached` is one that says that fewer jobs may be taken. Any other
    `MissingRequirement` is a refusal: nothing was submitted. `UserError` is for a profile or a folder that cannot work.
    Methods that raise something are those of jobs and services, `check_folder` and `check_reachable`; the rest must not.

    **Time.** A call returns within a minute or so; none waits for a job to start or to end, except
    `stop_service`, which may wait for a child of this process.
    """

    name: ClassVar[str]
    """The profile's ``kind``."""
    has_nodes: ClassVar[bool] = False
    """Whether jobs run on other machines than this one, through a queue that any login node can ask."""
    runs_in_this_process: ClassVar[bool] = False
    """Whether a service that does not end with its caller runs in the caller's own process. Its owner then calls the
    function itself after `start_service`, and a launch returns when the run is over."""
    default_settle_seconds: ClassVar[float] = 0.0
    """Seconds that files may take to appear here after a job has ended, where the profile does not say."""
    self_end_seconds: ClassVar[float] = 0.0
    """Seconds that a service which was told by a file to end is given before `stop_service` is called: its process may
    have other things to do."""

    def __init__(self, profile: Profile, folder: Path) -> None:
        self._profile = profile
        self._folder = folder

    @property
    def settle_seconds(self) -> float:
        """Seconds that a result may take to appear after its job has ended."""
        own = self._profile.settle_seconds
        return self.default_settle_seconds if own is None else own

    # Jobs of trials

    @abstractmethod
    def capacity(self, live: int) -> int:
        """How many more jobs may be submitted now, given how many live; never negative."""

    @abstractmethod
    def submit(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        """Start every request once; the job ids by trial. All jobs carry ``batch``, a token unique to these requests.

        The requests have the same ``gpus``. Where it raises, some of them may have been submitted.
        """

    @abstractmethod
    def find(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        """The jobs of a batch whose submitter did not write down their ids, by trial, as far as they have appeared."""

    @abstractmethod
    def withdraw(self, batch: str, requests: Sequence[JobRequest], trials: Collection[str]) -> None:
        """Have jobs of ``trials`` that `find` did not see, and that may appear later, end at once and run nothing."""

    @abstractmethod
    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """How each of these jobs stands, trials' and services' alike, with one question to the queue where it can be.

        There is an answer for every id; a job that nobody knows any more has ended. A job that waits for what will not
        come by itself may be cancelled after the profile's ``never_patience_minutes``; its status then says why.
        """

    @abstractmethod
    def strays(self, token: str, known: Collection[str]) -> dict[str, str]:
        """The jobs of a run that live and are not ``known``: what each is, by its id, which `cancel` takes.

        ``token`` is what all batches of the run begin with.
        """

    @abstractmethod
    def avoid(self, job_ids: Iterable[str], nodes: Sequence[str]) -> list[str] | None:
        """Keep those of the jobs that wait off ``nodes``, and off no others but the profile's.

        Returns these jobs; None where there are no nodes to choose among.
        """

    @abstractmethod
    def cancel(self, job_ids: Iterable[str]) -> None:
        """End jobs in order: their trials get SIGTERM and store their samples. Returns before they have ended."""

    # Services

    @abstractmethod
    def start_service(self, request: ServiceRequest) -> Service:
        """Start a long-lived single job. What is returned has its id, and is for the caller to keep."""

    @abstractmethod
    def find_service(self, service: Service) -> str | None:
        """The job to go on with, for an owner that does not know its id.

        That is the job of ``service.start``, which may have ended; without a start, one of the service that waits or
        runs. A child of another caller is not one to go on with.
        """

    @abstractmethod
    def live_services(self, service: Service) -> list[str]:
        """The jobs of a service that have not ended, of all starts and callers."""

    @abstractmethod
    def service_status(self, service: Service) -> JobStatus:
        """How a service stands, for a caller that only looks: nothing is cancelled.

        `ELSEWHERE` is the state of a service of which only another host knows; ``detail`` then says so.
        """

    @abstractmethod
    def stop_service(self, service: Service, job_ids: Collection[str]) -> None:
        """End these jobs of the service, in order. Callers ask `reaches` first."""

    def reaches(self, service: Service) -> bool:
        """Whether the service can be seen and stopped from this host."""
        return True

    @abstractmethod
    def host_of(self, service: Service) -> str | None:
        """The host whose process the service is; None for a job of a queue, and where it is not known."""

    @abstractmethod
    def describe(self, service: Service) -> str:
        """What the service is and how it is found, for people."""

    def last_log_line(self, job_id: str) -> str:
        """The last line that a job of this folder wrote on standard error; '' where there is none."""
        return ""

    # The profile and this machine

    @classmethod
    def completed(cls, profile: Profile, environment: Mapping[str, str]) -> Profile:
        """The profile with what it leaves open taken from a login shell's environment. Raises `UserError`."""
        return profile

    def check_folder(self) -> None:
        """Raise `UserError` where jobs could not keep their logs in the folder, which need not exist yet."""
        return

    def check_reachable(self) -> None:
        """Raise `MissingRequirement` where jobs cannot be submitted from this machine."""
        return

    def checks(self) -> list[Check]:
        """What ``doctor`` says of the cluster as seen from this machine; nothing is submitted."""
        return []

    def test_request(
        self, resources: JobResources, gpus: int
    ) -> Callable[[], dict[str, str | None]]:
        """A function that can be pickled, and tells wherever it is called whether a controller could work there.

        It tries the scheduler's commands, among them a request for ``resources`` that is not submitted: by command, what
        is wrong with it, or None.
        """
        return dict
