"""Trials as Slurm jobs: arrays if the cluster has them, else single jobs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from typing_extensions import override

from agenttts.dispatch.base import (
    JobRequest,
    JobStatus,
    NamedJob,
    Scheduler,
    SubmitLimitReached,
)
from agenttts.dispatch.check import Check
from agenttts.dispatch.node.job import TrialJob
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.run_jobs import UNKNOWN_RUN, RunJobs, user_name
from agenttts.dispatch.service import Service, ServiceRequest
from agenttts.dispatch.slurm.batch_script import check_folder, log_message, named_node
from agenttts.dispatch.slurm.cluster_checks import cluster_checks, slurm_problems
from agenttts.dispatch.slurm.cluster_config import (
    check_cluster_meant,
    cluster_config,
    elsewhere_sentence,
    hidden_users,
    other_cluster,
)
from agenttts.dispatch.slurm.cluster_nodes import nodes_besides
from agenttts.dispatch.slurm.commands import run_slurm
from agenttts.dispatch.slurm.labels import JobLabels
from agenttts.dispatch.slurm.login_defaults import with_login_defaults
from agenttts.dispatch.slurm.node_lists import is_file, request_lists
from agenttts.dispatch.slurm.pickles import Pickles
from agenttts.dispatch.slurm.queue import (
    cancel_jobs,
    foreign_jobs,
    job_rows,
    keep_off,
    live_jobs_of,
    names_and_batch_files,
    one_squeue_call,
    rows_with_comment,
    set_name_and_comment,
)
from agenttts.dispatch.slurm.queue_reader import QueueRow
from agenttts.dispatch.slurm.request import JobNeeds, marked
from agenttts.dispatch.slurm.row_status import lives
from agenttts.dispatch.slurm.services import SlurmServices
from agenttts.dispatch.slurm.stuck_jobs import PatientQueue
from agenttts.dispatch.slurm.submission import slurm_executor, submission_errors
from agenttts.dispatch.slurm.tried_request import check_accepted

# Largest array whose elements get a label each. More labels would load slurmctld more than they
# help the reader.
_LABELS = 200
_ARRAY_LIMITS = re.compile(r"(?:^MaxArraySize *= *|\bmax_array_tasks=)(\d+)", re.MULTILINE)
# Mark in the comment of a single job; its trial's number in the batch follows.
_ELEMENT = "element="


class SlurmScheduler(Scheduler):
    """Jobs of Slurm: each `submit` is one array, or single jobs without arrays.

    An array has one element per request and is submitted whole or not at all. If one of several
    single jobs is refused, the jobs before it are submitted, and `find` finds them.

    After a submit limit has refused a batch, `capacity` allows half as many jobs, and more
    again as they are accepted. Slurm limits how many elements of one array run, but not how many
    arrays run beside each other. So while jobs live, `capacity` allows no more than
    ``max_running`` of them.

    A job that waits for something that will not come by itself is cancelled after the profile's
    ``never_patience_minutes``; `poll` then says so.
    """

    name = "slurm"
    has_nodes = True
    end_command = "scancel"
    # NFS clients keep attributes and missing names for 30 to 60 s (nfs(5), acdirmax). The nodes'
    # clients add their delay.
    default_settle_seconds = 120.0

    def __init__(self, profile: Profile, folder: Path, jobs: RunJobs = UNKNOWN_RUN) -> None:
        super().__init__(profile, folder, jobs)
        self._services = SlurmServices(profile, folder, jobs)
        self._live = 0
        # Number of jobs that may live at once, as far as submit limits have shown.
        self._limit = profile.max_pending
        self._labels = JobLabels()
        self._queue = PatientQueue(profile.never_patience_minutes * 60, jobs)

    def capacity(self, live: int) -> int:
        self._live = live
        free_slots = min(self._limit, self._profile.max_pending) - live
        if live or not self._arrays:
            free_slots = min(free_slots, self._profile.max_running - live)
        return max(0, min(free_slots, self._max_array) if self._arrays else free_slots)

    def submit(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        try:
            if self._arrays or len(requests) == 1:
                ids = self._submit_array(batch, requests)
            else:
                ids = self._submit_singly(batch, requests)
        except SubmitLimitReached:
            self._limit = max(1, self._live + len(requests) // 2)
            raise
        self._live += len(requests)
        # Other jobs may have ended since, so a little more is tried than was accepted.
        self._limit = max(self._limit, self._live + max(1, len(requests) // 2))
        return ids

    def find(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        found: dict[str, str] = {}
        for job, row in rows_with_comment(f"batch={batch}", self._jobs_of_run).items():
            position = _position(job, row)
            if position < len(requests):
                found[requests[position].trial] = job
        return found

    def withdraw(self, batch: str, requests: Sequence[JobRequest], trials: Collection[str]) -> None:
        pickles = Pickles(self._folder, batch)
        for position, request in enumerate(requests):
            if request.trial in trials:
                pickles.withdraw(position)

    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        return {job: self._told(job, found) for job, found in self._queue.poll(job_ids).items()}

    def strays(self, token: str, known: Collection[str]) -> dict[str, str]:
        rows = rows_with_comment(re.compile(rf"batch={re.escape(token)}-\d+"), self._jobs_of_run)
        return {
            job: f"{row.state}, {row.comment}"
            for job, row in rows.items()
            if job not in known and lives(row)
        }

    @override
    @classmethod
    def jobs_of(cls, run: str) -> list[NamedJob]:
        rows = rows_with_comment(f"run={run}")
        live = {job: row for job, row in rows.items() if lives(row)}
        files = names_and_batch_files(live)
        found = []
        for job, row in live.items():
            name, file = files.get(job, ("", None))
            found.append(NamedJob(job, name, row.state, file and file.parent))
        return found

    @classmethod
    def one_look(cls) -> AbstractContextManager[None]:
        return one_squeue_call()

    def avoid(self, job_ids: Iterable[str], nodes: Sequence[str]) -> list[str] | None:
        rows = job_rows(job_ids, self._jobs_of_run)
        waiting = [job for job, row in rows.items() if row is not None and row.state == "PENDING"]
        trial = self._profile.trial
        if not is_file(trial.exclude):  # scontrol takes only names
            cluster = nodes_besides(trial) if waiting else ()
            excluded, _ = request_lists(trial.exclude, trial.nodelist, nodes, cluster)
            keep_off(waiting, excluded or "")
        return waiting

    def relabel(self, job_id: str, batch: str, position: int, name: str, comment: str) -> None:
        self._labels.give(job_id, name, _marked(comment, batch, position))

    def cancel(self, job_ids: Iterable[str]) -> None:
        # scancel ignores jobs that have ended.
        ids = live_jobs_of(job_ids, self._jobs_of_run, unlisted=True)
        if ids:
            cancel_jobs(ids, run=self._jobs_of_run)

    def others_with_numbers(self, job_ids: Iterable[str]) -> dict[str, str]:
        ids = list(job_ids)
        return foreign_jobs(ids, self._jobs_of_run) if ids else {}

    def start_service(self, request: ServiceRequest) -> Service:
        return self._services.start(request)

    def find_service(self, service: Service) -> str | None:
        return self._services.find(service)

    def live_services(self, service: Service) -> list[str]:
        return self._services.live(service)

    def service_status(self, service: Service) -> JobStatus:
        return self._services.status(service)

    def service_statuses(self, services: Sequence[Service]) -> list[JobStatus]:
        return self._services.statuses(services)

    def stop_service(self, service: Service, job_ids: Collection[str]) -> None:
        self._services.stop(job_ids)

    def reaches(self, service: Service) -> bool:
        run = service.jobs or self._jobs_of_run
        mine = not run.users or run.users[0] == user_name() or os.getuid() == 0
        return mine and not other_cluster(run)

    @classmethod
    def cluster(cls) -> str:
        return cluster_config().name

    def elsewhere(self) -> tuple[str, str] | None:
        run = self._jobs_of_run
        sentence = elsewhere_sentence(run, "its jobs are")
        if not sentence:
            return None
        if other_cluster(run):
            return sentence, f"run this command on a login node of cluster {run.cluster}"
        return sentence, f"ask {', '.join(hidden_users(run))} to run this command"

    def host_of(self, service: Service) -> str | None:
        return None

    def describe(self, service: Service) -> str:
        return f"Slurm job {service.job_id} (squeue --me)"

    def when_it_starts(self, service: Service) -> str:
        return f"squeue --start -j {service.job_id}" if service.job_id else ""

    def last_log_line(self, job_id: str) -> str:
        return self._services.last_log_line(job_id)

    @classmethod
    def completed(cls, profile: Profile, environment: Mapping[str, str]) -> Profile:
        return with_login_defaults(profile, environment)

    def check_folder(self) -> None:
        check_folder(self._folder)

    def check_reachable(self) -> None:
        check_cluster_meant(run_slurm(["scontrol", "show", "config"]))

    def check_request(self, section: str, gpus: int) -> None:
        profile = self._profile
        resources: JobResources = profile.controller if section == "controller" else profile.trial
        check_accepted(section, profile, resources, gpus)

    def checks(self) -> list[Check]:
        return cluster_checks(self._profile)

    def test_request(
        self, resources: JobResources, gpus: int
    ) -> Callable[[], dict[str, str | None]]:
        return partial(slurm_problems, self._profile, resources, gpus)

    @cached_property
    def _max_array(self) -> int:
        """The number of elements that one array may have; 1 if the cluster has no arrays.

        It is asked when first needed, so that a slurmctld that does not answer is waited for as
        with any other question.
        """
        return max(1, _max_array_size())

    @property
    def _arrays(self) -> bool:
        return self._max_array > 1

    def _told(self, job: str, status: JobStatus) -> JobStatus:
        """Return a job's status, with what its log says of why it did not start."""
        if status.state in ("FAILED", "COMPLETED"):
            said = log_message(self._folder, job)
            if said:
                node = status.node or named_node(said)
                return replace(status, detail=said, never_started=True, node=node)
        return status

    def _submit_array(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        name = requests[0].name.partition("-")[2] or requests[0].name
        comment = f"agenttts batch={batch}"
        jobs = self._submit_jobs(batch, 0, name, comment, requests)
        ids = {request.trial: job for request, job in zip(requests, jobs, strict=True)}
        if len(requests) <= _LABELS:
            for request in requests:
                label = marked(request.comment, f"batch={batch}")
                if not set_name_and_comment(ids[request.trial], name=request.name, comment=label):
                    break  # labels only help readers, and each one without an answer takes a minute
        return ids

    def _submit_singly(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        ids: dict[str, str] = {}
        for position, request in enumerate(requests):
            comment = _marked(request.comment, batch, position)
            [ids[request.trial]] = self._submit_jobs(
                batch, position, request.name, comment, [request]
            )
        return ids

    def _submit_jobs(
        self, batch: str, first: int, name: str, comment: str, requests: Sequence[JobRequest]
    ) -> list[str]:
        profile = self._profile
        exclude = tuple(sorted({node for request in requests for node in request.exclude}))
        needs = JobNeeds(name, comment, requests[0].gpus, profile.grace_seconds, exclude=exclude)
        executor = slurm_executor(
            self._folder, profile, profile.trial, needs, array_parallelism=profile.max_running
        )
        jobs = [TrialJob.of(request, profile) for request in requests]
        with submission_errors(len(requests)):
            return executor.submit_each(jobs, batch, first)


def _marked(comment: str, batch: str, position: int) -> str:
    """Return the comment of a single job, with the marks by which it is found."""
    return marked(comment, f"batch={batch}", f"{_ELEMENT}{position}")


def _position(job: str, row: QueueRow) -> int:
    """Return the position of a job in its batch.

    It is an array element's index, or the number in a single job's comment, else 0.
    """
    _, _, index = job.partition("_")
    marks = [word for word in row.comment.split() if word.startswith(_ELEMENT)]
    number = index or (marks[-1].removeprefix(_ELEMENT) if marks else "")
    return int(number) if number.isdecimal() else 0


def _max_array_size() -> int:
    """Return how many elements an array may have.

    Source: slurm.conf(5), MaxArraySize, whose greatest index is one less than it, and
    SchedulerParameters, max_array_tasks.
    """
    said = run_slurm(["scontrol", "show", "config"])
    limits = [int(number) for number in _ARRAY_LIMITS.findall(said)]
    return min(limits, default=1001)  # Slurm's default
