"""Evaluate planned trials: submit their jobs and turn the results into rows.

The evaluation goes on after failures of jobs, of the queue and of the controller. Each event is in
the journal before anything follows from it. A job that was submitted is adopted, never submitted
twice.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from agenttts.dispatch.attempts import (
    HANDED_OVER,
    MAX_PREEMPTIONS,
    Attempt,
    count_state,
    nodes_to_exclude,
    read_attempts,
    retry_pause,
)
from agenttts.dispatch.base import (
    JobRequest,
    JobStatus,
    QueueUnavailable,
    Scheduler,
    SubmitLimitReached,
)
from agenttts.dispatch.blame import Verdict
from agenttts.errors import AgentTTSError, MissingRequirement
from agenttts.files.trouble import PATIENCE_S, FilePatience, passing_trouble
from agenttts.loop.collect import failed_row, finished_row
from agenttts.loop.job_builder import JobBuilder
from agenttts.loop.list_planner import ListPlan, ListPlanner, Moment, PlannedList
from agenttts.loop.strays import end_strays
from agenttts.loop.trials_table import TrialsTable
from agenttts.loop.verdicts import ends_its_job, last_word, look_anew, verdict_of
from agenttts.loop.workers import Workers
from agenttts.run.directory import Run, RunGone
from agenttts.run.examples import ExamplesGuard
from agenttts.run.journal import (
    IN_SHARED_JOB,
    IN_SMALLER_JOB,
    NEVER_SUBMITTED,
    NOT_TAKEN,
    Journal,
    PlannedTrial,
    TrialProgress,
    worker_name,
)
from agenttts.run.rows import row_to_json
from agenttts.tables.schema import TrialRow, TrialState
from agenttts.trial.part import read_part
from agenttts.trial.result import read_fault, read_result

log = logging.getLogger(__name__)

# How long the jobs of a submission without an answer are looked for. Jobs that appear later end by
# themselves.
_APPEARS_WITHIN = timedelta(minutes=30)
# How long workers that are not needed any more may take to close their engines.
_RETIRES_WITHIN_S = 60.0
# Seconds between the last result of an iteration and the next trials, before any was measured.
_PAUSE_S = 5.0


@dataclass(frozen=True)
class EvaluationSettings:
    """What evaluation needs of the profile.

    Args:
        max_attempts: The most starts of a trial. Starts that ended by preemption do not count.
        poll_seconds: Time between two looks at the queue.
        settle_seconds: How long a result, or a job's own record, may take to appear on a shared
            file system after the queue says that its job has ended.
        queue_patience_seconds: How long the queue (e.g. while slurmctld is restarted) or the file
            system may be unavailable before the controller gives up.
        max_preemptions: The most preemptions of a trial.
        max_timeouts: How many times a trial that reached its time limit goes on from its samples.
        retry_pauses: Seconds before a trial's second start, its third, ...
        max_running: The most jobs that run at a time.
    """

    max_attempts: int
    poll_seconds: float
    settle_seconds: float
    queue_patience_seconds: float = PATIENCE_S
    max_preemptions: int = MAX_PREEMPTIONS
    max_timeouts: int = 1
    retry_pauses: tuple[float, ...] = ()
    max_running: int = 8


class ServerLifecycle(Protocol):
    """A service that the search needs while it runs, e.g. a served model.

    It costs resources while it waits.
    """

    def waiting(self, remaining: int, total: int, more: bool) -> None:
        """Report that trials run.

        Args:
            remaining: Number of trials that have not ended.
            total: Number of trials of the iteration.
            more: Whether the search goes on after them.
        """

    def release(self) -> None:
        """Report that the service is not needed any more."""


class Evaluation:
    """The trials of one run.

    Args:
        run: The run.
        journal: The run's journal.
        scheduler: Where jobs are submitted.
        builder: Makes the jobs' commands of planned trials (`agenttts.loop.job_builder`).
        workers: The run's workers.
        planner: Plans which trials the workers get, and which jobs are started.
        settings: The profile's limits.
        server: The service that the search needs, if any.
        check: Called at each look at the queue; raises if the controller has to stop.
    """

    def __init__(
        self,
        run: Run,
        journal: Journal,
        scheduler: Scheduler,
        builder: JobBuilder,
        workers: Workers,
        planner: ListPlanner,
        settings: EvaluationSettings,
        server: ServerLifecycle | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self._run = run.directory
        self._journal = journal
        self._scheduler = scheduler
        self._builder = builder
        self._workers = workers
        self._planner = planner
        self._settings = settings
        self._server = server
        self._check = check
        self._ended: dict[str, float] = {}
        self._table = TrialsTable(self._run.trials_file)
        # Whether the journal has rows that the table lacks.
        self._table_is_behind = False
        # Seconds between iterations, and when the last one ended (monotonic clock).
        self._pauses: list[float] = []
        self._paused_at: float | None = None
        self._excluded: tuple[str, ...] = ()
        # Lists that were planned together, and the jobs of their iterations (`_beside`).
        self._together: (
            tuple[Sequence[Sequence[TrialProgress]], dict[int, list[list[PlannedTrial]]]] | None
        ) = None
        # The attempts of trials that have ended.
        self._last_attempts: dict[str, list[Attempt]] = {}
        # Nodes that are not avoided any more: jobs that avoided all of them were refused.
        self._needed: set[str] = set()
        # Whether a trial has failed since the last look, or perhaps before this controller.
        self._look_at_nodes = True
        self._token = run.record.token
        self._gone_since: float | None = None
        self._examples = ExamplesGuard(run.record.examples)

    def evaluate(
        self,
        trials: Sequence[TrialProgress],
        *,
        more: bool,
        further: bool = True,
        any_end: bool = False,
    ) -> None:
        """Run every trial of an iteration to its end.

        Args:
            trials: The iteration's trials.
            more: Whether another iteration follows.
            further: Whether other trials may follow, of another iteration or after the search.
            any_end: Return as soon as a trial has ended that had not ended before. The others go
                on, and are collected by another call.

        Raises:
            RunFailed: The examples that the trials are scored on are damaged.
            RunGone: The run's directory is gone.
        """
        self._check_examples(trials)
        if self._paused_at is not None:
            self._pauses.append(time.monotonic() - self._paused_at)
        unended = sum(t.row is None for t in trials)
        trouble: float | None = None
        files = self._file_patience()
        while True:
            try:
                if not self.check_run(self._settings.settle_seconds):
                    time.sleep(self._settings.poll_seconds)
                    continue
                if self._check is not None:
                    self._check()
                self._workers.write_lists()
                self._workers.give_signs()
                self._adopt([t for t in trials if t.row is None])
                self._collect(trials)
                if self._table_is_behind:
                    self.write_table()
                self._keep_off_failed_nodes()
                waiting = [t for t in trials if t.row is None]
                if not waiting or (any_end and len(waiting) < unended):
                    if further and not waiting:
                        self._retire_idle(further)
                    self._paused_at = time.monotonic()
                    return
                if self._server is not None:
                    self._server.waiting(len(waiting), len(trials), more)
                now = datetime.now(UTC)
                if self._may_appear_late(now):
                    self.end_strays()
                due = [t for t in waiting if t.batch is None and self._may_start(t, now)]
                if due:
                    self._dispatch(due, waiting, further)
                else:
                    self._retire_idle(further)
                trouble = None
                files.passed()
            except SubmitLimitReached as error:
                log.info("%s", error)
                if any(t.job_id and t.row is None for t in trials):
                    trouble = None  # the queue works; it is full, among others of these trials
                else:
                    trouble = self._still(trouble, error)
            except QueueUnavailable as error:
                self._workers.give_signs()
                # Jobs run on meanwhile. Jobs that were submitted without an answer are found by
                # their batch.
                log.warning("%s; asking again", error)
                trouble = self._still(trouble, error)
            except (AgentTTSError, OSError) as error:
                # The journal does not have the step that failed. It is begun again, as by a new
                # controller.
                files.failed(error)
            time.sleep(self._settings.poll_seconds)

    def check_run(self, patience: float) -> bool:
        """Return whether the run's directory is there.

        Args:
            patience: Seconds for which it may be absent.

        Raises:
            RunGone: It has been absent for longer.
        """
        problem = self._run.problem(self._token)
        if problem is None:
            self._gone_since = None
            return True
        self._gone_since = self._gone_since or time.monotonic()
        if time.monotonic() - self._gone_since >= patience:
            raise RunGone(self._run.path, problem)
        log.warning("the run directory %s %s; looking again", self._run.path, problem)
        return False

    def _file_patience(self) -> FilePatience:
        return FilePatience(
            f"run {self._run.path}",
            "fix the cause; the run's jobs keep running, and 'agenttts-hpc resume "
            f"{self._run.path}' continues with them",
            self._settings.queue_patience_seconds,
        )

    def _still(self, since: float | None, error: QueueUnavailable) -> float:
        """Return when the trouble with the queue began.

        Raises:
            QueueUnavailable: ``error``, if the trouble has lasted too long.
        """
        since = since or time.monotonic()
        if time.monotonic() - since > self._settings.queue_patience_seconds:
            raise error
        return since

    def _adopt(self, trials: Iterable[TrialProgress], *, cancel: bool = False) -> None:
        """Find the jobs of submissions that were begun and not recorded as done.

        Args:
            trials: The trials whose jobs are looked for.
            cancel: Cancel the jobs that are found.
        """
        for batch in {t.batch for t in trials if t.batch and not t.job_id}:
            lists = [self._progress(names) for names in self._journal.state.batches[batch]]
            requests = [
                self._request(
                    members,
                    lists,
                    worker_name(batch, position),
                    upto={t.planned.trial: t.upto for t in members if t.upto is not None},
                )
                for position, members in enumerate(lists)
            ]
            found = self._scheduler.find(batch, requests)
            if cancel:
                self._scheduler.cancel(found.values())
            if found:
                log.info("adopted %d jobs of batch %s", len(found), batch)
                jobs = _by_trial(found, lists)
                self._journal.append("submitted", batch=batch, jobs=jobs)
            missing = [members for members in lists if _name(members) not in found]
            lost = [t.planned.trial for members in missing for t in members if t.row is None]
            if lost:
                self._scheduler.withdraw(batch, requests, [_name(members) for members in missing])
                self._journal.append("lost", trials=lost, reason=NEVER_SUBMITTED)

    def _progress(self, trials: Iterable[str]) -> list[TrialProgress]:
        return [self._journal.state.trials[trial] for trial in trials]

    def _may_appear_late(self, now: datetime) -> bool:
        """Return whether jobs may still appear of a submission that was recorded as lost."""
        since = self._journal.state.unanswered_at
        return since is not None and now - datetime.fromisoformat(since) < _APPEARS_WITHIN

    def end_strays(self) -> None:
        """End the run's jobs that no trial knows of.

        Nothing uses their results, or another job computes the same.
        """
        known = [*_jobs(self._journal.state.unfinished()), *self._workers.by_job()]
        end_strays(self._journal, self._scheduler, self._builder.tokens, known)

    def _may_start(self, progress: TrialProgress, now: datetime) -> bool:
        """Return whether a trial's pause after a failure is over.

        The pause keeps a short fault of the cluster from using up the trial's attempts.
        """
        if progress.lost_at is None:
            return True
        attempts = self._counted_attempts(progress)
        pause = retry_pause(attempts, progress.submissions, self._settings.retry_pauses)
        passed = now - datetime.fromisoformat(progress.lost_at)
        # A moment in the future is of a host whose clock was ahead.
        return passed < timedelta() or passed >= timedelta(seconds=pause)

    def _nodes_to_exclude(self) -> tuple[str, ...]:
        """Return the nodes that failed trials of this run; log them when they change."""
        trials = {
            name: self._attempts_of(progress)
            for name, progress in self._journal.state.trials.items()
            if progress.submissions
        }
        nodes = nodes_to_exclude(trials, datetime.now(UTC), self._journal.state.losses)
        if nodes != self._excluded:
            log.warning("jobs avoid the nodes: %s", ", ".join(nodes) or "none any more")
        self._excluded = nodes
        return nodes

    def _attempts_of(self, progress: TrialProgress) -> list[Attempt]:
        """Return the attempts of a trial; those of a trial that has ended are read once."""
        name = progress.planned.trial
        known = self._last_attempts.get(name)
        if known is not None and progress.row is not None:
            return known
        attempts = read_attempts(self._run.trial(name))
        if progress.row is not None and all(attempt.finished for attempt in attempts):
            self._last_attempts[name] = attempts
        return attempts

    def _keep_off_failed_nodes(self) -> None:
        """Keep waiting jobs off the nodes that failed.

        If this fails, a trial may at most lose an attempt on such a node. The failure is recorded,
        and the change is tried again when the next trial has ended.
        """
        state = self._journal.state
        if not self._look_at_nodes:
            return
        self._look_at_nodes = False
        nodes = self._nodes_to_exclude()
        if self._scheduler.has_nodes and not self._needed:
            self._workers.retire_on(nodes)
        unchanged = list(nodes) == state.avoided and state.avoid_failed is None
        # If no other node was left, jobs may run on these after all.
        if unchanged or (self._needed and self._needed <= set(nodes)):
            return
        failed = None
        jobs: list[str] | None = []
        try:
            jobs = self._scheduler.avoid(_jobs(state.unfinished()), nodes)
        except MissingRequirement as error:
            log.warning("pending jobs may still run on %s: %s", ", ".join(nodes), error)
            failed = str(error)
        if jobs is not None:
            self._journal.append("avoiding", nodes=list(nodes), jobs=jobs, failed=failed)

    def _dispatch(
        self, due: Sequence[TrialProgress], waiting: Iterable[TrialProgress], further: bool
    ) -> None:
        """Give trials to workers; submit jobs for others, an array per resource class."""
        live = self._live(waiting)
        free = self._scheduler.capacity(live)
        if self._builder.stays or self._planner.one_at_a_time:
            free = min(free, self._settings.max_running - live)
        if pending := self._workers.without_trials():
            self._scheduler.cancel(pending)  # they hold places and have nothing to do
        plan = self._planner.plan(due, self._moment(free, further))
        for part in plan.lists:
            if part.worker is not None:
                self._give(part, plan)
        self._workers.retire(plan.retire)
        new = sorted((p for p in plan.lists if p.worker is None), key=lambda part: part.gpus)
        if not new:
            return
        nodes = self._nodes_to_exclude()
        for gpus, group in groupby(new, key=lambda part: part.gpus):
            self._submit(gpus, list(group), plan, nodes)

    def _give(self, part: PlannedList, plan: ListPlan) -> None:
        """Give a list to a worker."""
        assert part.worker is not None
        planned, worker = [t.planned for t in part.trials], part.worker.progress
        self._builder.write_specs(planned, self._beside(part.trials, plan.together))
        self._workers.give(worker, part.trials, part.seconds, part.upto)
        if worker.job_id is not None:
            name, comment = self._builder.name(planned), self._builder.comment(planned)
            self._scheduler.relabel(worker.job_id, worker.batch, worker.position, name, comment)

    def _submit(
        self, gpus: int, lists: Sequence[PlannedList], plan: ListPlan, nodes: tuple[str, ...]
    ) -> None:
        """Submit the jobs of lists of one resource class."""
        batch = f"{self._builder.tokens[0]}-{len(self._journal.state.batches)}"
        members = [part.trials for part in lists]
        workers = [worker_name(batch, position) for position in range(len(lists))]
        requests = [
            replace(
                self._request(part.trials, plan.together, worker, gpus, part.upto), exclude=nodes
            )
            for part, worker in zip(lists, workers, strict=True)
        ]
        names = [[t.planned.trial for t in trials] for trials in members]
        self._journal.append(
            "submitting",
            batch=batch,
            trials=[t for trials in names for t in trials],
            lists=names,
            stays=self._builder.stays,
            gpus=gpus,
            upto={trial: stages for part in lists for trial, stages in part.upto.items()},
        )
        found = self._start_jobs(batch, requests)
        self._journal.append("submitted", batch=batch, jobs=_by_trial(found, members))
        for part, worker in zip(lists, workers, strict=True):
            self._workers.submitted(worker, part.seconds)

    def _moment(self, free: int, further: bool) -> Moment:
        return Moment(
            self._workers.live(),
            free,
            self._earlier_jobs,
            self._journal.state.trials.values(),
            retiring=self._workers.any_retiring,
            more=further,
            pause_seconds=statistics.median([_PAUSE_S, *self._pauses]),
        )

    def _retire_idle(self, further: bool) -> None:
        """End the workers that cost more than starting their engines again."""
        self._workers.retire(self._planner.not_needed(self._moment(0, further)))

    def _live(self, waiting: Iterable[TrialProgress]) -> int:
        """Return the number of live jobs, with or without trials."""
        jobs = {t.job_id or f"{t.batch}.{t.position}" for t in waiting if t.batch is not None}
        return len(jobs.union(self._workers.running()))

    def _earlier_jobs(self, trial: TrialProgress) -> set[str]:
        """Return the jobs of a trial's attempts, in which it failed."""
        if not trial.submissions and not trial.preemptions and not trial.earlier_attempts:
            return set()  # it has not begun, or not failed
        attempts = read_attempts(self._run.trial(trial.planned.trial))
        return {a.job_id for a in attempts if a.state != HANDED_OVER}

    def retire_workers(self) -> None:
        """End the workers, and cancel those that do not end.

        If the queue gives no answer, they end by themselves: all trials have ended.
        """
        self._workers.retire_all()
        deadline = time.monotonic() + _RETIRES_WITHIN_S
        try:
            while self._note_workers() and time.monotonic() < deadline:
                time.sleep(self._settings.poll_seconds)
            if workers := self._workers.running():
                self._scheduler.cancel(workers)
        except MissingRequirement as error:
            log.warning("whether the run's workers have ended is not known: %s", error)

    def signs_meanwhile(self) -> AbstractContextManager[None]:
        """Let workers know that the controller works while it does something else."""
        return self._workers.signs_meanwhile()

    def _note_workers(self) -> bool:
        """Record which workers have ended; return whether some have not."""
        self._workers.observe(self._scheduler.poll(self._workers.by_job()))
        return bool(self._workers.running())

    def _start_jobs(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        """Submit jobs; if the cluster has no other nodes, submit without exclusions."""
        try:
            return self._scheduler.submit(batch, requests)
        except QueueUnavailable:
            raise  # the jobs may have been submitted
        except MissingRequirement as error:
            if passing_trouble(error) or not any(request.exclude for request in requests):
                raise
            self._needed = set(self._excluded)
            log.warning(
                "jobs that exclude %s were refused (%s); they are submitted without the exclusion",
                ", ".join(self._excluded),
                error,
            )
            return self._scheduler.submit(
                batch, [replace(request, exclude=()) for request in requests]
            )

    def _collect(self, trials: Sequence[TrialProgress]) -> None:
        """Finish every trial that has ended; take back those whose part is drawn."""
        jobs = _jobs([t for t in trials if t.row is None])
        statuses = self._scheduler.poll(list(dict.fromkeys([*jobs, *self._workers.by_job()])))
        unfinished = [t for t in trials if t.row is None]
        jobs_of = Counter(t.job_id for t in unfinished)
        for progress in unfinished:
            job = progress.job_id
            self._collect_one(progress, statuses.get(job or ""), jobs_of[job] == 1)
            if progress.row is not None or progress.job_id != job:
                jobs_of[job] -= 1
        self._workers.observe(statuses)

    def _collect_one(
        self, progress: TrialProgress, status: JobStatus | None, is_last: bool
    ) -> None:
        """Finish a trial if it has ended, or take it back if its part is drawn.

        Args:
            progress: The trial.
            status: What the queue says of its job.
            is_last: Whether its job has no other trial that has not ended.
        """
        directory = self._run.trial(progress.planned.trial)
        # A job is COMPLETING while an epilog hangs. All that its trial wrote is there by then.
        lives = status is not None and not status.ended
        completing = status is not None and status.completing
        if lives and not completing:
            self._ended.pop(progress.job_id or "", None)
        if status is None and not directory.exists():
            return
        # In a job of several trials, a trial may have ended while the job goes on.
        stays = progress.job_id in self._workers.by_job()
        goes_on = progress.together > 1 or stays
        # The end of a job that does not stay is that of its last trial: until it has closed its
        # engines, its place is taken.
        if lives and not completing and (not goes_on or (is_last and not stays)):
            return
        look_anew(directory)
        # A record is written after the result: read first, it never seems to lack a result.
        attempts = self._counted_attempts(progress)
        output = read_result(directory, patient=True)
        last = attempts[-1] if attempts and attempts[-1].job_id == progress.job_id else None
        if (
            progress.assigned is not None
            and len(attempts) <= progress.assigned - progress.earlier_attempts
        ):
            last = None  # an attempt of the same worker, before it was given the trial again
        # The job is about to record what the trial used.
        closing = lives and not completing and goes_on
        if output is not None:
            if not (closing and last is not None and last.finished is None):
                row = finished_row(self._run.name, progress, output, directory)
                self._finish(progress, row)
            return
        if status is None:
            return
        if _is_drawn(progress, last, directory):
            # Its attempts are counted when the same worker is given the rest.
            if not closing or (last is not None and last.finished is not None):
                log.info("%s: stages drawn: %s", progress.planned.trial, progress.upto)
                self._journal.append("handed_over", trials={progress.planned.trial: progress.upto})
            return
        if lives and not ends_its_job(last):
            return
        word = last_word(last, status)
        if last is None and not lives and progress.assigned is not None and self._settled(progress):
            self._journal.append("lost", trials=[progress.planned.trial], reason=NOT_TAKEN)
            return  # its worker ended before it took the list
        told = status.never_started or (
            word is not None and word.state not in (None, TrialState.COMPLETED)
        )
        if not told and not self._settled(progress):
            return  # the job's record or its files may not be visible yet
        verdict = verdict_of(last, status, directory)
        if not directory.exists():
            gone = f"its directory {directory} was removed"
            verdict = Verdict(TrialState.INFRA_FAILED, True, False, gone)
        if verdict.state in (TrialState.FAILED, TrialState.INFRA_FAILED):
            self._check_examples([progress])
        reason = self._why_alone(progress, verdict, directory, last)
        if reason is not None:
            attempted = len(read_attempts(directory, patient=True))
            self._try_alone(progress, verdict, attempted, reason)
            return
        goes_on = word is not None and self._may_go_on(word, attempts)
        if (verdict.retry or goes_on) and self._may_retry(verdict.state, progress, attempts):
            log.warning(
                "%s: %s (%s); it is started again",
                progress.planned.trial, verdict.state, verdict.explanation,
            )  # fmt: skip
            self._look_at_nodes = True
            self._journal.append(
                "lost",
                trials=[progress.planned.trial],
                reason=str(verdict.state),
                why=verdict.explanation,
                **_where(verdict, status, word),
            )
            return
        error = self._final_words(verdict, progress, attempts)
        row = failed_row(self._run.name, progress, verdict.state, error, directory)
        self._finish(progress, row, **_where(verdict, status, word))

    def _why_alone(
        self, progress: TrialProgress, verdict: Verdict, directory: Path, last: Attempt | None
    ) -> str | None:
        """Return why a trial is tried again in a job of its own; None if it is not."""
        if self._may_be_of_lost_samples(progress, verdict, last):
            return IN_SMALLER_JOB
        if self._may_be_of_another_trial(progress, verdict, directory):
            return IN_SHARED_JOB
        return None

    def _may_be_of_another_trial(
        self, progress: TrialProgress, verdict: Verdict, directory: Path
    ) -> bool:
        """Return whether another trial of the same job may have caused this end.

        The answer is no if the trial recorded its own fault. If no cause is known, it is yes from
        the second time on; the first time is put down to the machine.
        """
        by_itself = progress.together == 1 and progress.assigned is None
        if by_itself or read_fault(directory) is not None:
            return False
        if verdict.state is TrialState.INFRA_FAILED:
            seen_before = progress.submissions >= min(2, self._settings.max_attempts)
            return seen_before and not verdict.exclude_node
        return verdict.state in (TrialState.FAILED, TrialState.OOM, TrialState.TIMEOUT)

    def _may_be_of_lost_samples(
        self, progress: TrialProgress, verdict: Verdict, last: Attempt | None
    ) -> bool:
        """Return whether a trial may have failed because its job has too few GPUs for it.

        The job was to go on from stages that are drawn. If their samples are lost, it had to draw
        them again, with a model that does not fit.
        """
        if last is None or progress.upto is not None or not progress.drawn:
            return False
        failed = verdict.state in (TrialState.FAILED, TrialState.OOM)
        return failed and last.gpus < self._builder.gpus(progress.planned)

    def _try_alone(
        self, progress: TrialProgress, verdict: Verdict, attempts: int, reason: str
    ) -> None:
        """Give a trial a job of its own, because the cause of its end may not be its own.

        Its attempts so far do not count against its limits.
        """
        trial = progress.planned.trial
        log.warning(
            "%s: it ended %s (%s: %s); it is started again by itself",
            trial, reason, verdict.state, verdict.explanation,
        )  # fmt: skip
        self._journal.append(
            "lost",
            trials=[trial],
            reason=reason,
            why=verdict.explanation,
            earlier={trial: attempts},
        )

    def _counted_attempts(self, progress: TrialProgress) -> list[Attempt]:
        """Return the trial's attempts that count against its limits."""
        attempts = read_attempts(self._run.trial(progress.planned.trial), patient=True)
        return attempts[progress.earlier_attempts :]

    def _may_retry(
        self, state: TrialState, progress: TrialProgress, attempts: Sequence[Attempt]
    ) -> bool:
        if state is TrialState.PREEMPTED:
            return _times_preempted(progress, attempts) <= self._settings.max_preemptions
        if state is TrialState.TIMEOUT:
            return True
        return progress.submissions < self._settings.max_attempts

    def _may_go_on(self, last: Attempt, attempts: Sequence[Attempt]) -> bool:
        """Return whether a trial that reached its time limit may go on in another job.

        This is for jobs that are not requeued, by the profile or because the cluster refused it.
        The trial continues from its stored samples.
        """
        times = count_state(attempts, TrialState.TIMEOUT)
        return last.stopped == "time limit" and times <= self._settings.max_timeouts

    def _final_words(
        self, verdict: Verdict, progress: TrialProgress, attempts: Sequence[Attempt]
    ) -> str:
        """Return why a trial is given up, and where to read more."""
        text = verdict.explanation
        if verdict.state is TrialState.PREEMPTED:
            times = _times_preempted(progress, attempts)
            text += (
                f" ({times} times; the profile's max_preemptions allows "
                f"{self._settings.max_preemptions})"
            )
        elif verdict.state is TrialState.INFRA_FAILED:
            failed = sum(attempt.state != HANDED_OVER for attempt in attempts)
            text += (
                f" (attempt {max(failed, progress.submissions)}; the profile's "
                f"max_attempts is {self._settings.max_attempts})"
            )
        directory = self._run.trial(progress.planned.trial)
        return f"{text}; logs: {directory} and {self._run.scheduler_logs}"

    def _check_examples(self, trials: Sequence[TrialProgress]) -> None:
        """Check the files of examples.

        Every trial that is scored on a damaged file would fail, one after the other.

        Raises:
            RunFailed: A file is damaged.
        """
        sources = dict.fromkeys(t.planned.source for t in trials if t.row is None)
        for path in dict.fromkeys(self._run.examples_of(source) for source in sources):
            self._examples.check(path)

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

    def _finish(self, progress: TrialProgress, row: TrialRow, **where: Any) -> None:
        failed = row.state is not TrialState.COMPLETED
        self._look_at_nodes |= failed or self._journal.state.avoid_failed is not None
        self._journal.append(
            "finished", trial=progress.planned.trial, row=row_to_json(row), **where
        )
        self._table_is_behind = True
        log.info("%s %s: %s", progress.planned.trial, row.state, row.score)

    def cancel(self, reason: str) -> None:
        """Cancel the jobs that run and give every unfinished trial its row.

        A trial that is already done keeps its result.
        """
        state = self._journal.state
        self.release()
        with suppress(OSError):  # a full disk: they are cancelled all the same
            self._workers.retire_all()
        # Jobs come first, so that they end even if nothing can be written (e.g. on a full disk).
        self._scheduler.cancel([*_jobs(state.unfinished()), *self._workers.by_job()])
        self._adopt(state.unfinished(), cancel=True)
        self.end_strays()
        for progress in state.unfinished():
            self._collect_cancelled(progress, reason)
        self.write_table()

    def abandon(self, reason: str) -> None:
        """Cancel the jobs of a run whose directory is gone.

        Nothing is written except to the journal, which is open.
        """
        try:
            self.release()
        except OSError as error:
            log.warning(
                "the served model could not be released (%s); it ends when its lease expires", error
            )
        unfinished = self._journal.state.unfinished()
        self._scheduler.cancel([*_jobs(unfinished), *self._workers.by_job()])
        for progress in unfinished:
            directory = self._run.trial(progress.planned.trial)
            row = failed_row(self._run.name, progress, TrialState.CANCELLED, reason, directory)
            self._finish(progress, row)

    def release(self) -> None:
        """Release the served model, because nothing more is evaluated."""
        if self._server is not None:
            self._server.release()

    def _request(
        self,
        members: Sequence[TrialProgress],
        lists: Sequence[Sequence[TrialProgress]],
        worker: str,
        gpus: int = 0,
        upto: Mapping[str, int] | None = None,
    ) -> JobRequest:
        """Return the job of a list of trials, one of the ``lists`` of a batch."""
        return self._builder.request(
            [t.planned for t in members],
            self._beside(members, lists),
            [t.earlier_attempts for t in members],
            worker,
            gpus,
            upto,
        )

    def _beside(
        self, members: Sequence[TrialProgress], lists: Sequence[Sequence[TrialProgress]]
    ) -> list[list[PlannedTrial]]:
        """Return the jobs of the iteration, in the order of their first trials.

        A trial that is in none of the lists counts as a job of its own. For lists that are started
        together the same object is returned.
        """
        iteration = members[0].planned.iteration
        if self._together is not None and self._together[0] is lists:
            if iteration in self._together[1]:
                return self._together[1][iteration]
        else:
            self._together = (lists, {})
        listed = {t.planned.trial for trials in lists for t in trials}
        single: list[Sequence[TrialProgress]] = [
            [t]
            for t in self._journal.state.trials.values()
            if t.planned.iteration == iteration and t.planned.trial not in listed
        ]
        mine = [trials for trials in lists if trials[0].planned.iteration == iteration]
        found = [[t.planned for t in trials] for trials in sorted([*single, *mine], key=_name)]
        self._together[1][iteration] = found
        return found

    def write_table(self) -> None:
        """Write the table of trials from the journal."""
        self._table.write(self._journal.state.trials.values())
        self._table_is_behind = False


def _name(members: Sequence[TrialProgress]) -> str:
    """Return the name of a list of trials: that of its first trial."""
    return members[0].planned.trial


def _jobs(trials: Iterable[TrialProgress]) -> list[str]:
    """Return the jobs of trials, each once."""
    return list(dict.fromkeys(t.job_id for t in trials if t.job_id))


def _by_trial(jobs: Mapping[str, str], lists: Iterable[Sequence[TrialProgress]]) -> dict[str, str]:
    """Return the job of each trial, of jobs by the first trial of each list."""
    return {
        trial.planned.trial: jobs[_name(members)]
        for members in lists
        if _name(members) in jobs
        for trial in members
    }


def _where(verdict: Verdict, status: JobStatus, last: Attempt | None) -> dict[str, Any]:
    """Return on which node a failure ended a job, and whether the node was at fault.

    They are values of a journal event; there are none if no node failed.
    """
    node = status.node or (last.node if last is not None else "")
    if verdict.state is not TrialState.INFRA_FAILED or not node:
        return {}
    return {"node": node, "node_fault": verdict.exclude_node}


def _is_drawn(progress: TrialProgress, last: Attempt | None, directory: Path) -> bool:
    """Return whether a trial's job was for some stages only, and has drawn them."""
    if progress.upto is None:
        return False
    recorded = last is not None and last.state == HANDED_OVER
    return recorded or read_part(directory, patient=True).stages >= progress.upto


def _times_preempted(progress: TrialProgress, attempts: Sequence[Attempt]) -> int:
    """Return how often a trial was preempted, this time included.

    It counts each time its job was started again or ended for good.
    """
    requeued = sum(
        attempt.state == TrialState.PREEMPTED
        and any(later.job_id == attempt.job_id for later in attempts[number:])
        for number, attempt in enumerate(attempts, start=1)
    )
    return requeued + progress.preemptions + 1
