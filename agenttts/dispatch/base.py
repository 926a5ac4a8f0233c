"""What a scheduler is: it starts the jobs of a run somewhere and says how they stand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from agenttts.dispatch.check import Check
from agenttts.dispatch.node.scratch import CompileCache
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.service import Service, ServiceRequest
from agenttts.errors import MissingRequirement
from agenttts.tables.schema import TrialState


class QueueUnavailable(MissingRequirement):
    """The queue does not do for now what is asked of it.

    Where it gave no answer, it may have done it all the same.
    """


class SubmitLimitReached(QueueUnavailable):
    """So many more jobs are refused for now.

    Fewer may be taken, or these when others have ended.
    """


@dataclass(frozen=True)
class JobTrial:
    """A trial of a job: its directory, and how many of its attempts do not count any more."""

    directory: Path
    earlier_attempts: int = 0


@dataclass(frozen=True)
class JobRequest:
    """One job to start: its command, its trials, and how it shows in the queue.

    Args:
        trial: The name of its trial, or of the first of its trials. No two requests of a batch
            have the same.
        directory: Where the job writes: its trial's directory, or one of its own.
        command: What the job runs.
        env: Further environment of the command.
        gpus: GPUs of the job: its resource class.
        name: The job's name in the queue.
        comment: What the queue shows of it for people.
        cache: Where a container keeps compiled code between jobs.
        needs: Files and directories that the trial reads, which its node must see.
        exclude: Nodes that it should not run on.
        trials: Its trials; empty: one, whose directory is the job's.
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


JOB_STATES: Mapping[str, str] = {
    "PENDING": "it waits to be started",
    "RUNNING": "it runs",
    "COMPLETING": "its program has ended, and its node is being cleaned up",
    "COMPLETED": "its program ended with exit code 0",
    "FAILED": "its program ended with another exit code, or could not be started",
    "TIMEOUT": "it reached its time limit",
    "DEADLINE": "as TIMEOUT, by a deadline",
    "OUT_OF_MEMORY": "it was killed for its memory",
    "NODE_FAIL": "its node was lost",
    "BOOT_FAIL": "as NODE_FAIL, before it began",
    "LAUNCH_FAILED": "as BOOT_FAIL",
    "PREEMPTED": "it lost its place to another job",
    "CANCELLED": "somebody cancelled it",
    "ENDED": "it has ended, in whatever way; its detail is the problem if there was one",
    "UNKNOWN": "nobody knows it any more",
}
"""The states of jobs that have a meaning here, which follow Slurm's (squeue(1), "JOB STATE CODES").

Another queue's words are translated into these."""


