"""The contract of a scheduler, which starts a run's jobs and reports their states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from agenttts.dispatch.check import Check
from agenttts.dispatch.node.scratch import CompileCache
from agenttts.dispatch.run_jobs import UNKNOWN_RUN, RunJobs
from agenttts.dispatch.service import Service, ServiceRequest
from agenttts.errors import MissingRequirement
from agenttts.tables.schema import TrialState

if TYPE_CHECKING:  # a job on a node needs no profile, which reads YAML: a third of the job's start
    from agenttts.dispatch.profile import JobResources, Profile

OUTLIVED = "a program that outlived its job"
"""What `Scheduler.strays` calls a program whose job has ended, as an engine that frees its GPU.

Every cancelled job may leave one for seconds. It is ended, and nobody has to be told."""


class QueueUnavailable(MissingRequirement):
    """The queue cannot carry out a request at present.

    If it gave no answer, it may have carried out the request.
    """


class SubmitLimitReached(QueueUnavailable):
    """The queue refuses this many more jobs at present.

    It may accept fewer jobs, or the same jobs after others have ended.
    """


@dataclass(frozen=True)
class JobTrial:
    """A trial of a job.

    Args:
        directory: Its directory.
        earlier_attempts: How many of its attempts do not count any more.
        upto: How many of its leading stages the job draws; None: the job evaluates it.
    """

    directory: Path
    earlier_attempts: int = 0
    upto: int | None = None


@dataclass(frozen=True)
class JobRequest:
    """One job to start: its command, its trials, its name and comment in the queue.

    Args:
        trial: The name of its trial, or of the first of its trials. No two requests of a batch
            have the same.
        directory: Where the job writes: its trial's directory, or one of its own.
        command: What the job runs.
        env: Further environment of the command.
        gpus: GPUs of the job: its resource class.
        name: The job's name in the queue.
        comment: The job's comment in the queue.
        cache: Where compiled code is kept between jobs.
        needs: Files and directories that the trial reads, which its node must see.
        exclude: Nodes that it should not run on.
        trials: Its trials; empty: one, whose directory is the job's.
        stays: Whether it stays for further lists of trials when its own have ended.
        compiles: Whether its engines compile code, for GPUs.
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
    trials: tuple[JobTrial, ...] = ()
    stays: bool = False
    compiles: bool = True


JOB_STATES: Mapping[str, str] = {
    "PENDING": "it has not started yet",
    "RUNNING": "it is running",
    "COMPLETING": "its program has ended, and its node is being cleaned up",
    "COMPLETED": "its program ended with exit code 0",
    "FAILED": "its program ended with a non-zero exit code or could not be started",
    "TIMEOUT": "it reached its time limit",
    "DEADLINE": "it reached its deadline",
    "OUT_OF_MEMORY": "it was killed because its memory ran out",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node failed to boot",
    "LAUNCH_FAILED": "its node could not launch it",
    "PREEMPTED": "it was stopped to free its resources for another job",
    "CANCELLED": "it was cancelled",
    "ENDED": (
        "it has ended and the exit code is not known; its detail is the problem if there was one"
    ),
    "UNKNOWN": "the scheduler no longer lists it",
}
"""The job states that this project interprets, by Slurm's names (squeue(1), "JOB STATE CODES").

The states of another queue are translated into these."""


