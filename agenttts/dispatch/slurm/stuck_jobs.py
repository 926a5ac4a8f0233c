"""How long a job may wait for what will not come by itself, be it a trial's or a served model's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from agenttts.dispatch.base import JobStatus, QueueUnavailable
from agenttts.dispatch.slurm.queue import (
    HELD,
    cancel_jobs,
    give_up,
    given_up,
    is_stuck,
    job_rows,
    never_cleared,
    row_status,
    waits_for,
)
from agenttts.dispatch.slurm.queue_reader import QueueRow


class PatientQueue:
    """How jobs stand in the queue; those that have waited in vain for ``patience_seconds`` are
    cancelled, and said to be.

    Those that their node has not cleaned up after for as long (COMPLETING) have ended. They are
    cancelled too: where they were to be requeued, they would start when the node is back.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._stuck = StuckJobs(patience_seconds)
        self._completing = StuckJobs(patience_seconds, stuck=_completes)
        self._given_up: dict[str, str] = {}
        self._never_cleared: set[str] = set()

    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """The status of each job."""
        rows = job_rows(job_ids)
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
                ):  # it has ended all the same; one that appears again is a stray
                    cancel_jobs([job])
        return {job: self._status(job, row, job in overdue) for job, row in rows.items()}

    def _status(self, job: str, row: QueueRow | None, overdue: bool) -> JobStatus:
        if overdue and row is not None:
            return never_cleared(row)
        status = row_status(job, row)
        # One that has started after all goes on.
        if job in self._given_up and status.state in {"PENDING", "CANCELLED", "UNKNOWN", *HELD}:
            return given_up(job, status.state, self._given_up[job])
        return status


def _completes(row: QueueRow) -> bool:
    return row.state == "COMPLETING"


class StuckJobs:
    """Tells which jobs have waited in vain for ``patience_seconds``, as far as it has been asked
    about them.

    What it remembers is in memory alone: a new controller is patient anew.
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
        """Of the jobs in ``rows``, those that have waited too long for what will not come."""
        now = self._clock()
        stuck = [job for job, row in rows.items() if row is not None and self._is_stuck(row)]
        for job in rows.keys() - set(stuck):
            self._since.pop(job, None)
        return [job for job in stuck if now - self._since.setdefault(job, now) >= self._patience]
