"""Cancel jobs that wait too long for something that will not come by itself.

The jobs may be of trials or of served models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from agenttts.dispatch.base import JobStatus, QueueUnavailable
from agenttts.dispatch.run_jobs import UNKNOWN_RUN, RunJobs
from agenttts.dispatch.slurm.queue import cancel_jobs, give_up, job_rows
from agenttts.dispatch.slurm.queue_reader import QueueRow
from agenttts.dispatch.slurm.row_status import (
    HELD,
    given_up,
    is_stuck,
    never_cleared,
    row_status,
    waits_for,
)


class PatientQueue:
    """The state of jobs; those stuck for ``patience_seconds`` are cancelled.

    A job is stuck if it waits for something that will not come by itself. `poll` then says that it
    was cancelled.

    Jobs that their node has not cleaned up after for as long (COMPLETING) count as ended. They are
    cancelled too: if they were to be requeued, they would start when the node is back.
    """

    def __init__(self, patience_seconds: float, run: RunJobs = UNKNOWN_RUN) -> None:
        self._run = run
        self._stuck = StuckJobs(patience_seconds)
        self._completing = StuckJobs(patience_seconds, stuck=_completes)
        self._given_up: dict[str, str] = {}
        self._never_cleared: set[str] = set()

    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """Return the status of each job."""
        rows = job_rows(job_ids, self._run)
        for job in self._stuck.overdue(rows):
            row = rows[job]
            if row is not None and job not in self._given_up:
                give_up(job, row)
                self._given_up[job] = waits_for(row)
        overdue = self._completing.overdue(rows)
        for job in overdue:
            if job not in self._never_cleared:
                self._never_cleared.add(job)
                with suppress(
                    QueueUnavailable
                ):  # it counts as ended anyway; a job that appears again is a stray
                    cancel_jobs([job])
        return {job: self._status(job, row, job in overdue) for job, row in rows.items()}

    def _status(self, job: str, row: QueueRow | None, overdue: bool) -> JobStatus:
        if overdue and row is not None:
            return never_cleared(row)
        status = row_status(job, row)
        # A job that has started in the meantime continues.
        if job in self._given_up and status.state in {"PENDING", "CANCELLED", "UNKNOWN", *HELD}:
            return given_up(job, status.state, self._given_up[job])
        return status


def _completes(row: QueueRow) -> bool:
    return row.state == "COMPLETING"


class StuckJobs:
    """Tells which jobs have been stuck for ``patience_seconds``.

    A job's time begins when `overdue` first sees it stuck. Times are kept in memory only, so they
    begin again with a new controller.
    """

    def __init__(
        self,
        patience_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        stuck: Callable[[QueueRow], bool] = is_stuck,
    ) -> None:
        self._patience = patience_seconds
        self._clock = clock
        self._is_stuck = stuck
        self._since: dict[str, float] = {}

    def overdue(self, rows: Mapping[str, QueueRow | None]) -> list[str]:
        """Return the jobs in ``rows`` that have been stuck for too long."""
        now = self._clock()
        stuck = [job for job, row in rows.items() if row is not None and self._is_stuck(row)]
        for job in rows.keys() - set(stuck):
            self._since.pop(job, None)
        return [job for job in stuck if now - self._since.setdefault(job, now) >= self._patience]
