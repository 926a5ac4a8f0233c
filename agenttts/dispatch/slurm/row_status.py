"""What the row of a job in the queue means: `JobStatus` from Slurm's words.

Nothing is asked here.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from agenttts.dispatch.base import JobStatus
from agenttts.dispatch.service import ELSEWHERE
from agenttts.dispatch.slurm.queue_reader import QueueRow
from agenttts.dispatch.slurm.queue_reasons import Waiting, end_sentence, wait_sentence, waiting_for
from agenttts.tables.schema import TrialState

# Job states that end a job for good (squeue(1), "JOB STATE CODES"), and what each means for a
# trial.
_ENDS = {
    "COMPLETED": TrialState.INFRA_FAILED,  # the job ended normally, but left no result
    "FAILED": TrialState.INFRA_FAILED,
    "TIMEOUT": TrialState.TIMEOUT,
    "DEADLINE": TrialState.TIMEOUT,
    "OUT_OF_MEMORY": TrialState.OOM,
    "NODE_FAIL": TrialState.INFRA_FAILED,
    "BOOT_FAIL": TrialState.INFRA_FAILED,
    "LAUNCH_FAILED": TrialState.INFRA_FAILED,
    "PREEMPTED": TrialState.PREEMPTED,
    "REVOKED": TrialState.INFRA_FAILED,
    "CANCELLED": TrialState.CANCELLED,
}
# States of held jobs, which run when somebody releases them (squeue(1)).
HELD = frozenset({"SPECIAL_EXIT", "REQUEUE_HOLD", "RESV_DEL_HOLD"})
# If squeue does not list a job that was submitted longer ago than this, the job has ended. sacct
# may still say that the job waits or runs, because slurmdbd may not have been told of its end.
_SHOWS_WITHIN = timedelta(minutes=5)
# Mark in the comment of a job that was cancelled because it would not have started. The mark is
# followed by Slurm's reason for the job's wait.
_GAVE_UP = "gave-up="
# In `QueueRow.state` instead of Slurm's word: the row has the number of one of the run's jobs, but
# belongs to another job. `QueueRow.reason` then has a sentence for the user, as for `ELSEWHERE`.
FOREIGN = "FOREIGN"


def row_status(job: str, row: QueueRow | None) -> JobStatus:
    """Return a job's status from its row, with the reason as a sentence."""
    if row is None:
        return JobStatus(
            "UNKNOWN",
            ended=True,
            verdict=TrialState.INFRA_FAILED,
            detail="neither squeue nor sacct lists the job any more",
        )
    if row.state == ELSEWHERE:
        return JobStatus(ELSEWHERE, ended=False, detail=row.reason)
    if row.state == FOREIGN:
        return JobStatus(
            "UNKNOWN",
            ended=True,
            verdict=TrialState.INFRA_FAILED,
            detail=f"the queue has another job of this number: {row.reason}",
        )
    found = status(row.state, waits_for(row))
    if not found.ended and row.unqueued and not _new(row):
        return JobStatus(
            "UNKNOWN",
            ended=True,
            verdict=TrialState.INFRA_FAILED,
            detail=(
                f"squeue no longer lists the job, but sacct still shows it as {found.state}; "
                "an administrator can close such jobs ('sacctmgr show runawayjobs')"
            ),
            node=row.node,
        )
    if found.ended:
        reason = _gave_up(row)
        if found.verdict is TrialState.CANCELLED and reason:
            return replace(given_up(job, row.state, reason), node=row.node)
        detail = end_sentence(found.detail, job) if found.detail else ""
    else:
        detail = (
            wait_sentence(found.detail, job) if found.detail else _held_up(found.state, job, row)
        )
    return JobStatus(
        found.state, found.ended, found.verdict, detail, stuck=is_stuck(row), node=row.node
    )


def _held_up(state: str, job: str, row: QueueRow) -> str:
    """Return what holds up a completing or suspended job; '' for another job."""
    if state == "COMPLETING":
        node = row.node or "NODE"
        return (
            f"its node is being cleaned up; if that does not end, 'scontrol show node {node}' "
            "shows why"
        )
    if state in ("SUSPENDED", "STOPPED"):
        return (
            f"'scontrol resume {job}' continues it; if it was suspended by preemption, "
            "Slurm continues it"
        )
    return ""


def never_cleared(row: QueueRow) -> JobStatus:
    """Return the status of a job whose node takes too long to clean up after it.

    The job counts as ended.
    """
    return JobStatus(
        "COMPLETING",
        ended=True,
        verdict=TrialState.INFRA_FAILED,
        detail=f"the clean-up of its node {row.node} has not ended".replace("  ", " "),
        node=row.node,
    )


def _new(row: QueueRow) -> bool:
    """Return whether a job is so new that squeue perhaps does not show it yet.

    Some sites keep squeue's answers for a while.
    """
    return row.submitted is not None and datetime.now(UTC) - row.submitted < _SHOWS_WITHIN


def is_stuck(row: QueueRow) -> bool:
    """Return whether a job's reason to wait will not pass by itself."""
    never = waiting_for(row.reason).waiting is Waiting.NEVER
    return row.state in HELD or (row.state == "PENDING" and never)


def waits_for(row: QueueRow) -> str:
    """Return the code of what a job waits for.

    The code is Slurm's reason. For a held job it is the job's state, unless Slurm's reason already
    says that the wait does not end by itself.
    """
    told = row.state not in HELD or waiting_for(row.reason).waiting is Waiting.NEVER
    return row.reason if told else row.state


def given_up(job: str, state: str, reason: str) -> JobStatus:
    """Return the status of a job that was cancelled because it would not have started."""
    sentence = wait_sentence(reason, job)
    return JobStatus(
        state,
        ended=True,
        verdict=TrialState.INFRA_FAILED,
        detail=f"it would not have started and was cancelled: {sentence}",
        never_started=True,
    )


def gave_up_mark(row: QueueRow) -> str:
    """Return the mark for the comment of a job that is given up."""
    return _GAVE_UP + re.sub(r"[^\w]+", "_", waits_for(row))


def _gave_up(row: QueueRow) -> str:
    marks = [word for word in row.comment.split() if word.startswith(_GAVE_UP)]
    return marks[-1].removeprefix(_GAVE_UP).replace("_", " ") if marks else ""


def status(state: str, reason: str) -> JobStatus:
    """Return the `JobStatus` for a Slurm state word, with Slurm's own reason.

    The word may be of the form ``CANCELLED by 0`` or ``CANCELLED+``.
    """
    word = state.split()[0].rstrip("+") if state.strip() else "UNKNOWN"
    verdict = _ENDS.get(word)
    detail = reason if reason not in ("", "None", "(null)") else ""
    return JobStatus(word, ended=verdict is not None, verdict=verdict, detail=detail)


def lives(row: QueueRow) -> bool:
    """Return whether a job waits or runs; a job that is completing does not count."""
    found = status(row.state, "")
    return not found.ended and found.state != "COMPLETING"
