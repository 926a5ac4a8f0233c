"""The job of a service on its node, and what it does when it is stopped."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from agenttts.dispatch.own_job import in_queue, started_again
from agenttts.files.processes import die_with_parent

if TYPE_CHECKING:
    import submitit


class RestartedJob:
    """The base of functions whose job runs again when the queue stops it.

    A queue stops a job near its time limit, or preempts it. Everything that the next run needs is
    on disk at any time.
    """

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what the queue starts again; submitit calls this on SIGUSR2."""
        return started_again(self)


class EndingJob:
    """The base of functions whose job ends when the queue stops it.

    The owner starts another when it needs one.
    """

    def checkpoint(self) -> None:
        """Return None, so that the job ends here; submitit calls this on SIGUSR2."""
        return


def end_with_runner() -> None:
    """End this process when the one that the scheduler polls and cancels is killed.

    That one is the parent of a service on a host. A queue's job has none.
    """
    if not in_queue():
        die_with_parent(signal.SIGKILL)
