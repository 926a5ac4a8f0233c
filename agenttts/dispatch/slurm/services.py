"""Services as jobs of Slurm: the controller of a run, the model that it serves."""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from agenttts.dispatch.base import JobStatus, QueueUnavailable
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.run_jobs import UNKNOWN_RUN, RunJobs
from agenttts.dispatch.service import ELSEWHERE, Service, ServiceRequest
from agenttts.dispatch.slurm.batch_script import log_message
from agenttts.dispatch.slurm.cluster_config import elsewhere_sentence, other_cluster
from agenttts.dispatch.slurm.queue import (
    cancel_jobs,
    job_states,
    live_jobs_of,
    rows_with_comment,
    states_of_runs,
)
from agenttts.dispatch.slurm.request import JobNeeds, marked
from agenttts.dispatch.slurm.row_status import lives, row_status
from agenttts.dispatch.slurm.submission import slurm_executor, submission_errors
from agenttts.errors import MissingRequirement

log = logging.getLogger(__name__)

# In the comment of a service's job: which service it is, and which start of it.
_NAME = "batch="
_START = "start="
_NO_ANSWER = "sbatch did not answer at the start, and the queue has no job of that start"
_LOG_BYTES = 4000


class SlurmServices:
    """The services of one folder."""

    def __init__(self, profile: Profile, folder: Path, run: RunJobs = UNKNOWN_RUN) -> None:
        self._profile = profile
        self._folder = folder
        self._run = run

    def start(self, request: ServiceRequest) -> Service:
        """Submit the service's job, without avoiding nodes where it is refused for that."""
        try:
            return self._submit(request)
        except QueueUnavailable:
            raise  # it may have been submitted
        except MissingRequirement as error:
            if not request.exclude:
                raise
            log.warning(
                "a job %s that excludes the nodes %s was refused (%s); "
                "it is submitted without the exclusion",
                request.title,
                ", ".join(request.exclude),
                error,
            )
            return self._submit(replace(request, exclude=()))

    def _submit(self, request: ServiceRequest) -> Service:
        profile = self._profile
        needs = JobNeeds(
            name=request.title,
            comment=marked(request.comment, f"{_NAME}{request.name}", f"{_START}{request.start}"),
            gpus=request.gpus,
            grace_seconds=profile.grace_seconds,
            requeue=request.requeue,
            # Slurm holds a second job of the name until the first has ended.
            dependency="singleton" if request.one_at_a_time else None,
            exclude=request.exclude,
        )
        sections: dict[str, JobResources] = {
            "controller": profile.controller,
            "trial": profile.trial,
        }
        executor = slurm_executor(self._folder, profile, sections[request.section], needs)
        with submission_errors():
            [job] = executor.submit_each([request.function], f"{request.name}-{request.start}")
        return Service(request.name, request.start, job, socket.gethostname())

    def find(self, service: Service) -> str | None:
        """Return the job of one start of a service; without ``start``, a live job of any.

        The job of a start is found even if its submission got no answer.
        """
        run = service.jobs or self._run
        if not service.start:
            rows = rows_with_comment(f"{_NAME}{service.name}", run)
            return next((job for job, row in rows.items() if lives(row)), None)
        rows = rows_with_comment(f"{_START}{service.start}", run)
        live = [job for job, row in rows.items() if not row_status(job, row).ended]
        return next(iter([*live, *rows]), None)

    def live(self, service: Service) -> list[str]:
        """The jobs of the service that have not ended."""
        run = service.jobs or self._run
        named = rows_with_comment(f"{_NAME}{service.name}", run)
        return live_jobs_of(dict.fromkeys([*named, *filter(None, [service.job_id])]), run)

    def status(self, service: Service) -> JobStatus:
        """How its job stands, with what its log says of why it did not start."""
        run = service.jobs or self._run
        job = service.job_id or (None if other_cluster(run) else self.find(service))
        if job is None:
            if why := elsewhere_sentence(run, "was started"):
                return JobStatus(ELSEWHERE, ended=False, detail=why)
            return JobStatus("UNKNOWN", ended=True, detail=_NO_ANSWER)
        state = job_states([job], run)[job]
        said = log_message(self._folder, job) if state.ended else ""
        return replace(state, detail=said, never_started=True) if said else state

    def statuses(self, services: Sequence[Service]) -> list[JobStatus]:
        """How their jobs stand; services without a known job are looked for one by one."""
        known = states_of_runs(
            (service.job_id, service.jobs or self._run) for service in services if service.job_id
        )
        return [
            known[s.job_id, s.jobs or self._run] if s.job_id else self.status(s) for s in services
        ]

    def stop(self, job_ids: Collection[str]) -> None:
        """Cancel these jobs, if there are any."""
        if job_ids:
            cancel_jobs(job_ids)

    def last_log_line(self, job_id: str) -> str:
        """The last line of a job's standard error."""
        log = self._folder / f"{job_id}_0_log.err"
        try:
            text = log.read_bytes()[-_LOG_BYTES:].decode(errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else ""