@dataclass(frozen=True)
class JobStatus:
    """The state of a job.

    Args:
        state: One of `JOB_STATES`, or another state of the queue, which is only shown to the user.
        ended: Whether it has ended and will not be started again by the scheduler.
        verdict: What the end means for a trial that left no result; None until it has ended.
        detail: Why it waits, why it did not start, or how it ended, in a sentence.
        never_started: Whether the job has ended before its trial's attempt began.
        stuck: Whether it is pending for a reason that does not pass without the user's action.
        node: The node where it last ran; '' if not known.
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
        """Whether it has not started yet."""
        return self.state == "PENDING"

    @property
    def paused(self) -> bool:
        """Whether it has started, and does nothing until it is continued or released."""
        return self.state in ("SUSPENDED", "STOPPED") or (self.stuck and not self.pending)

    @property
    def completing(self) -> bool:
        """Whether its program has ended, and only its node is being cleaned up."""
        return self.state == "COMPLETING"


@dataclass(frozen=True)
class NamedJob:
    """A job that was found by the name of its run alone.

    Args:
        job_id: The job.
        name: Its name in the queue; '' without a queue.
        state: One of `JOB_STATES`.
        folder: The folder that it was submitted from; None if the queue does not tell.
    """

    job_id: str
    name: str
    state: str
    folder: Path | None


class Scheduler(ABC):
    """Starts the jobs of one run, and reports their states.

    A new backend (PBS, Flux, ...) is a subclass. It is named in
    `agenttts.dispatch.schedulers.SCHEDULERS` and in `Profile.kind`, and must pass
    ``tests/dispatch/test_scheduler_conformance.py``. What a job asks its queue from inside is in
    `agenttts.dispatch.own_job`. There are two sorts of jobs: jobs of trials,
    which are submitted in batches, and services, which are long-lived single jobs.

    **Ownership.** A scheduler is made for a profile and a folder. The folder contains what it
    submits (batch files, pickles, logs), and only the scheduler writes there. The trials of a run
    have one folder, and each of its services has its own folder. Only the trial's job writes in
    the directory of a trial. The caller owns the journal and the records of services. It records
    what it will start before it calls `submit` or `start_service`.

    **State.** A scheduler has no state that a new one could not rebuild from job ids, batch tokens
    and names of services. Its constructor does not call the queue and writes nothing.

    **A killed caller.** The caller may be killed between any two lines. Its jobs keep running,
    except services that end with their caller. A new scheduler of the same profile and folder
    finds them: the jobs of a batch by `find`, a service by `find_service`. Therefore the queue
    shows for every job its batch token, or the name and start of its service, and what a job runs
    is on disk before the job can start.

    **Calls.** Every method may be called at any time, by several processes at once, and for jobs
    that another process has started. A batch token is used for one accepted submission; after a
    refusal it may be used again. `cancel`, `withdraw` and `stop_service` may be called again, and
    for jobs that have ended. No call waits for a job to start or to end, except that
    `stop_service` may wait for a child process. A call returns within about a minute.

    **Errors.** `QueueUnavailable`: a later call may succeed; a `submit` or `start_service` that
    raised it may have started jobs. `SubmitLimitReached`: fewer jobs may be accepted. Any other
    `MissingRequirement` is a refusal: nothing was submitted. `UserError`: the profile or the
    folder cannot be used. The methods that describe (`relabel`, `reaches`, `host_of`, `describe`,
    `when_it_starts`, `last_log_line`, `checks`, `test_request`) do not raise.
    """

    name: ClassVar[str]
    """The profile's ``kind`` that selects it."""
    has_nodes: ClassVar[bool] = False
    """Whether jobs run on other machines, in a queue that every login node can read."""
    runs_in_this_process: ClassVar[bool] = False
    """Whether a service that does not end with its caller runs in the caller's own process.

    The owner then calls the function itself after `start_service`."""
    default_settle_seconds: ClassVar[float] = 0.0
    """Seconds that files may take to appear here after a job's end, if the profile does not say."""
    self_end_seconds: ClassVar[float] = 0.0
    """Seconds to wait before `stop_service` for a service that a file told to end.

    Its process may be busy."""
    end_command: ClassVar[str] = "kill"
    """The user's command that ends jobs; their ids follow."""

    def __init__(self, profile: Profile, folder: Path, jobs: RunJobs = UNKNOWN_RUN) -> None:
        self._profile = profile
        self._folder = folder
        self._jobs_of_run = jobs

    @property
    def settle_seconds(self) -> float:
        """Seconds that a result may take to appear after its job has ended."""
        own = self._profile.settle_seconds
        return self.default_settle_seconds if own is None else own

    # Jobs of trials

    @abstractmethod
    def capacity(self, live: int) -> int:
        """Return how many more jobs may be submitted if ``live`` jobs have not ended.

        It is never negative.
        """

    @abstractmethod
    def submit(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        """Start one job for each request; return the job ids by the request's ``trial``.

        The requests have the same number of GPUs. If it raises `QueueUnavailable`, some of the
        jobs may have been submitted.

        Args:
            batch: A token unique to these requests, which all the jobs carry.
            requests: What to start.
        """

    @abstractmethod
    def find(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        """Return the jobs of a batch that are in the queue, by trial.

        It is called for a batch whose submitter did not record the ids.
        """

    @abstractmethod
    def withdraw(self, batch: str, requests: Sequence[JobRequest], trials: Collection[str]) -> None:
        """Make jobs that `find` did not see end at once if they appear later.

        Such a job evaluates no trial.

        Args:
            batch: The batch.
            requests: All its requests.
            trials: The trials whose jobs were not found.
        """

    @abstractmethod
    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """Return the state of each of these jobs, of trials and of services.

        If possible, one call of the queue is enough for all of them. Every id has a result; a job
        that the scheduler no longer lists has ended. The state of a job that cannot be seen from
        here is `agenttts.dispatch.service.ELSEWHERE`. A job that is pending for a reason that does
        not pass may be cancelled after the profile's ``never_patience_minutes``; its status then
        has the reason.
        """

    @abstractmethod
    def strays(self, token: str, known: Collection[str]) -> dict[str, str]:
        """Return the unended jobs of a run's trials that are not in ``known``.

        The result has a description of each job by its id. `cancel` accepts these ids.

        Args:
            token: The beginning of all batch tokens of the run.
            known: The ids of the jobs that the run knows.
        """

    @classmethod
    def jobs_of(cls, run: str) -> list[NamedJob]:
        """Return the unended jobs of the runs of that name, whose files may be gone.

        Two directories may have runs of one name. None are found if jobs end with their caller.
        """
        return []

    @classmethod
    def one_look(cls) -> AbstractContextManager[None]:
        """Return a context in which the queue is asked only once.

        That holds for all schedulers of this class in this thread. It is for questions that belong
        together and that nothing follows from.
        """
        return nullcontext()

    @abstractmethod
    def avoid(self, job_ids: Iterable[str], nodes: Sequence[str]) -> list[str] | None:
        """Make the pending ones of these jobs avoid ``nodes``.

        They still avoid the nodes that the profile excludes.

        Returns:
            These pending jobs; None if the scheduler has no nodes to choose from.
        """

    def relabel(  # noqa: B027
        self, job_id: str, batch: str, position: int, name: str, comment: str
    ) -> None:
        """Give a job that goes on with other trials its name and comment in the queue.

        They help those who look at the queue, and nothing else depends on them. The call returns at
        once and does not raise; if the queue refuses, the job keeps its name and comment. Without a
        queue, nothing is done.

        Args:
            job_id: The job.
            batch: The batch of its submission, by which `find` goes on finding it.
            position: Its position in that batch.
            name: Its new name.
            comment: Its new comment.
        """

    @abstractmethod
    def cancel(self, job_ids: Iterable[str]) -> None:
        """End jobs in an orderly way: a trial gets SIGTERM and stores its samples.

        It returns before the jobs have ended.
        """

    def others_with_numbers(self, job_ids: Iterable[str]) -> dict[str, str]:
        """Return unended jobs with these ids that are not of the run.

        `cancel` leaves them alone. The result says of each job why it is not the run's. There are
        none if a job's id says whose it is.
        """
        return {}

    def await_cancelled(self) -> None:  # noqa: B027
        """Wait until nothing of the run's jobs runs.

        The caller has cancelled all of them. A process that does not end within the profile's
        ``grace_seconds`` is killed. A queue system does so by itself, so this default does nothing.
        """

    # Services

    @abstractmethod
    def start_service(self, request: ServiceRequest) -> Service:
        """Start a long-lived single job; return its record, which the caller keeps.

        The record has the job's id. If the scheduler has nodes to choose from, the job avoids those
        in the request's ``exclude``. If it is refused because of them, it is submitted without the
        exclusion.
        """

    @abstractmethod
    def find_service(self, service: Service) -> str | None:
        """Return the service's job, for an owner that does not know its id.

        If ``service`` has a start, it is the job of that start, which may have ended. Otherwise it
        is a pending or running job of the service. The child of another caller is never returned.
        If `runs_in_this_process`, the owner knows the id.
        """

    @abstractmethod
    def live_services(self, service: Service) -> list[str]:
        """Return the jobs of a service that have not ended, of all its starts and callers."""

    def is_seen_through(self, service: Service, job_id: str) -> bool:
        """Return whether only the state of a service tells that of a job.

        `poll` does not know the job. The service has started it, and it ends with the service.
        """
        return False

    @abstractmethod
    def service_status(self, service: Service) -> JobStatus:
        """Return the state of a service, without any change: nothing is cancelled.

        The state is `agenttts.dispatch.service.ELSEWHERE` if only another host, cluster or user can
        see the service; ``detail`` then names it.
        """

    def service_statuses(self, services: Sequence[Service]) -> list[JobStatus]:
        """Return the states of services, in their order.

        As `service_status`, but a queue is asked once for all of them, and ``detail`` may lack what
        their logs say. With nodes (`has_nodes`), services of other folders are known too.
        """
        return [self.service_status(service) for service in services]

    @abstractmethod
    def stop_service(self, service: Service, job_ids: Collection[str]) -> None:
        """End these jobs of the service in an orderly way. Callers check `reaches` first."""

    def reaches(self, service: Service) -> bool:
        """Return whether the service can be seen and stopped from this host."""
        return True

    @classmethod
    def cluster(cls) -> str:
        """Return the name of the cluster whose queue is asked.

        It is '' without a queue, and if the queue does not tell.
        """
        return ""

    def elsewhere(self) -> tuple[str, str] | None:
        """Return why the run's jobs cannot all be seen from here; None if they can.

        Returns:
            What is the case, and what the user does about it.
        """
        return None

    @abstractmethod
    def host_of(self, service: Service) -> str | None:
        """Return the host of the service's process; None if it is not known.

        It is also None for a job of a queue.
        """

    @abstractmethod
    def describe(self, service: Service) -> str:
        """Return what the service is and how to find it, for the user."""

    def when_it_starts(self, service: Service) -> str:
        """Return the command that shows when a pending service may start.

        It is '' without a queue.
        """
        return ""

    def last_log_line(self, job_id: str) -> str:
        """Return the last line of a job's standard error; '' if there is none.

        The job's logs are in the scheduler's folder.
        """
        return ""

    # The profile and this machine

    @classmethod
    def completed(cls, profile: Profile, environment: Mapping[str, str]) -> Profile:
        """Return the profile with its unset keys filled from a login shell's environment.

        Raises:
            UserError: A variable cannot be used.
        """
        return profile

    def check_folder(self) -> None:
        """Raise `UserError` if jobs cannot write logs in the folder.

        The folder need not exist yet.
        """
        return

    def check_reachable(self) -> None:
        """Raise `MissingRequirement` if jobs cannot be submitted from this machine."""
        return

    def check_request(self, section: str, gpus: int) -> None:
        """Raise `MissingRequirement` if the queue would refuse such a job for good.

        Nothing is submitted.

        Args:
            section: The section of the profile with the request, ``controller`` or ``trial``.
            gpus: The GPUs of the job.
        """
        return

    def checks(self) -> list[Check]:
        """Return the checks of the cluster for ``doctor``; nothing is submitted."""
        return []

    def test_request(
        self, resources: JobResources, gpus: int
    ) -> Callable[[], dict[str, str | None]]:
        """Return a function that checks on a node whether a controller could work there.

        The function can be pickled. It tries the scheduler's commands, including a request that is
        not submitted, and returns the problem of each command, or None.

        Args:
            resources: The section of the profile whose request is tried.
            gpus: The GPUs of the request.
        """
        return dict
