"""What Slurm says of jobs: squeue first, sacct for what squeue no longer shows.

Order of trust: a valid result of the trial > squeue > sacct. sacct is optional (many small clusters have no
accounting) and calls a job that is being requeued NODE_FAIL, so it is asked only about jobs squeue does not know.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable

from agenttts.dispatch.base import JobStatus, QueueUnavailable
from agenttts.errors import MissingRequirement
from agenttts.tables.schema import TrialState

# Job states that end a job for good (squeue(1), "JOB STATE CODES"), and what each means for a trial.
_ENDS = {
    "COMPLETED": TrialState.INFRA_FAILED,  # the job ended in order, yet left no result
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
_TIMEOUT_S = 60


def job_states(job_ids: Iterable[str]) -> dict[str, JobStatus]:
    """The status of each job; one that neither squeue nor sacct knows has ended for unknown reasons."""
    wanted = list(job_ids)
    if not wanted:
        return {}
    queue = _squeue()
    states = {job: status(*queue[job]) for job in wanted if job in queue}
    missing = [job for job in wanted if job not in states]
    accounted = _sacct(missing) if missing else {}
    for job in missing:
        if job in accounted:
            states[job] = status(accounted[job], "")
        else:
            states[job] = JobStatus(
                "UNKNOWN",
                ended=True,
                verdict=TrialState.INFRA_FAILED,
                detail="neither squeue nor sacct knows the job any more",
            )
    return states


def status(state: str, reason: str) -> JobStatus:
    """A Slurm state word (``CANCELLED by 0`` and ``CANCELLED+`` included) as a `JobStatus`."""
    word = state.split()[0].rstrip("+") if state else "UNKNOWN"
    verdict = _ENDS.get(word)
    detail = reason if reason not in ("", "None") else ""
    return JobStatus(word, ended=verdict is not None, verdict=verdict, detail=detail)


def jobs_with_comment(word: str) -> dict[str, str]:
    """States by job id of the user's jobs whose comment holds ``word``, as a whole word: batch=r-1 is not batch=r-10."""
    rows = _squeue_rows().items()
    return {job: state for job, (state, _, comment) in rows if word in comment.split()}


def live_jobs() -> list[str]:
    """The user's jobs that wait or run, elements of arrays one by one."""
    return [job for job, (state, reason) in _squeue().items() if not status(state, reason).ended]


def run_slurm(command: list[str]) -> str:
    """Run a Slurm command; its standard output.

    `MissingRequirement` when it is absent, `QueueUnavailable` when it fails or does not answer.
    """
    if shutil.which(command[0]) is None:
        raise MissingRequirement(
            f"{command[0]} is not on this machine's PATH, so the profile's cluster cannot be reached",
            fix="run on a login node of the cluster, or choose another profile (--cluster local)",
        )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # fmt: skip
        problem = f"failed: {done.stderr.strip() or done.stdout.strip()}"
    except subprocess.TimeoutExpired:
        done, problem = None, f"did not answer within {_TIMEOUT_S} s"
    if done is None or done.returncode != 0:
        raise QueueUnavailable(
            f"'{' '.join(command)}' {problem}",
            fix="check that slurmctld answers ('scontrol ping') and that the profile's options are valid here",
        )
    return done.stdout


def _squeue() -> dict[str, tuple[str, str]]:
    return {job: (state, reason) for job, (state, reason, _) in _squeue_rows().items()}


def _squeue_rows() -> dict[str, tuple[str, str, str]]:
    # No -j: squeue fails as a whole when one id is purged already. -t all: just-ended jobs stay for MinJobAge.
    text = run_slurm(["squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%r|%k"])
    rows: dict[str, tuple[str, str, str]] = {}
    for line in text.splitlines():
        job, state, reason, comment = line.split("|", 3)
        rows[job] = (state, reason, comment)
    return rows


def _sacct(job_ids: list[str]) -> dict[str, str]:
    if shutil.which("sacct") is None:
        return {}
    command = ["sacct", "-n", "-P", "-X", "-o", "JobID,State", "-j", ",".join(job_ids)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return {}
    if done.returncode != 0:  # no accounting on this cluster
        return {}
    states: dict[str, str] = {}
    for line in done.stdout.splitlines():
        job, separator, state = line.partition("|")
        if separator:
            states[job] = state
    return states
