"""Evaluate planned trials: submit their jobs and turn the results into rows.

The evaluation continues after failures of jobs, of the queue and of the controller. Each event is
in the journal before anything follows from it. So a new controller adopts jobs and does not submit
them again.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Protocol

from agenttts.dispatch.attempts import HANDED_OVER, read_attempts, retry_pause
from agenttts.dispatch.base import JobRequest, QueueUnavailable, Scheduler, SubmitLimitReached
from agenttts.errors import AgentTTSError, MissingRequirement, cli_command, counted
from agenttts.files.trouble import PATIENCE_S, FilePatience, passing_trouble
from agenttts.loop.avoided_nodes import AvoidedNodes
from agenttts.loop.collect import failed_row, finished_row
from agenttts.loop.job_builder import JobBuilder
from agenttts.loop.list_planner import ListPlan, Moment, PlannedList, list_planner
from agenttts.loop.strays import end_strays
from agenttts.loop.trial_ends import Over, StagesDrawn, TrialEnds, TryAgain
from agenttts.loop.trials_table import TrialsTable
from agenttts.loop.workers import Workers
from agenttts.run.directory import Run, RunGone
from agenttts.run.examples import ExamplesGuard
from agenttts.run.journal import Journal
from agenttts.run.progress import NEVER_SUBMITTED, PlannedTrial, TrialProgress, worker_name
from agenttts.run.rows import row_to_json
from agenttts.tables.schema import TrialRow, TrialState, trial_order
from agenttts.trial.result import read_result

log = logging.getLogger(__name__)

# If a submission got no answer, its jobs may still appear in the queue within this time. A job that
# appears later ends by itself.
_APPEARS_WITHIN = timedelta(minutes=30)
# How long workers may take to end before they are cancelled.
_RETIRES_WITHIN_S = 60.0
# Assumed seconds between two iterations. The expected pause is the median of this value and of all
# measured pauses.
_PAUSE_S = 5.0


class ServerLifecycle(Protocol):
    """Starts and releases the served model, which costs GPU time even while idle."""

    def trials_run(self, remaining: int, total: int, more: bool) -> None:
        """Report that trials run. Meanwhile the search does not need the model.

        Args:
            remaining: Number of trials that have not ended.
            total: Number of trials that are evaluated together.
            more: Whether the search goes on after these trials.
        """

    def release(self) -> None:
        """Report that the model is not needed any more."""


class Evaluation:
    """Evaluates the trials of one run.

    Args:
        run: The run.
        journal: The run's journal.
        scheduler: Where jobs are submitted.
        workers: The run's workers.
        server: The lifecycle of the served model, if there is one.
        check: Called at each look at the queue; raises if the controller has to stop.
    """

    def __init__(
        self,
        run: Run,
        journal: Journal,
        scheduler: Scheduler,
        workers: Workers,
        server: ServerLifecycle | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self._run = run.directory
        self._journal = journal
        self._scheduler = scheduler
        self._builder = JobBuilder(run)
        self._workers = workers
        self._planner = list_planner(run, scheduler, self._builder.gpus, workers)
        self._profile = run.profile
        self._patience_seconds = PATIENCE_S
        self._server = server
        self._check = check
        self._table = TrialsTable(self._run.trials_file)
        # Whether the journal has rows that the table lacks.
        self._table_is_behind = False
        # Seconds between iterations, and the monotonic time at which the last iteration ended.
        self._pauses: list[float] = []
        self._paused_at: float | None = None
        # Cache of `_beside`: the last value of its argument ``lists``, and the result for it.
        self._together: (
            tuple[Sequence[Sequence[TrialProgress]], list[list[PlannedTrial]]] | None
        ) = None
        self._token = run.record.token
        self._gone_since: float | None = None
        self._examples = ExamplesGuard(run.directory, run.record.examples)
        self._avoided = AvoidedNodes(self._run, journal, scheduler, workers)
        self._ends = TrialEnds(run, scheduler.settle_seconds, self._builder.gpus, self._examples)

    def evaluate(
        self,
        trials: Sequence[TrialProgress],
        *,
        iteration_follows: bool,
        trials_follow: bool = True,
        until_one_ends: bool = False,
    ) -> None:
        """Run the given trials to their end.

        Args:
            trials: The trials.
            iteration_follows: Whether another iteration follows.
            trials_follow: Whether other trials follow: another iteration or the closing trials.
            until_one_ends: Whether to return as soon as one of the unfinished trials has ended. The
                other trials keep running, and the caller passes them to the next call.

        Raises:
            RunFailed: The examples that the trials are scored on are damaged.
            RunGone: The run's directory is gone.
            QueueUnavailable: The queue has not answered for too long.
            FilesUnavailable: The file system has not answered for too long.
        """
        self._examples.check(trials)
        if self._paused_at is not None:
            self._pauses.append(time.monotonic() - self._paused_at)
        unended = sum(t.row is None for t in trials)
        trouble: float | None = None
        files = self._file_patience()
        while True:
            try:
                if not self.check_run(self._scheduler.settle_seconds):
                    time.sleep(self._profile.poll_seconds)
                    continue
                if self._check is not None:
                    self._check()
                self._workers.write_lists()
                self._workers.give_signs()
                self._adopt([t for t in trials if t.row is None])
                self._collect(trials)
                if self._table_is_behind:
                    self.write_table()
                self._avoided.keep_jobs_off(_jobs(self._journal.state.unfinished()))
                waiting = [t for t in trials if t.row is None]
                if not waiting or (until_one_ends and len(waiting) < unended):
                    if trials_follow and not waiting:
                        self._retire_idle(trials_follow)
                    self._paused_at = time.monotonic()
                    return
                if self._server is not None:
                    self._server.trials_run(len(waiting), len(trials), iteration_follows)
                now = datetime.now(UTC)
                if self._may_appear_late(now):
                    self.end_strays()
                due = [t for t in waiting if t.batch is None and self._may_start(t, now)]
                if due:
                    self._dispatch(due, waiting, trials_follow)
                else:
                    self._retire_idle(trials_follow)
                trouble = None
                files.passed()
            except SubmitLimitReached as error:
                log.info("%s", error)
                if any(t.job_id and t.row is None for t in trials):
                    trouble = None  # the queue has room when a job of these trials ends
                else:
                    trouble = self._still(trouble, error)
            except QueueUnavailable as error:
                self._workers.give_signs(unseen=True)
                # Jobs keep running. If a submission got no answer, `_adopt` finds its jobs.
                log.warning("%s; asking again", error)
                trouble = self._still(trouble, error)
            except (AgentTTSError, OSError) as error:
                self._workers.give_signs(unseen=True)
                # The next pass repeats the failed step, because its end is not in the journal.
                files.failed(error)
            self._workers.pause(self._profile.poll_seconds)

    def check_run(self, patience: float) -> bool:
        """Return whether the run's directory is there.

        Args:
            patience: How many seconds the directory may be absent.

        Raises:
            RunGone: The directory has been absent for at least ``patience`` seconds.
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
            "fix the cause; the run's jobs keep running, and "
            f"'{cli_command('resume', self._run.path)}' continues with them",
            self._patience_seconds,
        )

    def _still(self, since: float | None, error: QueueUnavailable) -> float:
        """Return the time at which the queue's trouble began: ``since``, or now if None.

        Raises:
            QueueUnavailable: ``error``, if the trouble has lasted too long.
        """
        since = since or time.monotonic()
        if time.monotonic() - since > self._patience_seconds:
            raise error
        return since

    def _adopt(self, trials: Iterable[TrialProgress], *, cancel: bool = False) -> None:
        """Find the jobs of batches whose submission is not recorded as done.

        Jobs that are found are recorded as submitted. Trials whose job is not found are recorded as
        lost.

        Args:
            trials: The trials whose batches are looked at.
            cancel: Whether to cancel the jobs that are found.
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
                log.info("adopted %s of batch %s", counted(len(found), "job"), batch)
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
        """Return whether jobs that were recorded as never submitted may still appear."""
        since = self._journal.state.unanswered_at
        return since is not None and now - datetime.fromisoformat(since) < _APPEARS_WITHIN

    def end_strays(self) -> None:
        """Cancel the run's jobs, except workers and the jobs of unfinished trials."""
        known = [*_jobs(self._journal.state.unfinished()), *self._workers.by_job()]
        end_strays(self._journal, self._scheduler, self._builder.tokens, known)

    def _may_start(self, progress: TrialProgress, now: datetime) -> bool:
        """Return whether the pause after a trial's last failure is over.

        Without a pause, a short fault of the cluster could use up all attempts of the trial.
        """
        if progress.lost_at is None:
            return True
        attempts = self._ends.counted_attempts(progress)
        pause = retry_pause(attempts, progress.submissions, self._profile.retry_pauses)
        passed = now - datetime.fromisoformat(progress.lost_at)
        # If ``lost_at`` is in the future, the clock of the host that wrote it was ahead.
        return passed < timedelta() or passed >= timedelta(seconds=pause)

    def _dispatch(
        self, due: Sequence[TrialProgress], waiting: Iterable[TrialProgress], trials_follow: bool
    ) -> None:
        """Give trials to workers, and submit jobs for the other trials.

        Jobs with the same number of GPUs are submitted together.
        """
        live = self._live(waiting)
        free = self._scheduler.capacity(live)
        if self._builder.stays or self._planner.one_at_a_time:
            free = min(free, self._profile.max_running - live)
        if pending := self._workers.without_trials():
            self._scheduler.cancel(pending)  # pending workers that have no trials
        plan = self._planner.plan(due, self._moment(free, trials_follow))
        for listed in plan.lists:
            if listed.worker is not None:
                self._give(listed, plan)
        self._workers.retire(plan.retire)
        new = sorted((p for p in plan.lists if p.worker is None), key=lambda listed: listed.gpus)
        if not new:
            return
        nodes = self._avoided.for_new_jobs()
        for gpus, group in groupby(new, key=lambda listed: listed.gpus):
            self._submit(gpus, list(group), plan, nodes)

    def _give(self, listed: PlannedList, plan: ListPlan) -> None:
        """Give a list to a worker."""
        assert listed.worker is not None
        planned, worker = [t.planned for t in listed.trials], listed.worker.progress
        self._builder.write_specs(planned, self._beside(plan.together))
        self._workers.give(worker, listed.trials, listed.seconds, listed.upto)
        if worker.job_id is not None:
            name, comment = self._builder.name(planned), self._builder.comment(planned)
            self._scheduler.relabel(worker.job_id, worker.batch, worker.position, name, comment)

    def _submit(
        self, gpus: int, lists: Sequence[PlannedList], plan: ListPlan, nodes: tuple[str, ...]
    ) -> None:
        """Submit the jobs of lists that need the same number of GPUs."""
        batch = f"{self._builder.tokens[0]}-{len(self._journal.state.batches)}"
        members = [listed.trials for listed in lists]
        workers = [worker_name(batch, position) for position in range(len(lists))]
        requests = [
            replace(
                self._request(listed.trials, plan.together, worker, gpus, listed.upto),
                exclude=nodes,
            )
            for listed, worker in zip(lists, workers, strict=True)
        ]
        names = [[t.planned.trial for t in trials] for trials in members]
        self._journal.append(
            "submitting",
            batch=batch,
            trials=[t for trials in names for t in trials],
            lists=names,
            stays=self._builder.stays,
            gpus=gpus,
            upto={trial: stages for listed in lists for trial, stages in listed.upto.items()},
        )
        found = self._start_jobs(batch, requests)
        self._journal.append("submitted", batch=batch, jobs=_by_trial(found, members))
        for listed, worker in zip(lists, workers, strict=True):
            self._workers.submitted(worker, listed.seconds)

    def _moment(self, free: int, trials_follow: bool) -> Moment:
        return Moment(
            self._workers.live(),
            free,
            self._earlier_jobs,
            self._journal.state.trials.values(),
            retiring=self._workers.any_retiring,
            more=trials_follow,
            pause_seconds=statistics.median([_PAUSE_S, *self._pauses]),
        )

    def _retire_idle(self, trials_follow: bool) -> None:
        """End the workers whose idling costs more than starting their engines again."""
        self._workers.retire(self._planner.not_needed(self._moment(0, trials_follow)))

    def _live(self, waiting: Iterable[TrialProgress]) -> int:
        """Return the number of live jobs, with or without trials."""
        jobs = {t.job_id or f"{t.batch}.{t.position}" for t in waiting if t.batch is not None}
        return len(jobs.union(self._workers.running()))

    def _earlier_jobs(self, trial: TrialProgress) -> set[str]:
        """Return the jobs that must not have the trial again.

        These are the jobs of the trial's attempts, except jobs that handed the trial over.
        """
        if not trial.submissions and not trial.preemptions and not trial.earlier_attempts:
            # Each attempt handed the trial over, or was ended by a cancel or the time limit (and
            # then its job is gone).
            return set()
        attempts = read_attempts(self._run.trial(trial.planned.trial))
        return {a.job_id for a in attempts if a.state != HANDED_OVER}

    def retire_workers(self) -> None:
        """End the workers, and cancel the workers that do not end in time.

        If the queue does not answer, no worker is cancelled. The workers then end by themselves.
        """
        self._workers.retire_all()
        deadline = time.monotonic() + _RETIRES_WITHIN_S
        try:
            while self._note_workers() and time.monotonic() < deadline:
                time.sleep(self._profile.poll_seconds)
            if workers := self._workers.running():
                self._scheduler.cancel(workers)
        except MissingRequirement as error:
            log.warning("it is not known whether the run's workers have ended: %s", error)

    def signs_meanwhile(self) -> AbstractContextManager[None]:
        """Return a context in which workers keep getting keep-alive signs."""
        return self._workers.signs_meanwhile()

    def _note_workers(self) -> bool:
        """Record which workers have ended; return whether any still runs."""
        self._workers.observe(self._scheduler.poll(self._workers.by_job()))
        return bool(self._workers.running())

    def _start_jobs(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        """Submit jobs.

        If jobs that exclude nodes are refused, they are submitted again without the exclusions.
        """
        try:
            return self._scheduler.submit(batch, requests)
        except QueueUnavailable:
            raise  # the jobs may have been submitted
        except MissingRequirement as error:
            if passing_trouble(error) or not any(request.exclude for request in requests):
                raise
            nodes = self._avoided.allow_again()
            log.warning(
                "jobs that exclude %s were refused (%s); they are submitted without the exclusion",
                ", ".join(nodes),
                error,
            )
            return self._scheduler.submit(
                batch, [replace(request, exclude=()) for request in requests]
            )

    def _collect(self, trials: Sequence[TrialProgress]) -> None:
        """Record what follows for trials that have ended or were handed over."""
        jobs = _jobs([t for t in trials if t.row is None])
        statuses = self._scheduler.poll(list(dict.fromkeys([*jobs, *self._workers.by_job()])))
        unfinished = [t for t in trials if t.row is None]
        jobs_of = Counter(t.job_id for t in unfinished)
        for progress in unfinished:
            job = progress.job_id
            self._collect_one(
                progress,
                self._ends.follows(
                    progress,
                    statuses.get(job or ""),
                    is_last=jobs_of[job] == 1,
                    stays=job in self._workers.by_job(),
                ),
            )
            if progress.row is not None or progress.job_id != job:
                jobs_of[job] -= 1
        self._workers.observe(statuses)

    def _collect_one(
        self, progress: TrialProgress, follows: StagesDrawn | TryAgain | Over | None
    ) -> None:
        """Record what follows for a trial."""
        trial = progress.planned.trial
        match follows:
            case None:
                return
            case StagesDrawn(stages):
                log.info("%s: stages drawn: %s", trial, stages)
                self._journal.append("handed_over", trials={trial: stages})
            case TryAgain(reason, fields):
                self._avoided.look_again()
                self._journal.append("lost", trials=[trial], reason=reason, **fields)
            case Over(row, fields):
                self._finish(progress, row, **fields)

    def _collect_cancelled(self, progress: TrialProgress, reason: str) -> None:
        directory = self._run.trial(progress.planned.trial)
        output = read_result(directory) if directory.exists() else None
        if output is not None:
            self._finish(progress, finished_row(self._run.name, progress, output, directory))
        else:
            row = failed_row(self._run.name, progress, TrialState.CANCELLED, reason, directory)
            self._finish(progress, row)

    def _finish(self, progress: TrialProgress, row: TrialRow, **fields: Any) -> None:
        if row.state is not TrialState.COMPLETED or self._journal.state.avoid_failed is not None:
            self._avoided.look_again()
        self._journal.append(
            "finished", trial=progress.planned.trial, row=row_to_json(row), **fields
        )
        self._table_is_behind = True
        outcome = row.error if row.score is None else row.score
        log.info("%s %s: %s", progress.planned.trial, row.state, outcome)

    def cancel_jobs(self) -> None:
        """Release the served model, and cancel the jobs of trials and the workers.

        The jobs are cancelled even if the release fails, e.g. because the disk is full.
        """
        try:
            self.release()
        finally:
            with suppress(OSError):  # the workers are cancelled below
                self._workers.retire_all()
            unfinished = self._journal.state.unfinished()
            self._scheduler.cancel([*_jobs(unfinished), *self._workers.by_job()])

    def record_cancelled(self, reason: str) -> None:
        """Record every unfinished trial as ended; called after `cancel_jobs`.

        A trial that has a result keeps its result. Jobs whose submission got no answer and jobs
        that belong to no unfinished trial are cancelled too.
        """
        state = self._journal.state
        self._adopt(state.unfinished(), cancel=True)
        self.end_strays()
        for progress in state.unfinished():
            self._collect_cancelled(progress, reason)
        self.write_table()

    def abandon(self, reason: str) -> None:
        """Cancel the jobs of a run whose directory is gone.

        Only the journal is written, because its file is still open.
        """
        try:
            self.release()
        except (AgentTTSError, OSError) as error:
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
        """Release the served model."""
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
        """Return the request for the job of a list of trials.

        Args:
            members: The trials of the job.
            lists: The lists of all jobs that are started together.
            worker: The worker's name.
            gpus: GPUs of the job; 0: as many as the trials need.
            upto: For each trial that is not evaluated whole, how many leading stages to draw.
        """
        return self._builder.request(
            [t.planned for t in members],
            self._beside(lists),
            [t.earlier_attempts for t in members],
            worker,
            gpus,
            upto,
        )

    def _beside(self, lists: Sequence[Sequence[TrialProgress]]) -> list[list[PlannedTrial]]:
        """Return the trials of all jobs that run at the same time, one list for each job.

        The result has ``lists``, and a list of its own for each unfinished trial that is not in
        ``lists``. The jobs use this result to share out their common samples and the requests to
        a server. The lists are in the order of their first trials.
        """
        if self._together is None or self._together[0] is not lists:
            listed = {t.planned.trial for trials in lists for t in trials}
            unfinished = self._journal.state.unfinished()
            single = [[t] for t in unfinished if t.planned.trial not in listed]
            ordered = sorted([*lists, *single], key=lambda trials: trial_order(_name(trials)))
            self._together = (lists, [[t.planned for t in trials] for trials in ordered])
        return self._together[1]

    def write_table(self) -> None:
        """Write the table of trials from the journal."""
        self._table.write(self._journal.state.trials.values())
        self._table_is_behind = False


def _name(members: Sequence[TrialProgress]) -> str:
    """Return the name of a list of trials: the name of its first trial."""
    return members[0].planned.trial


def _jobs(trials: Iterable[TrialProgress]) -> list[str]:
    """Return the jobs of trials, without repetitions."""
    return list(dict.fromkeys(t.job_id for t in trials if t.job_id))


def _by_trial(jobs: Mapping[str, str], lists: Iterable[Sequence[TrialProgress]]) -> dict[str, str]:
    """Return the job of each trial.

    Args:
        jobs: The job of each list, by the list's first trial. Lists without a job are left out.
        lists: The lists.
    """
    return {
        trial.planned.trial: jobs[_name(members)]
        for members in lists
        if _name(members) in jobs
        for trial in members
    }
