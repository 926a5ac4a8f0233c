"""The loop: ask → dispatch → collect → tell, until the search is over.

Everything it decides goes through the journal first, so that it can be killed at any line and started again: finished
trials are read back, jobs that still run are adopted, and only what is missing is submitted.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from agenttts.controller.collect import failed_row, finished_row, row_from_json, row_to_json
from agenttts.controller.journal import (
    NEVER_SUBMITTED,
    Journal,
    PlannedTrial,
    TrialProgress,
)
from agenttts.controller.reports import write_report
from agenttts.controller.run import RunDirectory
from agenttts.controller.works import WorkFactory
from agenttts.dispatch.base import Dispatcher, JobStatus, QueueUnavailable, Work
from agenttts.dispatch.job import read_attempts
from agenttts.errors import AgentTTSError, RunFailed
from agenttts.search.base import Proposal, Searcher, TrialResult
from agenttts.space import Allocation
from agenttts.tables.atomic import atomic_write_parquet
from agenttts.tables.schema import (
    AFTER_SEARCH,
    FINALIST_SOURCE,
    RECOMMENDED_SOURCE,
    TEST_SOURCE,
    TrialState,
    trials_frame,
)
from agenttts.trial.result import read_result

log = logging.getLogger(__name__)

# Ends that are not the trial's own fault: it is started again, `max_attempts` times at most.
_RETRIED = {TrialState.INFRA_FAILED, TrialState.PREEMPTED}
_OWN_FAULT = {TrialState.FAILED, TrialState.OOM, TrialState.TIMEOUT}


@dataclass(frozen=True)
class LoopSettings:
    """What the loop needs of spec and profile. ``settle_seconds``: how long a result may take to appear on a shared
    file system after the queue says that its job has ended. ``finalists`` and ``tested``: how many allocations are scored again
    after the search, on more examples and on held-out ones. ``queue_patience_seconds``: how long the queue may be
    unavailable, as while slurmctld is restarted, before the controller gives up."""

    iterations: int
    batch_size: int
    max_attempts: int
    poll_seconds: float
    settle_seconds: float
    finalists: int = 0
    tested: int = 0
    queue_patience_seconds: float = 6 * 3600.0


class Attendant(Protocol):
    """Something that the search needs while it runs and that costs while it waits: a served model."""

    def waiting(self, remaining: int, total: int, more: bool) -> None:
        """Trials run: ``remaining`` of ``total``; ``more``: the search goes on after them."""

    def release(self) -> None:
        """Nothing is needed any more."""


class Controller:
    """Runs one search to its end. `works` turns planned trials into jobs' commands (see `agenttts.controller.works`)."""

    def __init__(
        self,
        run: RunDirectory,
        searcher: Searcher,
        dispatcher: Dispatcher,
        works: WorkFactory,
        settings: LoopSettings,
        attendant: Attendant | None = None,
    ) -> None:
        self._run = run
        self._searcher = searcher
        self._dispatcher = dispatcher
        self._works = works
        self._settings = settings
        self._attendant = attendant
        self._ended: dict[str, float] = {}
        self._journal = Journal(run.journal_file)

    def run(self) -> None:
        """Go on with the run until it is over. Raises `RunFailed` when an iteration failed as a whole.

        It does not where other iterations have shown that trials can complete and these failed by their own fault.
        Whatever else ends the run (a partition that refuses its jobs, say) is written down and raised again; what lives
        of it is cancelled, as nobody would collect it, and `resume` runs that after all.
        """
        self._journal.append("started")
        try:
            self._run_search()
        except QueueUnavailable:
            raise  # nothing is over: jobs may run on, and the next controller finds them
        except AgentTTSError as error:
            self._end(str(error), self._stop(f"the run ended: {error}"))
            raise
        else:
            self._end("done")
        finally:
            self._journal.close()

    def _run_search(self) -> None:
        state = self._journal.state
        first = 1 if self._searcher.initial_batch else 0
        self._restore()
        last = first + self._settings.iterations - 1
        for iteration in range(state.told, last + 1):
            size = self._settings.batch_size if iteration >= first else self._searcher.initial_batch
            trials = self._trials_of(iteration) or self._propose(iteration, size)
            if not trials:
                log.info("the space is exhausted: no allocation is left to propose")
                break
            self._evaluate(trials, more=iteration < last)
            self._tell(iteration, trials)
            self._stop_if_all_failed(iteration, trials)
        self._try_recommended(last + 1)
        self._release()
        best = self._compare_finalists()
        self._after_search(TEST_SOURCE, best[: self._settings.tested])

    def cancel(self, reason: str) -> None:
        """End the run: cancel what lives and close the books. For a caller that knows no controller is running."""
        self._cancel_jobs(reason)
        self._end(reason)
        self._journal.close()

    def _end(self, outcome: str, left: str = "") -> None:
        """Write down that and how the run ended; ``left`` says what may outlive it."""
        # First the report: who waits for the run finds it there.
        write_report(self._run, self._journal.state, outcome + left)
        self._journal.append("ended", outcome=outcome + left)

    def _stop(self, reason: str) -> str:
        """Cancel the jobs of a run that ends by an error; if that fails too, what to tell the user about them."""
        try:
            self._cancel_jobs(reason)
        except AgentTTSError as error:
            log.error("the run's jobs could not be cancelled: %s", error)
            return f"; its jobs may still run ({error}): 'agenttts-hpc cancel {self._run.name}' stops them"
        return ""

    def _cancel_jobs(self, reason: str) -> None:
        """Cancel what lives and give every unfinished trial its row; one that is done already keeps its result."""
        state = self._journal.state
        self._release()
        self._adopt(state.unfinished())
        live = [t.job_id for t in state.unfinished() if t.job_id]
        self._dispatcher.cancel(live)
        for progress in state.unfinished():
            self._collect_cancelled(progress, reason)
        self._write_table()

    def _restore(self) -> None:
        """Bring a new searcher to where the journal says the old one was, told as the old one was told."""
        by_iteration = groupby(self._searched(), key=lambda progress: progress.planned.iteration)
        for iteration, group in by_iteration:
            trials = list(group)
            self._searcher.pending([p.planned.allocation for p in trials])
            if iteration < self._journal.state.told:
                self._searcher.tell([_result(p) for p in trials])
        # The old controller may have died after a trial's line in the journal and before its row in the table.
        self._write_table()
        self._searcher.archive.write_guidelines(self._journal.state.guidelines)

    def _try_recommended(self, iteration: int) -> None:
        """Have the recommended allocation tried if it was not: what a run recommends at its end was seen to work."""
        if not self._trials_of(iteration):
            recommended = self._searcher.best()
            if recommended is None or recommended == self._searcher.best(tried=True):
                return
            proposal = Proposal(recommended, RECOMMENDED_SOURCE, "expected to score best")
            self._plan(iteration, [proposal])
        trials = self._trials_of(iteration)
        self._evaluate(trials, more=False)
        if iteration >= self._journal.state.told:
            self._tell(iteration, trials, final=True)

    def _trials_of(self, iteration: int) -> list[TrialProgress]:
        return [p for p in self._searched() if p.planned.iteration == iteration]

    def _searched(self) -> list[TrialProgress]:
        """The trials of the search itself."""
        trials = self._journal.state.trials.values()
        return [p for p in trials if p.planned.source not in AFTER_SEARCH]

    def _compare_finalists(self) -> list[Allocation]:
        """The best allocations, best first: as the search has them, or as they score on more examples.

        The searcher is not told of these trials.
        """
        ranked = self._ranked()
        trials = self._after_search(FINALIST_SOURCE, ranked[: self._settings.finalists])
        scores = {p.planned.allocation: _result(p) for p in trials}

        def place(allocation: Allocation) -> tuple[float, float]:
            result = scores.get(allocation)
            if result is None or result.score is None:
                # Behind those with a score, in the search's order (sorting is stable).
                return (math.inf, 0.0)
            return (-result.score, result.cost)

        return sorted(ranked, key=place)

    def _after_search(self, source: str, allocations: Sequence[Allocation]) -> list[TrialProgress]:
        """Have these allocations run once more as trials of ``source``, unless they were planned before."""
        if not self._trials_from(source) and allocations:
            every = self._journal.state.trials
            number = len(every)
            planned = [
                PlannedTrial(
                    trial=f"t{number + rank:04}",
                    iteration=1 + max(p.planned.iteration for p in every.values()),
                    allocation=allocation,
                    source=source,
                    reason=f"number {rank + 1} so far",
                    cost=self._searcher.space.cost(allocation),
                )
                for rank, allocation in enumerate(allocations)
            ]
            self._journal.propose(planned, self._searcher.guidelines())
            log.info("%s: %d trials", source, len(planned))
        trials = self._trials_from(source)
        if trials:
            self._evaluate(trials, more=False)
        return trials

    def _trials_from(self, source: str) -> list[TrialProgress]:
        trials = self._journal.state.trials.values()
        return [p for p in trials if p.planned.source == source]

    def _ranked(self) -> list[Allocation]:
        """What the searcher recommends, then what scored best besides."""
        recommended = self._searcher.best(tried=True)
        if recommended is None:
            return []
        ranked = sorted(
            self._searcher.archive.scored, key=lambda t: (-t.score, t.cost, t.allocation)
        )
        return [recommended, *(t.allocation for t in ranked if t.allocation != recommended)]

    def _release(self) -> None:
        if self._attendant is not None:
            self._attendant.release()

    def _propose(self, iteration: int, size: int) -> list[TrialProgress]:
        self._plan(iteration, self._searcher.propose(size))
        return self._trials_of(iteration)

    def _plan(self, iteration: int, proposals: Sequence[Proposal]) -> None:
        """Write down the trials of an iteration of the search."""
        number = len(self._journal.state.trials)
        planned = [
            PlannedTrial(
                trial=f"t{number + position:04}",
                iteration=iteration,
                allocation=proposal.allocation,
                source=proposal.source,
                reason=proposal.reason,
                cost=self._searcher.space.cost(proposal.allocation),
            )
            for position, proposal in enumerate(proposals)
        ]
        if planned:
            self._journal.propose(planned, self._searcher.guidelines())
            log.info("iteration %d: %d trials", iteration, len(planned))

    def _evaluate(self, trials: Sequence[TrialProgress], *, more: bool) -> None:
        """Have every trial of an iteration run to its end; ``more``: another iteration follows."""
        trouble: float | None = None
        while True:
            try:
                self._adopt([t for t in trials if t.row is None])
                if self._collect(trials):
                    self._write_table()
                waiting = [t for t in trials if t.row is None]
                if not waiting:
                    return
                if self._attendant is not None:
                    self._attendant.waiting(len(waiting), len(trials), more)
                self._submit([t for t in waiting if t.batch is None], waiting)
                trouble = None
            except QueueUnavailable as error:
                # Jobs run on meanwhile, and what was submitted without an answer is found by its batch.
                trouble = trouble or time.monotonic()
                if time.monotonic() - trouble > self._settings.queue_patience_seconds:
                    raise
                log.warning("%s; asking again", error)
            time.sleep(self._settings.poll_seconds)

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

    def _finish(self, progress: TrialProgress, row: Any) -> bool:
        self._journal.append("finished", trial=progress.planned.trial, row=row_to_json(row))
        log.info("%s %s: %s", progress.planned.trial, row.state, row.score)
        return True

    def _tell(
        self, iteration: int, trials: Sequence[TrialProgress], *, final: bool = False
    ) -> None:
        """Tell the searcher; once ``final``, it recommends what was tried."""
        self._searcher.tell([_result(progress) for progress in trials])
        recommended = self._searcher.best(tried=final)
        self._journal.append(
            "told",
            iteration=iteration,
            guidelines=self._searcher.guidelines(),
            recommended=recommended.to_records() if recommended else None,
        )

    def _stop_if_all_failed(self, iteration: int, trials: Sequence[TrialProgress]) -> None:
        rows = [row_from_json(t.row) for t in trials if t.row]
        if any(row.state is TrialState.COMPLETED for row in rows):
            return
        everything = [row_from_json(t.row) for t in self._journal.state.trials.values() if t.row]
        if any(row.state is TrialState.COMPLETED for row in everything) and all(
            row.state in _OWN_FAULT for row in rows
        ):
            return  # these allocations do not work, others do: the search goes on with what it has learnt
        raise RunFailed(f"every trial of iteration {iteration} failed; the first: {rows[0].error}")

    def _work(self, progress: TrialProgress) -> Work:
        return self._works.work(progress.planned)

    def _write_table(self) -> None:
        rows = [row_from_json(t.row) for t in self._journal.state.trials.values() if t.row]
        names = list(dict.fromkeys(name for row in rows for name in row.metrics))
        atomic_write_parquet(self._run.trials_file, trials_frame(rows, names))


def _result(progress: TrialProgress) -> TrialResult:
    assert progress.row is not None
    row = row_from_json(progress.row)
    return TrialResult(
        allocation=progress.planned.allocation,
        score=row.score,
        metrics={name: value for name, value in row.metrics.items() if value is not None},
        cost=row.budget,
        source=row.source,
        stderr=row.score_stderr,
    )
