"""Names and comments of jobs in the queue, changed while jobs run.

They only help those who look at the queue. Therefore nobody waits for them: a thread of its own
makes the changes, and a change that fails is left out.
"""

from __future__ import annotations

import logging
import threading

from agenttts.dispatch.slurm.queue import set_name_and_comment

log = logging.getLogger(__name__)


class JobLabels:
    """Changes names and comments of jobs, one after the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[str, tuple[str, str]] = {}
        self._works = False

    def give(self, job_id: str, name: str, comment: str) -> None:
        """Have a job get a name and a comment soon; returns at once.

        If several changes of a job wait, only the last is made.
        """
        with self._lock:
            self._wanted[job_id] = (name, comment)
            if self._works:
                return
            self._works = True
        threading.Thread(target=self._work, name="job labels", daemon=True).start()

    def _work(self) -> None:
        while (change := self._next()) is not None:
            job_id, name, comment = change
            if not set_name_and_comment(job_id, name=name, comment=comment):
                # Each change without an answer takes a minute.
                log.info("the queue does not change the label of %s; the others stay", job_id)
                with self._lock:
                    self._wanted.clear()

    def _next(self) -> tuple[str, str, str] | None:
        """Return a job and its label; None if no change waits, which ends the thread."""
        with self._lock:
            if not self._wanted:
                self._works = False
                return None
            job_id = next(iter(self._wanted))
            return (job_id, *self._wanted.pop(job_id))
