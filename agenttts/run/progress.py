"""How far the trials and the workers of a run have come.

A job is *lost* if it ended without a result and its trials are tried again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agenttts.files.documents import typed
from agenttts.space import Allocation

NEVER_SUBMITTED = "never submitted"
NOT_TAKEN = "its worker ended before it took the list"
IN_SHARED_JOB = "in a job of several trials"
IN_SMALLER_JOB = "in a job with fewer GPUs than its largest model needs"
PREEMPTED = "PREEMPTED"
TIMEOUT = "TIMEOUT"
NOT_COUNTED = (NEVER_SUBMITTED, NOT_TAKEN, PREEMPTED, TIMEOUT, IN_SHARED_JOB, IN_SMALLER_JOB)
"""Reasons for which a lost job does not count against the attempts of its trials."""


@dataclass(frozen=True)
class PlannedTrial:
    """A trial as it was proposed.

    ``cost`` is in budget units. ``examples`` are the numbers of the examples that the trial is
    scored on, ascending. None means all.
    """

    trial: str
    iteration: int
    allocation: Allocation
    source: str
    reason: str
    cost: float
    examples: tuple[int, ...] | None = None


@dataclass
class TrialProgress:
    """How far a trial has come.

    Attributes:
        planned: The trial as it was proposed.
        submissions: Number of its jobs that count as attempts. A job does not count if it was lost
            for a reason in `NOT_COUNTED`, or if it handed the trial over.
        batch: Token of the batch in which its job was submitted. None while it has no job.
        position: The position of its job in that batch.
        job_id: The id of its job; None while that is not known.
        together: Number of trials in its job.
        assigned: If it was given to a job that was already running (a worker): how many attempts it
            had had by then. None if it was in the first list of its job.
        alone: Whether it must run in a job of its own. This is set after a failure that may have
            been caused by other trials of the job, or by too few GPUs.
        row: Its row of the table, once it has ended.
        preemptions: How many of its jobs were preempted.
        lost_at: When a failure that counts as an attempt last ended its job (ISO 8601); None after
            another submission.
        earlier_attempts: Number of its first attempts that count against no limit. These are the
            attempts before ``resume --retry-failed``, or before ``alone`` was set.
        upto: If its job only draws the samples of the first stages: how many stages these are. None
            if the job evaluates the whole trial.
        drawn: Number of its first stages whose samples earlier jobs have drawn.
        retried: Whether it is tried again, or was (``resume --retry-failed``).
    """

    planned: PlannedTrial
    submissions: int = 0
    batch: str | None = None
    position: int = 0
    job_id: str | None = None
    together: int = 1
    alone: bool = False
    assigned: int | None = None
    row: dict[str, Any] | None = None
    preemptions: int = 0
    lost_at: str | None = None
    earlier_attempts: int = 0
    upto: int | None = None
    drawn: int = 0
    retried: bool = False

    def anew(
        self, earlier_attempts: int, *, alone: bool = False, retried: bool = False
    ) -> TrialProgress:
        """Return the progress of a trial that is started again; ``drawn`` is kept."""
        return TrialProgress(
            self.planned,
            alone=alone,
            earlier_attempts=earlier_attempts,
            drawn=self.drawn,
            retried=retried,
        )


def worker_name(batch: str, position: int) -> str:
    """Return a worker's name, unique within the run; its directory has the same name."""
    return "-".join([*batch.rsplit("-", 2)[1:], str(position)])


@dataclass
class WorkerProgress:
    """A job that stays for further lists of trials.

    Attributes:
        name: The name of the worker.
        batch: Token of the batch in which it was submitted.
        gpus: Number of its GPUs.
        job_id: The id of its job; None while that is not known.
        lists: Number of the lists that it was given after its first list.
        trials: The trials of its last list.
        seconds: How long its last list is expected to take; 0 if that is not known.
        since: When it was submitted (ISO 8601); None if an older version submitted it.
    """

    name: str
    batch: str
    gpus: int
    job_id: str | None = None
    lists: int = 0
    trials: list[str] = field(default_factory=list)
    seconds: float = 0.0
    since: str | None = None

    @property
    def position(self) -> int:
        """The position of its job in its batch."""
        return int(self.name.rpartition("-")[2])


def planned_record(planned: PlannedTrial) -> dict[str, Any]:
    """Return a planned trial in the form of the journal."""
    record = {
        "trial": planned.trial,
        "iteration": planned.iteration,
        "allocation": planned.allocation.to_records(),
        "source": planned.source,
        "reason": planned.reason,
        "cost": planned.cost,
    }
    return record if planned.examples is None else {**record, "examples": list(planned.examples)}


def planned_trial(record: Mapping[str, Any]) -> PlannedTrial:
    """Return the planned trial of a record; the inverse of `planned_record`.

    Raises:
        ValueError: The record is not a planned trial.
        KeyError: As above.
        TypeError: As above.
    """
    allocation = Allocation.from_records(record["allocation"])
    return typed(PlannedTrial, {**record, "allocation": allocation})
