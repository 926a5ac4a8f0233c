"""The job of a service on its node, and what it does when it is stopped."""

from __future__ import annotations

import ctypes
import os
import signal

import submitit

_PR_SET_PDEATHSIG = 1


class RestartedJob:
    """The base of functions whose job runs again when the queue stops it.

    A queue stops a job near its time limit, or preempts it. Everything that the next run needs is
    on disk at any time.
    """

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what the queue starts again; submitit calls this on SIGUSR2."""
        return submitit.helpers.DelayedSubmission(self)


class EndingJob:
    """The base of functions whose job ends when the queue stops it.

    The owner starts another when it needs one.
    """

    def checkpoint(self) -> None:
        """Return None, so that the job ends here; submitit calls this on SIGUSR2."""
        return


def end_with_runner() -> None:
    """End this process when the one that the scheduler polls and cancels is killed.

    That one is the parent of a service on a host. A queue's job has none. Source: prctl(2), Linux.
    """
    if not _runs_in_queue():
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def queue_job() -> str | None:
    """The queue's job that this process is, which the queue may start again elsewhere.

    None for a process of a host, and for one that merely runs in a job.
    """
    return os.environ.get("SLURM_JOB_ID") if _runs_in_queue() else None


def own_job_id() -> str:
    """Return the id under which the scheduler knows the job that is this process."""
    return os.environ.get("SLURM_JOB_ID") or str(os.getpid())


def _runs_in_queue() -> bool:
    """Whether a queue's job runs this process, and not merely an outer job's shell."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
