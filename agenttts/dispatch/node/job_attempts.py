"""The attempts that one start of a job makes at its trials.

A job may have several trials. They begin together, and each has an attempt of its own
(`agenttts.dispatch.attempts`), which ends when the trial ends, or with the job. The GPU-seconds of
the job are divided equally among the trials that run at each moment. So the attempts of a job add
up to what it used while trials ran. The time in which it waits for more is in no attempt; the
record of the job's start has it (`agenttts.dispatch.job_starts`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agenttts.dispatch.attempts import HANDED_OVER, Attempt, read_attempts, write_attempt
from agenttts.dispatch.base import JobTrial
from agenttts.dispatch.blame import Stop, Verdict
from agenttts.dispatch.job_starts import (
    JobStart,
    next_number,
    read_job_starts,
    waited_since,
    write_job_start,
)
from agenttts.dispatch.node.trial_log import LOG_FILE
from agenttts.tables.schema import LOST_STATES, TrialState


class JobAttempts:
    """The attempts of one start of a job.

    Args:
        job_id: The id under which the scheduler knows the job.
        node: Its node.
        gpus: Its GPUs.
        directory: Where its log is.
        say: Called with a line for each attempt that ends.
        submitted: When the job was submitted (ISO 8601); None if that is not known.
    """

    def __init__(
        self,
        job_id: str,
        node: str,
        gpus: int,
        directory: Path,
        say: Callable[[str], None],
        submitted: str | None = None,
    ) -> None:
        self._job_id = job_id
        self._node = node
        self._gpus = gpus
        self._directory = directory
        self._say = say
        self._open: dict[JobTrial, Attempt] = {}
        self._used: dict[JobTrial, float] = {}
        self._counted_until = time.monotonic()
        earlier, moment = read_job_starts(directory), now()
        self._job = JobStart(
            number=next_number(directory),
            job_id=job_id,
            node=node,
            gpus=gpus,
            waited_since=waited_since(earlier, job_id, submitted),
            started=moment,
            written=moment,
        )
        self._write_job()
        self.started: str | None = None
        self.states: list[str] = []

    @property
    def open(self) -> list[JobTrial]:
        """The trials whose attempts have not ended."""
        return list(self._open)

    def start(self, trials: Iterable[JobTrial], log_start: int) -> None:
        """Record that the trials begin, together; the log has ``log_start`` bytes so far."""
        trials = list(trials)
        self._count()
        self.started = self.started or now()
        began = now()
        for trial in trials:
            attempts = read_attempts(trial.directory)
            attempt = Attempt(
                number=max((attempt.number for attempt in attempts), default=0) + 1,
                job_id=self._job_id,
                node=self._node,
                gpus=self._gpus,
                devices=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
                started=began,
                log_start=log_start,
                log=self._log_seen_from(trial.directory),
                together=len(trials),
            )
            self._open[trial] = attempt
            self._used[trial] = 0.0
            self._write(trial, attempt)
        self._job = replace(self._job, attempts=self._job.attempts + len(trials))
        self._write_job()

    def finish(self, trial: JobTrial, verdict: Verdict, stopped: Stop | None = None) -> None:
        """Record how a trial's attempt ended, if it has not ended before."""
        ended = {
            "state": verdict.state.value,
            "error": verdict.explanation or None,
            "retry": verdict.retry,
            "node_fault": verdict.exclude_node,
            "stopped": stopped,
        }
        self._finish(trial, ended)

    def hand_over(self, trial: JobTrial) -> None:
        """Record that a trial's due stages were drawn, if its attempt is open."""
        self._finish(trial, {"state": HANDED_OVER})

    def _finish(self, trial: JobTrial, ended: Mapping[str, Any]) -> None:
        if trial not in self._open:
            return
        self._count()
        attempt = replace(
            self._open[trial],
            finished=now(),
            gpu_seconds=round(self._used[trial] * self._gpus, 3),
            job_seconds=round(self._used[trial], 3),
            **ended,
        )
        self._write(trial, attempt)
        state = str(attempt.state)
        if state in LOST_STATES:
            lost = self._job.lost_seconds + self._used[trial]
            self._job = replace(self._job, lost_seconds=lost)
        del self._open[trial], self._used[trial]
        self._write_job()
        self.states.append(state)
        why = f": {attempt.error}" if attempt.error else ""
        self._say(f"{trial.directory.name}: {state}{why}")

    def finish_all(self, verdict: Verdict, stopped: Stop | None = None) -> None:
        """Record that the attempts that have not ended end in the same way."""
        for trial in self.open:
            self.finish(trial, verdict, stopped)

    def close(self) -> None:
        """Record that the job ends; may be called twice."""
        self._count()
        self._job = replace(self._job, finished=now())
        self._write_job()

    def outcome(self) -> str:
        """Return the first state of a trial that did not succeed, else COMPLETED."""
        others = [s for s in self.states if s not in (TrialState.COMPLETED, HANDED_OVER)]
        return others[0] if others else TrialState.COMPLETED.value

    def _write(self, trial: JobTrial, attempt: Attempt) -> None:
        """Write an attempt's record, unless the trial's directory was removed."""
        try:
            write_attempt(trial.directory, attempt)
        except OSError:
            if trial.directory.is_dir():
                raise
            self._say(f"{trial.directory} was removed; its attempt is not recorded")

    def _count(self) -> None:
        """Divide the seconds since the last call among the open attempts."""
        moment = time.monotonic()
        passed, self._counted_until = moment - self._counted_until, moment
        for trial in self._open:
            self._used[trial] += passed / len(self._open)
        if self._open:
            self._job = replace(self._job, busy_seconds=self._job.busy_seconds + passed)
        elif self._job.attempts:
            self._job = replace(self._job, idle_seconds=self._job.idle_seconds + passed)

    def _write_job(self) -> None:
        """Write the record of this start; the job goes on without it."""
        self._job = replace(
            self._job, written=now(), open=len(self._open), open_seconds=sum(self._used.values())
        )
        parts = ("busy_seconds", "idle_seconds", "lost_seconds", "open_seconds")
        rounded = {name: round(getattr(self._job, name), 3) for name in parts}
        try:
            write_job_start(self._directory, replace(self._job, **rounded))
        except OSError as error:
            self._say(f"{self._directory.name}: what the job used is not recorded: {error}")

    def _log_seen_from(self, directory: Path) -> str:
        """Return the log's path from a trial's directory; '' if it is the trial's own log.

        It is relative, because a run may be moved.
        """
        if directory == self._directory:
            return ""
        return os.path.relpath(self._directory / LOG_FILE, directory)


def now() -> str:
    """Return the time as attempts have it (ISO 8601, UTC)."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
