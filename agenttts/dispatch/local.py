"""Trials as processes of this machine, through submitit's local executor."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import submitit

from agenttts.dispatch.base import JobStatus, Work
from agenttts.dispatch.job import TrialJob, read_attempts
from agenttts.dispatch.profile import Profile, minutes
from agenttts.tables.schema import TrialState


class LocalDispatcher:
    """`Dispatcher` for ``kind: local``: ``throttle`` trials at a time, GPUs shared out among them.

    A job id is the pid of submitit's process for the job, which outlives the controller; a controller that is
    started again finds it by pid and folder.
    """

    def __init__(self, profile: Profile, folder: Path) -> None:
        self._profile = profile
        self._folder = folder
        self._jobs: dict[str, submitit.Job[str]] = {}
        self._devices: dict[str, list[int]] = {}

    def capacity(self, live: int) -> int:
        return max(0, self._profile.throttle - live)

    def submit(self, batch: str, works: Sequence[Work]) -> dict[str, str]:
        return {work.trial: self._start(work) for work in works}

    def find(self, batch: str, works: Sequence[Work]) -> dict[str, str]:
        found: dict[str, str] = {}
        for work in works:
            attempts = read_attempts(work.directory)
            if attempts and attempts[-1].finished is None and self._alive(attempts[-1].job_id):
                found[work.trial] = attempts[-1].job_id
        return found

    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        return {job_id: self._status(job_id) for job_id in job_ids}

    def cancel(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            if self._alive(job_id):
                with suppress(ProcessLookupError):  # ended between the look and the signal
                    os.kill(int(job_id), signal.SIGINT)

    def _start(self, work: Work) -> str:
        executor = submitit.LocalExecutor(self._folder)
        limit = minutes(self._profile.trial.time)
        devices = self._free_devices(work.gpus)
        executor.update_parameters(
            timeout_min=limit,
            signal_delay_s=self._profile.grace_seconds,
            gpus_per_node=len(devices),
            visible_gpus=devices,
            setup=self._profile.setup,
        )
        job = executor.submit(
            TrialJob(
                directory=work.directory,
                command=work.command,
                env=work.env,
                gpus=work.gpus,
                limit_seconds=limit * 60,
                grace_seconds=self._profile.grace_seconds,
                max_timeouts=self._profile.max_timeouts,
            )
        )
        self._jobs[job.job_id] = job
        self._devices[job.job_id] = devices
        return str(job.job_id)

    def _free_devices(self, count: int) -> list[int]:
        busy = {d for job, devices in self._devices.items() if self._alive(job) for d in devices}
        free = [d for d in range(self._profile.gpus_per_node) if d not in busy]
        # With fewer GPUs than trials want at a time they are shared; `throttle` is the operator's say on that.
        return (free + sorted(busy))[:count]

    def _status(self, job_id: str) -> JobStatus:
        if self._alive(job_id):
            return JobStatus("RUNNING", ended=False)
        return JobStatus("ENDED", ended=True, verdict=TrialState.INFRA_FAILED)

    def _alive(self, job_id: str) -> bool:
        job = self._jobs.get(job_id)
        if job is not None:
            return not job.done()
        try:
            command = Path(f"/proc/{int(job_id)}/cmdline").read_bytes()
        except (OSError, ValueError):
            return False
        # The pid may have been given to another program since: it is ours only if it serves our folder.
        return b"submitit" in command and str(self._folder).encode() in command
