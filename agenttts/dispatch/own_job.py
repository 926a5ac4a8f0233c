"""What a process knows of its own job: the id, the node, why it is stopped.

The process asks its environment and its queue, with `node.stop_cause` for the last of the three.
Jobs of trials, services and locks ask this module. A new scheduler with a queue adds its variables
here; CONTRIBUTING.md lists the other files that read Slurm's.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agenttts.dispatch.node.stop_cause import show_job, stop_cause
from agenttts.dispatch.run_jobs import RunJobs
from agenttts.dispatch.slurm import queue
from agenttts.dispatch.slurm.commands import query_environment
from agenttts.files.commands import ask

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission
    from submitit.slurm.slurm import SlurmJobEnvironment

    from agenttts.dispatch.base import JobStatus

QUEUE_NAME = "Slurm"
"""The queue's name in texts about a job, such as the holder of a lock."""
REQUEUE_PAUSE_S = 5.0
"""Seconds between two attempts to requeue this job."""
_REQUEUE_PATIENCE_S = 300.0
"""Seconds within which this job is requeued; Slurm may kill it before (slurm.conf(5), KillWait)."""
_REQUEUE_ANSWER_S = 60.0
# A job with --no-requeue, one that is gone, and one of another user.
_REFUSED = re.compile(r"presently disabled|invalid job|permission denied", re.I)


def trial_job_id() -> str:
    """Return the scheduler's id of the job of trials that is this process."""
    if not in_queue():
        return os.environ.get("SUBMITIT_LOCAL_JOB_ID", "")
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return queue_job() or ""


def service_id() -> str:
    """Return the scheduler's id of the service that is this process."""
    return queue_job() or str(os.getpid())


def in_queue() -> bool:
    """Return whether a queue's job runs this process.

    A process that was started in the shell of an outer job does not count.
    """
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def queue_job() -> str | None:
    """Return the queue's job that this process is.

    The queue may start this job again elsewhere. None for a process of a host, and for one that
    merely runs in a job.
    """
    # In the shell of an outer job (salloc, srun --pty) Slurm's variables are those of that job.
    return (os.environ.get("SLURM_JOB_ID") or None) if in_queue() else None


def node_name() -> str:
    """Return this node's name in the queue; without a queue, the host's name.

    In the shell of an outer job it is right, too: slurmd sets it on the node.
    """
    return os.environ.get("SLURMD_NODENAME", socket.gethostname())


def cluster_name() -> str:
    """Return the cluster of this process's job; '' if it is not known."""
    return os.environ.get("SLURM_CLUSTER_NAME", "") if in_queue() else ""


def say(text: str) -> None:
    """Print a line to this job's log; on a full disk the line is lost."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def why_stopped(
    *, elapsed: float, limit_seconds: float, grace_seconds: float
) -> Literal["preemption", "time limit"]:
    """Return why the queue has sent this job its warning signal.

    Args:
        elapsed: Seconds since the attempt began.
        limit_seconds: The time limit that the job asked for.
        grace_seconds: How long before the limit the signal was asked for.
    """
    job = queue_job()
    return stop_cause(
        show_job(job, timeout=max(1.0, grace_seconds * 0.3)) if job else {},
        os.environ if job else {},
        now=time.time(),
        elapsed=elapsed,
        limit_seconds=limit_seconds,
        grace_seconds=grace_seconds,
    )


def started_again(function: Any) -> DelayedSubmission:
    """Return what the queue starts again in place of this job.

    It is for submitit's checkpoint. submitit asks for the requeue once, and the job is lost if
    slurmctld does not answer then, or if the signal of a preemption ends scontrol. Here it is asked
    again. On a full disk submitit cannot write what starts, and the job is lost too. Here it starts
    from what it was submitted with: all else that it needs is in its own files.
    """
    # Jobs have imported submitit. Commands, which ask this module too, save it (50 modules).
    from submitit.core.utils import DelayedSubmission
    from submitit.slurm.slurm import SlurmJobEnvironment

    SlurmJobEnvironment._requeue = _requeue
    again = DelayedSubmission(function)

    def dump(path: Path) -> None:
        del again.dump  # it is not part of what is written
        try:
            again.dump(path)
        except OSError as error:
            say(f"{path}: {error}; the job starts as before")
            path.unlink(missing_ok=True)
            os.link(path.with_suffix(""), path)  # submitit's name for it is PICKLE.save_tmp

    again.dump = dump
    return again


def job_states(jobs: Iterable[str], user: str = "") -> dict[str, JobStatus]:
    """Return the states of other jobs of this process's queue, by id.

    Args:
        jobs: Their ids.
        user: The user that submitted them; '' for the user of this process.

    Raises:
        QueueUnavailable: The queue does not answer.
    """
    return queue.job_states(jobs, RunJobs(users=(user,) if user else ()))


def _requeue(environment: SlurmJobEnvironment, countdown: int) -> None:
    """Requeue this job.

    Raises:
        UncompletedJobError: Slurm refuses it, or has not answered for `_REQUEUE_PATIENCE_S`.
    """
    from submitit.core.utils import UncompletedJobError  # as in `started_again`

    command = ["scontrol", "requeue", str(environment.job_id)]
    deadline = time.monotonic() + _REQUEUE_PATIENCE_S
    while not (answer := ask(command, _REQUEUE_ANSWER_S, query_environment())).succeeded:
        failure = f"'{' '.join(command)}' {answer.failure()}"
        if _REFUSED.search(failure) or time.monotonic() + REQUEUE_PAUSE_S > deadline:
            raise UncompletedJobError(f"this job was not requeued: {failure}")
        say(f"{failure}; trying again in {REQUEUE_PAUSE_S:g} s")
        time.sleep(REQUEUE_PAUSE_S)