@dataclass(frozen=True)
class JobStatus:
    """How a job stands.

    Args:
        state: One of `JOB_STATES`, or another word of the queue, which is only shown to people.
        ended: Whether it will not run again by itself.
        verdict: What the end means for a trial that left no result; None while the job lives.
        detail: Why it waits, why it did not start, or how it ended, in a sentence.
        never_started: Whether the job has ended before its trial's attempt began.
        stuck: Whether it waits for what will not come by itself.
        node: Where it ran last; '' when unknown.
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
    """Starts the jobs of one run, and says how they stand.

    A new backend (PBS, Flux, ...) is a subclass. It is named in
    `agenttts.dispatch.schedulers.SCHEDULERS` and in `Profile.kind`, and must pass
    ``tests/dispatch/test_scheduler_conformance.py``. There are two sorts of jobs: those of trials,
    which are submitted in batches, and services, which are long-lived single jobs.

    **Who owns what.** A scheduler is made for a profile and a folder. The folder holds what it
    submits (batch files, pickles, logs) and belongs to the scheduler alone. The trials of a run
    have one folder, and each of its services has a folder of its own. The directory of a trial
    belongs to the trial's job; the scheduler does not write there. The journal and the records of
    services belong to the caller, which writes down what it is about to start before it calls
    `submit` or `start_service`.

    **What a scheduler may remember.** Nothing that a new one could not rebuild from job ids, batch
    tokens and names of services, or ask for again. Making one asks no queue and writes nothing.

    **What survives a killed caller.** The caller may be killed between any two lines. Its jobs run
    on, except services that end with their caller. A new scheduler of the same profile and folder
    finds them: the jobs of a batch by `find`, a service by `find_service`. So every job carries its
    batch token, or the name and start of its service, where the queue can be asked for it; and what
    a job runs is on disk before the job can start.

    **What may be called when.** Every method may be called at any time, by several processes at
    once, and for jobs that another process has started. A batch token is used for one submission
    that was taken; after a refusal it may be used again. `cancel`, `withdraw` and `stop_service`
    may be called again, and for jobs that have ended. No call waits for a job to start or to end,
    except that `stop_service` may wait for a child process. A call returns within about a minute.

    **What may be raised.** `QueueUnavailable`: asking again later may help, and a `submit` or
    `start_service` that raised it may have been done all the same. `SubmitLimitReached`: fewer
    jobs may be taken. Any other `MissingRequirement` is a refusal: nothing was submitted.
    `UserError`: the profile or the folder cannot work. The methods that describe (`reaches`,
    `host_of`, `describe`, `last_log_line`, `checks`, `test_request`) raise nothing.
    """

    name: ClassVar[str]
    """The ``kind`` of profiles that choose it."""
    has_nodes: ClassVar[bool] = False
    """Whether jobs run on other machines, in a queue that every login node can ask."""
    runs_in_this_process: ClassVar[bool] = False
    """Whether a service that does not end with its caller runs in the caller's own process.

    The owner then calls the function itself after `start_service`."""
    default_settle_seconds: ClassVar[float] = 0.0
    """Seconds that files may take to appear here after a job's end, if the profile does not say."""
    self_end_seconds: ClassVar[float] = 0.0
    """Seconds to wait before `stop_service` for a service that was told by a file to end.

    Its process may have other things to do."""

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
        """How many more jobs may be submitted now, given how many live; at least 0."""

    @abstractmethod
    def submit(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        """Start one job for each request; the job ids by the request's ``trial``.

        The requests ask for the same number of GPUs. Where it raises `QueueUnavailable`, some of
        the jobs may have been submitted.

        Args:
            batch: A token unique to these requests, which all the jobs carry.
            requests: What to start.
        """

    @abstractmethod
    def find(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        """The jobs of a batch that have appeared, by trial.

        For a batch whose submitter did not write down the ids.
        """

    @abstractmethod
    def withdraw(self, batch: str, requests: Sequence[JobRequest], trials: Collection[str]) -> None:
        """Have jobs that `find` did not see end at once, and run nothing, if they appear later.

        Args:
            batch: The batch.
            requests: All its requests.
            trials: The trials whose jobs were not found.
        """

    @abstractmethod
    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """How each of these jobs stands, trials' and services' alike.

        The queue is asked once for all of them where it can be. There is an answer for every id; a
        job that nobody knows any more has ended. A job that waits for what will not come by itself
        may be cancelled after the profile's ``never_patience_minutes``; its status then says why.
        """

    @abstractmethod
    def strays(self, token: str, known: Collection[str]) -> dict[str, str]:
        """The jobs of a run's trials that live and are not known: what each is, by its id.

        `cancel` takes these ids.

        Args:
            token: What all batch tokens of the run begin with.
            known: The ids of the jobs that the run knows.
        """

    @abstractmethod
    def avoid(self, job_ids: Iterable[str], nodes: Sequence[str]) -> list[str] | None:
        """Keep those of the jobs that wait off ``nodes``, and off no others but the profile's.

        Returns these jobs; None where there are no nodes to choose among.
        """

    @abstractmethod
    def cancel(self, job_ids: Iterable[str]) -> None:
        """End jobs in order: a trial gets SIGTERM and stores its samples.

        It returns before they have ended.
        """

    # Services

    @abstractmethod
    def start_service(self, request: ServiceRequest) -> Service:
        """Start a long-lived single job; the record of it, with its id, for the caller to keep.

        The job keeps off the request's ``exclude`` where there are nodes to choose among. Where it
        is refused for that, it is submitted without: a service on a doubtful node beats none.
        """

    @abstractmethod
    def find_service(self, service: Service) -> str | None:
        """The job to go on with, for an owner that does not know its id.

        With a start it is the job of that start, which may have ended. Without one it is a job of
        the service that waits or runs. The child of another caller is never returned. Where
        `runs_in_this_process`, the owner knows the id.
        """

    @abstractmethod
    def live_services(self, service: Service) -> list[str]:
        """The jobs of a service that have not ended, of all its starts and callers."""

    @abstractmethod
    def service_status(self, service: Service) -> JobStatus:
        """How a service stands, for a caller that only looks: nothing is cancelled.

        The state is `agenttts.dispatch.service.ELSEWHERE` where only another host knows; ``detail``
        then says so.
        """

    @abstractmethod
    def stop_service(self, service: Service, job_ids: Collection[str]) -> None:
        """End these jobs of the service in order. Callers ask `reaches` first."""

    def reaches(self, service: Service) -> bool:
        """Whether the service can be seen and stopped from this host."""
        return True

    @abstractmethod
    def host_of(self, service: Service) -> str | None:
        """The host of the service's process; None for a job of a queue, and where unknown."""

    @abstractmethod
    def describe(self, service: Service) -> str:
        """What the service is and how it is found, for people."""

    def last_log_line(self, job_id: str) -> str:
        """The last line that a job of this folder wrote on standard error; '' if there is none."""
        return ""

    # The profile and this machine

    @classmethod
    def completed(cls, profile: Profile, environment: Mapping[str, str]) -> Profile:
        """The profile, with what it leaves open taken from a login shell's environment.

        Raises `UserError` for a variable that cannot be used.
        """
        return profile

    def check_folder(self) -> None:
        """Raise `UserError` where jobs could not keep logs in the folder. It need not exist yet."""
        return

    def check_reachable(self) -> None:
        """Raise `MissingRequirement` where jobs cannot be submitted from this machine."""
        return

    def checks(self) -> list[Check]:
        """What ``doctor`` says of the cluster from this machine; nothing is submitted."""
        return []

    def test_request(
        self, resources: JobResources, gpus: int
    ) -> Callable[[], dict[str, str | None]]:
        """A function to call on a node, which says whether a controller could work there.

        It can be pickled. It tries the scheduler's commands, among them a request that is not
        submitted, and returns by command what is wrong with it, or None.

        Args:
            resources: The section of the profile whose request is tried.
            gpus: The GPUs of the request.
        """
        return dict
