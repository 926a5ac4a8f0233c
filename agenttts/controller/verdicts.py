"""What the controller makes of a job that ended without a result: the job's own record, and the queue's word on it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from agenttts.dispatch.attempts import Attempt
from agenttts.dispatch.base import JobStatus
from agenttts.dispatch.blame import AttemptEnd, Verdict, blame
from agenttts.dispatch.trial_log import LOG_FILE, read_end
from agenttts.tables.schema import TrialState
from agenttts.trial.result import result_problem


def verdict_of(last: Attempt | None, status: JobStatus, directory: Path) -> Verdict:
    """What the end of a job means for its trial, which has no result; ``last`` is the attempt that this job recorded."""
    problem = status.detail if status.state == "ENDED" or status.never_started else ""
    reason = f" (Slurm's reason: {status.detail})" if status.detail and not problem else ""
    if last is None or last.state is None:
        log_text = read_end(directory / LOG_FILE, last.log_start) if last else ""
        node = last.node if last else ""
        end = AttemptEnd(log=log_text, queue_state=status.state, node=node, problem=problem)
        verdict = blame(end)
        return replace(verdict, explanation=verdict.explanation + reason)
    state = TrialState(last.state)
    retried = state in (TrialState.INFRA_FAILED, TrialState.PREEMPTED)
    recorded = Verdict(
        state,
        retried if last.retry is None else last.retry,
        last.node_fault,
        last.error or f"its job {last.job_id} ended as {status.state}",
    )
    verdict = blame(AttemptEnd(recorded=recorded, queue_state=status.state, node=last.node))
    if state is TrialState.COMPLETED:
        text = f"{verdict.explanation}: {result_problem(directory)}"
        verdict = replace(verdict, explanation=text)
    return verdict


def look_anew(directory: Path) -> None:
    """List a directory: NFS keeps for up to a minute that a file was not there, until the directory is read again."""
    with suppress(OSError):
        list(directory.iterdir())
