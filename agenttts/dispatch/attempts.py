"""The attempts of a trial: one record per start, ``attempts/NN.json``.

A record is written when the attempt starts and completed when it ends, so that an attempt whose
node was lost is still counted. Only the job on the node writes records.

Reading is tolerant. Fields of a newer version are left out, and a record that cannot be read counts
as an attempt that was cut off.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agenttts.files.documents import parse_json, typed
from agenttts.files.numbered import check_moments, number_of, numbered_files, write_numbered
from agenttts.files.trouble import passing_trouble
from agenttts.tables.schema import TrialState

log = logging.getLogger(__name__)

ATTEMPTS = "attempts"
HANDED_OVER = "HANDED_OVER"
"""State of an attempt that has drawn the leading stages of its trial. Another attempt continues.

No trial has this state."""
MAX_PREEMPTIONS = 20
"""How often a trial may be preempted and start again, if the profile does not say."""
# Number of different trials that must have failed on a node before jobs avoid it, with no trial
# completing there since.
TRIALS_TO_EXCLUDE = 2
# Time for which jobs avoid a node after its last failure. After that somebody may have repaired it.
EXCLUDED_FOR = timedelta(hours=24)
# If more nodes than this fail while no trial completes anywhere, they have a common cause, which is
# not in the nodes.
NODES_AT_FAULT = 3
# sbatch takes a long list. If a cluster loses more nodes than this within a day, excluding them
# does not help.
MOST_EXCLUDED = 32


@dataclass(frozen=True)
class Attempt:
    """One start of a trial.

    Times are ISO-8601 UTC. ``finished`` is None if the attempt was cut off.

    Attributes:
        retry: Whether another attempt may end otherwise.
        node_fault: Whether the node's fault ended the attempt.
        stopped: Why the job itself stopped the trial (`agenttts.dispatch.blame.Stop`); None if the
            trial ended by itself.
        log_start: Bytes of the log before this attempt.
        log: The log, as a path from the trial's directory; empty: the trial's own.
        together: With how many trials of its job it began, itself included.
        gpu_seconds: The trial's share of the job's GPU-seconds; None while it is not known.
        job_seconds: The trial's share of the job's wall seconds; None while it is not known.
    """

    number: int
    job_id: str
    node: str
    gpus: int
    devices: str
    started: str
    finished: str | None = None
    state: str | None = None
    error: str | None = None
    retry: bool | None = None
    node_fault: bool = False
    stopped: str | None = None
    log_start: int = 0
    log: str = ""
    together: int = 1
    gpu_seconds: float | None = None
    job_seconds: float | None = None

    @property
    def seconds(self) -> float:
        """Wall time in seconds; 0 if the end is not known."""
        if self.finished is None:
            return 0.0
        start, end = datetime.fromisoformat(self.started), datetime.fromisoformat(self.finished)
        return (end - start).total_seconds()


def read_attempts(directory: Path, *, patient: bool = False) -> list[Attempt]:
    """Return the attempts of a trial so far, oldest first.

    Args:
        directory: The trial's directory.
        patient: Raise if the file system has trouble that may pass, instead of treating a record as
            damaged.

    Raises:
        OSError: Only with ``patient``: the file system has trouble that may pass.
    """
    return [_read(path, patient) for path in attempt_files(directory)]


def attempt_files(directory: Path) -> list[Path]:
    """Return the record files, oldest first."""
    return numbered_files(directory / ATTEMPTS)


def write_attempt(directory: Path, attempt: Attempt) -> None:
    """Write or complete a record."""
    write_numbered(directory / ATTEMPTS, attempt.number, asdict(attempt))


def count_state(attempts: Sequence[Attempt], state: TrialState) -> int:
    """Return how many attempts ended in a state."""
    return sum(attempt.state == state for attempt in attempts)


def retry_pause(attempts: Sequence[Attempt], lost: int, pauses: Sequence[float]) -> float:
    """Return the seconds between a trial's last failure and its next start.

    Preempted attempts do not count: a pause would not bring the place back sooner.

    Args:
        attempts: The trial's records.
        lost: How many of its jobs were lost, as far as the caller knows. A job may leave no record.
        pauses: The pause after the first failure, the second, ...; the last one also after every
            later failure.
    """
    failed = max(lost, sum(a.state in (None, TrialState.INFRA_FAILED) for a in attempts))
    return pauses[min(failed, len(pauses)) - 1] if failed and pauses else 0.0


@dataclass(frozen=True)
class Loss:
    """A job that ended without a result, as the queue reported it.

    There may be no attempt of it, or none that was completed. ``moment`` is when the loss was seen,
    ISO-8601 UTC. ``node_fault`` says that the node was the cause. ``why`` is the failure; '' if it
    is not known.
    """

    trial: str
    job_id: str
    node: str
    node_fault: bool
    moment: str
    why: str = ""


def nodes_to_exclude(
    trials: Mapping[str, Sequence[Attempt]], now: datetime, losses: Iterable[Loss] = ()
) -> tuple[str, ...]:
    """Return the nodes that new jobs should not run on, sorted.

    They follow from the attempts of all trials and from ``losses``. A node is avoided for
    `EXCLUDED_FOR` after one of these:

    - a fault of the node ended an attempt
    - attempts of `TRIALS_TO_EXCLUDE` different trials failed there for unknown reasons, with no
      trial completing there in between

    In two cases the cause is elsewhere, and no node is avoided:

    - More than `NODES_AT_FAULT` nodes failed, and no trial has completed anywhere since.
    - More than one node failed, and no attempt has begun anywhere. A wrong setup line has this
      effect.
    """
    ended = sorted(
        [
            *((attempt, trial) for trial, attempts in trials.items() for attempt in attempts),
            *((_lost(loss), loss.trial) for loss in losses if not _on_record(loss, trials)),
        ],
        key=lambda pair: pair[0].finished or pair[0].started,
    )
    suspects: dict[str, set[str]] = {}
    faulty: dict[str, datetime] = {}
    completed: datetime | None = None
    for attempt, trial in ended:
        node = attempt.node
        if not node or attempt.finished is None:
            continue
        if attempt.state in (TrialState.COMPLETED, HANDED_OVER):
            completed = datetime.fromisoformat(attempt.finished)
            suspects.pop(node, None)
            faulty.pop(node, None)
        elif attempt.state == TrialState.INFRA_FAILED:
            suspects.setdefault(node, set()).add(trial)
            if attempt.node_fault or len(suspects[node]) >= TRIALS_TO_EXCLUDE:
                faulty[node] = datetime.fromisoformat(attempt.finished)
    recent = [node for node, moment in faulty.items() if now - moment < EXCLUDED_FOR]
    if len(recent) > 1 and not any(trials.values()):
        return ()  # no job of the run has begun an attempt, so the cause may be common to all
    if len(recent) > NODES_AT_FAULT:
        first = min(faulty[node] for node in recent)
        if completed is None or completed < first:
            return ()
    return tuple(sorted(sorted(recent, key=lambda node: faulty[node])[-MOST_EXCLUDED:]))


def _on_record(loss: Loss, trials: Mapping[str, Sequence[Attempt]]) -> bool:
    """Return whether the job itself recorded the same fault.

    Its record has the time of the fault; the queue reports it later.
    """
    return any(
        attempt.job_id == loss.job_id
        and attempt.finished is not None
        and attempt.state == TrialState.INFRA_FAILED
        and attempt.node_fault >= loss.node_fault
        for attempt in trials.get(loss.trial, ())
    )


def _lost(loss: Loss) -> Attempt:
    return Attempt(
        number=0,
        job_id=loss.job_id,
        node=loss.node,
        gpus=0,
        devices="",
        started=loss.moment,
        finished=loss.moment,
        state=TrialState.INFRA_FAILED.value,
        node_fault=loss.node_fault,
    )


def _read(path: Path, patient: bool) -> Attempt:
    try:
        attempt = typed(Attempt, parse_json(path.read_bytes()))
        _check(attempt)
    except (OSError, ValueError) as error:
        if patient and isinstance(error, OSError) and passing_trouble(error):
            raise
        log.warning(
            "%s cannot be read (%s: %s); it counts as an interrupted attempt and may be deleted",
            path,
            type(error).__name__,
            error,
        )
        return _unreadable(path)
    return attempt


def _check(attempt: Attempt) -> None:
    """Raise `ValueError` for values that cannot be used."""
    check_moments(attempt.started, attempt.finished)
    if attempt.state not in (None, HANDED_OVER):
        TrialState(attempt.state)


def _unreadable(path: Path) -> Attempt:
    values: dict[str, Any] = {"job_id": "", "node": "", "gpus": 0, "devices": ""}
    try:
        moment = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        moment = datetime.now(UTC)
    return Attempt(
        number=number_of(path), started=moment.isoformat(timespec="milliseconds"), **values
    )
