"""Evaluation: planned trials become jobs, jobs become rows, whatever happens to jobs, queue and controller in between.

What is done is in the journal before anything follows from it; a job that was submitted is adopted, never submitted twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from agenttts.controller.collect import failed_row, finished_row, row_from_json, row_to_json
from agenttts.controller.journal import NEVER_SUBMITTED, Journal, TrialProgress
from agenttts.controller.run import RunDirectory
from agenttts.controller.works import WorkFactory
from agenttts.dispatch.base import Dispatcher, JobStatus, QueueUnavailable, SubmitLimitReached, Work
from agenttts.dispatch.job import read_attempts
from agenttts.tables.atomic import atomic_write_parquet
from agenttts.tables.schema import TrialRow, TrialState, trials_frame
from agenttts.trial.result import read_result

log = logging.getLogger(__name__)

# Ends that are not the trial's own fault: it is started again, `max_attempts` times at most.
_RETRIED = {TrialState.INFRA_FAILED, TrialState.PREEMPTED}


@dataclass(frozen=True)
class EvaluationSettings:
    """What evaluation needs of the profile. ``settle_seconds``: how long a result may take to appear on a shared file
    system after the queue says that its job has ended. ``queue_patience_seconds``: how long the queue may be unavailable, as
    while slurmctld is restarted, before the controller gives up."""

    max_attempts: int
    poll_seconds: float
    settle_seconds: float
    queue_patience_seconds: float = 6 * 3600.0


class Attendant(Protocol):
    """Something that the search needs while it runs and that costs while it waits: a served model."""

    def waiting(self, remaining: int, total: int, more: bool) -> None:
        """Trials run: ``remaining`` of ``total``; ``more``: the search goes on after them."""

    def release(self) -> None:
        """Nothing is needed any more."""


class Evaluation:
    """The trials of one run. `works` turns planned trials into jobs' commands (see `agenttts.controller.works`)."""

    def __init__(
        self,
        run: RunDirectory,
        journal: Journal,
        dispatcher: Dispatcher,
        works: WorkFactory,
        settings: EvaluationSettings,
        attendant: Attendant | None = None,
    ) -> None:
        self._run = run
        self._journal = journal
        self._dispatcher = dispatcher
        self._works = works
        self._settings = settings
        self._attendant = attendant
        self._ended: dict[str, float] = {}

    def evaluate(self, trials: Sequence[TrialProgress], *, more: bool) -> None:
        """Have every trial of an iteration run to its end; ``more``: another iteration follows."""
        trouble: float | None = None
        while True:
            try:
                self._adopt([t for t in trials if t.row is None])
                if self._collect(trials):
                    self.write_table()
                waiting = [t for t in trials if t.row is None]
                if not waiting:
                    return
                if self._attendant is not None:
                    self._attendant.waiting(len(waiting), len(trials), more)
                self._submit([t for t in waiting if t.batch is None], waiting)
                trouble = None
            except SubmitLimitReached as error:
                log.info("%s", error)
                if any(t.job_id and t.row is None for t in trials):
                    trouble = None  # the queue works: it is full, of these trials among others
                else:
                    trouble = self._still(trouble, error)
            except QueueUnavailable as error:
                # Jobs run on meanwhile, and what was submitted without an answer is found by its batch.
                log.warning("%s; asking again", error)
                trouble = self._still(trouble, error)
            time.sleep(self._settings.poll_seconds)

    def _still(self, since: float | None, error: QueueUnavailable) -> float:
        """Since when there is trouble with the queue; raises the error when that is too long ago."""
        since = since or time.monotonic()
        if time.monotonic() - since > self._settings.queue_patience_seconds:
            raise error
        return since

    def _adopt(self, trials: Iterable[TrialProgress]) -> None:
        """Find the jobs of submissions that were begun and never written down as done."""
        for batch in {t.batch for t in trials if t.batch and not t.job_id}:
            members = [self._journal.state.trials[t] for t in self._journal.state.batches[batch]]
            found = self._dispatcher.find(batch, [self._work(member) for member in members])
            if found:
                log.info("adopted %d jobs of batch %s", len(found), batch)
                self._journal.append("submitted", batch=batch, jobs=found)
            lost = [m.planned.trial for m in members if m.planned.trial not in found]
            lost = [t for t in lost if self._journal.state.trials[t].row is None]
            if lost:
                self._journal.append("lost", trials=lost, reason=NEVER_SUBMITTED)

    def _submit(self, pending: Sequence[TrialProgress], waiting: Sequence[TrialProgress]) -> None:
        """Submit what may be submitted now, one array per resource class."""
        live = len(waiting) - len(pending)
        room = self._dispatcher.capacity(live)
        works = [(t, self._work(t)) for t in pending[:room]]
        works.sort(key=lambda pair: pair[1].gpus)  # stable: trial order within a class
        for _, group in groupby(works, key=lambda pair: pair[1].gpus):
            members = list(group)
            names = [t.planned.trial for t, _ in members]
            batch = f"{self._works.token}-{len(self._journal.state.batches)}"
            self._journal.append("submitting", batch=batch, trials=names)
            jobs = self._dispatcher.submit(batch, [work for _, work in members])
            self._journal.append("submitted", batch=batch, jobs=jobs)

    def _collect(self, trials: Sequence[TrialProgress]) -> bool:
        """Close every trial that has ended; whether there was one."""
        submitted = [t for t in trials if t.row is None and t.job_id]
        statuses = self._dispatcher.poll([t.job_id for t in submitted if t.job_id])
        changed = False
        for progress in (t for t in trials if t.row is None):
            status = statuses.get(progress.job_id or "")
            changed |= self._collect_one(progress, status)
        return changed

    def _collect_one(self, progress: TrialProgress, status: JobStatus | None) -> bool:
        directory = self._run.trial(progress.planned.trial)
        if not directory.exists():
            return False
        gone = status is None or status.ended
        output = read_result(directory)
        if output is not None and gone:
            return self._finish(progress, finished_row(self._run.name, progress, output, directory))
        if status is None or not status.ended:
            return False
        attempts = read_attempts(directory)
        verdict, error = status.verdict or TrialState.INFRA_FAILED, status.detail
        if attempts and attempts[-1].state and attempts[-1].job_id == progress.job_id:
            verdict, error = TrialState(attempts[-1].state), attempts[-1].error or error
        elif not self._settled(progress):
            return False  # the job's own word may still be on its way over the file system
        if verdict is TrialState.COMPLETED:
            verdict, error = TrialState.INFRA_FAILED, "its result files are missing or damaged"
        if verdict in _RETRIED and progress.submissions < self._settings.max_attempts:
            log.warning("%s: %s (%s); it is started again", progress.planned.trial, verdict, error)
            self._journal.append("lost", trials=[progress.planned.trial], reason=str(verdict))
            return False
        error = error or f"its job {progress.job_id} ended as {status.state} and left no result"
        error = f"{error}; logs: {directory} and {self._run.slurm}"
        return self._finish(
            progress, failed_row(self._run.name, progress, verdict, error, directory)
        )

    def _collect_cancelled(self, progress: TrialProgress, reason: str) -> None:
        directory = self._run.trial(progress.planned.trial)
        output = read_result(directory) if directory.exists() else None
        if output is not None:
            self._finish(progress, finished_row(self._run.name, progress, output, directory))
        else:
            row = failed_row(self._run.name, progress, TrialState.CANCELLED, reason, directory)
            self._finish(progress, row)

    def _settled(self, progress: TrialProgress) -> bool:
        since = self._ended.setdefault(progress.job_id or "", time.monotonic())
        return time.monotonic() - since >= self._settings.settle_seconds

    def _finish(self, progress: TrialProgress, row: TrialRow) -> bool:
        self._journal.append("finished", trial=progress.planned.trial, row=row_to_json(row))
        log.info("%s %s: %s", progress.planned.trial, row.state, row.score)
        return True

    def cancel(self, reason: str) -> None:
        """Cancel what lives and give every unfinished trial its row; one that is done already keeps its result."""
        state = self._journal.state
        self.release()
        self._adopt(state.unfinished())
        live = [t.job_id for t in state.unfinished() if t.job_id]
        self._dispatcher.cancel(live)
        for progress in state.unfinished():
            self._collect_cancelled(progress, reason)
        self.write_table()

    def release(self) -> None:
        """Nothing will be evaluated any more: what attends lets go."""
        if self._attendant is not None:
            self._attendant.release()

    def _work(self, progress: TrialProgress) -> Work:
        trials = [trial.planned for trial in self._journal.state.trials.values()]
        iteration = progress.planned.iteration
        return self._works.work(
            progress.planned, [trial for trial in trials if trial.iteration == iteration]
        )

    def write_table(self) -> None:
        """Write the table of trials as the journal has them."""
        rows = [row_from_json(t.row) for t in self._journal.state.trials.values() if t.row]
        names = list(dict.fromkeys(name for row in rows for name in row.metrics))
        atomic_write_parquet(self._run.trials_file, trials_frame(rows, names))
