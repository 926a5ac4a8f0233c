"""What each start of a job used of its node.

The records are ``job_starts/NN.json`` in the job's directory. The job on the node writes a record
when it starts, when attempts begin or end, and when it ends. A record without an end belongs to a
job that runs, or that was killed. What its program did inside is in `agenttts.trial.usage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from agenttts.files import numbered
from agenttts.files.numbered import check_moments, read_numbered, write_numbered

JOB_STARTS = "job_starts"
"""The folder of the records."""


@dataclass(frozen=True)
class JobStart:
    """One start of a job.

    Times are ISO-8601 UTC. Wall seconds up to ``written`` are in one of three parts: with attempts
    (``busy_seconds``), idle, and the rest, before the first attempt.

    Attributes:
        number: Counts the starts in the directory, from 1.
        job_id: The id under which the scheduler knows the job.
        node: Its node.
        gpus: Its GPUs.
        waited_since: When it was submitted; after a requeue, when the start before ended as far as
            that is known. None if it is not known.
        started: When it started on the node.
        written: When the record was written.
        finished: When it ended; None while it runs, and if it was killed.
        attempts: Number of attempts that began.
        busy_seconds: Wall seconds with an attempt that had not ended.
        idle_seconds: Wall seconds without one, after the first had begun.
        lost_seconds: The part of ``busy_seconds`` of attempts that ended by preemption or a failure
            of the node or the cluster.
        open: Number of attempts that have not ended.
        open_seconds: Their part of ``busy_seconds``.
    """

    number: int
    job_id: str
    node: str
    gpus: int
    waited_since: str | None
    started: str
    written: str
    finished: str | None = None
    attempts: int = 0
    busy_seconds: float = 0.0
    idle_seconds: float = 0.0
    lost_seconds: float = 0.0
    open: int = 0
    open_seconds: float = 0.0


def read_job_starts(directory: Path) -> list[JobStart]:
    """Return the starts of a job's directory, oldest first.

    Records that are absent or cannot be read are left out. Fields of a newer version are ignored.
    """
    return read_numbered(JobStart, directory / JOB_STARTS, _check)


def next_number(directory: Path) -> int:
    """Return the number of the next start in a job's directory."""
    return numbered.next_number(directory / JOB_STARTS)


def waited_since(earlier: Sequence[JobStart], job_id: str, submitted: str | None) -> str | None:
    """Return since when a job that starts now had waited.

    Args:
        earlier: The earlier starts in its directory.
        job_id: The job.
        submitted: When it was submitted, if that is known.
    """
    if earlier and earlier[-1].job_id == job_id:  # a requeue
        return earlier[-1].finished or earlier[-1].written
    return submitted


def write_job_start(directory: Path, start: JobStart) -> None:
    """Write or complete a record.

    Raises:
        OSError: It cannot be written.
    """
    write_numbered(directory / JOB_STARTS, start.number, asdict(start))


def _check(start: JobStart) -> None:
    """Raise `ValueError` for moments that cannot be used."""
    check_moments(start.waited_since, start.started, start.written, start.finished)
