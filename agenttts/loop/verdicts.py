"""Judge a job that ended without a result.

The sources are the job's own record and the state that the queue reports.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from agenttts.dispatch.attempts import ATTEMPTS, HANDED_OVER, Attempt
from agenttts.dispatch.base import JobStatus
from agenttts.dispatch.blame import AttemptEnd, Verdict, blame
from agenttts.dispatch.node.trial_log import log_of, read_end
from agenttts.tables.schema import TrialState
from agenttts.trial.phase import read_phase
from agenttts.trial.result import result_problem


def verdict_of(last: Attempt | None, status: JobStatus, directory: Path) -> Verdict:
    """Return what the end of a job means for its trial, which has no result.

    Args:
        last: The attempt that this job recorded, if any.
        status: What the queue reports.
        directory: The trial's directory.
    """
    last = last_word(last, status)
    node = status.node or (last.node if last is not None else "")
    problem = status.detail if status.state == "ENDED" or status.never_started else ""
    reason = f" (the scheduler's reason: {status.detail})" if status.detail and not problem else ""
    if last is None or last.state is None:
        log_text = read_end(log_of(directory, last), last.log_start) if last else ""
        began = read_phase(log_of(directory, last).parent if last else directory) is not None
        end = AttemptEnd(
            log=log_text, queue_state=status.state, node=node, began=began, problem=problem
        )
        verdict = blame(end)
        if last is None:
            verdict = _before_any_attempt(verdict, status, node)
        return replace(verdict, explanation=verdict.explanation + reason)
    state = TrialState(last.state)
    retried = state in (TrialState.INFRA_FAILED, TrialState.PREEMPTED)
    recorded = Verdict(
        state,
        retried if last.retry is None else last.retry,
        last.node_fault,
        last.error or f"its job {last.job_id} ended as {status.state}",
    )
    verdict = blame(AttemptEnd(recorded=recorded, queue_state=status.state, node=node))
    if state is TrialState.COMPLETED:
        text = f"{verdict.explanation}: {result_problem(directory)}"
        verdict = replace(verdict, explanation=text)
    return verdict


def last_word(last: Attempt | None, status: JobStatus) -> Attempt | None:
    """Return the attempt that says how the job ended, if one does.

    If the job ended an attempt itself, at its time limit or for a preemption, another start of the
    same job was to follow. If the queue reports another end, the record of the following start is
    missing or not yet visible, and the result is None. An attempt that drew the leading stages of
    its trial says nothing of what was to follow.
    """
    if last is not None and last.state == HANDED_OVER:
        return None
    requeued = last is not None and last.stopped in ("time limit", "preemption")
    if status.never_started or (requeued and status.state in ("COMPLETED", "CANCELLED")):
        return None
    return last


def ends_its_job(record: Attempt | None) -> bool:
    """Return whether a record shows the end of its job.

    The queue may still say COMPLETING then.

    It does not if a requeue may follow. That is so if the job ended itself for a requeue, or if its
    trial was ended from outside, as Slurm does before it requeues a preempted job.
    """
    return (
        record is not None
        and record.finished is not None
        and record.stopped not in ("time limit", "preemption", "signal")
        and record.state not in (None, HANDED_OVER, TrialState.CANCELLED, TrialState.PREEMPTED)
    )


def look_anew(directory: Path) -> None:
    """List a trial's directory, so that NFS looks for its files again.

    NFS caches the absence of a file for up to a minute, until the directory is read again.

    Raises:
        OSError: The file system is in trouble. Files that cannot be read for now are not missing.
    """
    for folder in (directory, directory / ATTEMPTS):
        with suppress(FileNotFoundError, NotADirectoryError):
            list(folder.iterdir())


def _before_any_attempt(verdict: Verdict, status: JobStatus, node: str) -> Verdict:
    """Return the verdict on a job that left no attempt.

    Nothing of its trial has run, so the trial is not at fault. The node may be.
    """
    if status.state in ("TIMEOUT", "DEADLINE"):
        where = f" on {node}" if node else ""
        text = (
            f"the job reached its time limit{where} before its trial began; a setup line of "
            "the profile may hang, or a file "
            "system of the node"
        )
        verdict = Verdict(TrialState.INFRA_FAILED, True, False, text)
    unbegun = status.never_started or status.state in ("FAILED", "TIMEOUT", "DEADLINE")
    if verdict.state is TrialState.INFRA_FAILED and unbegun and node:
        return replace(verdict, exclude_node=True)
    return verdict
