"""The job of trials: it checks its node, runs a command, and records the outcome.

The job runs on the host's Python, because it must be able to call ``scontrol``. The command is
usually ``apptainer exec ... python -m agenttts.trial``. Each start of the job records an attempt of
each trial that it runs (`agenttts.dispatch.attempts`). `agenttts.dispatch.blame` decides what the
end of an attempt means.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import submitit
from submitit.core.utils import UncompletedJobError

from agenttts.dispatch.apptainer import (
    container_env,
    device_order,
    granted_devices,
    in_container,
    passed_variables,
    with_scratch,
)
from agenttts.dispatch.attempts import HANDED_OVER, Attempt, count_state, read_attempts
from agenttts.dispatch.base import JobRequest, JobTrial
from agenttts.dispatch.blame import AttemptEnd, Stop, Verdict, blame
from agenttts.dispatch.node.job_attempts import JobAttempts, now
from agenttts.dispatch.node.limits import Limits, Overrun, Watch
from agenttts.dispatch.node.mailbox import Mailbox
from agenttts.dispatch.node.preflight import SCRATCH_BYTES, node_problem
from agenttts.dispatch.node.progress import TrialSight
from agenttts.dispatch.node.scratch import (
    CompileCache,
    NoScratchDirectory,
    discard_compiled,
    host_caches,
    scratch_directory,
)
from agenttts.dispatch.node.trial_lock import LockHeld, LockHolder, Waits, trial_lock
from agenttts.dispatch.node.trial_log import LOG_FILE, last_lines, log_size, read_end
from agenttts.dispatch.own_job import (
    cluster_name,
    node_name,
    queue_job,
    say,
    started_again,
    trial_job_id,
    why_stopped,
)
from agenttts.dispatch.run_jobs import user_name
from agenttts.dispatch.slurm.syntax import minutes
from agenttts.files.memory import job_memory
from agenttts.files.native_threads import without_thread_limits
from agenttts.files.processes import die_with_parent, job_cpus, oom_kills
from agenttts.files.signals import signals_held
from agenttts.files.trouble import passing_trouble
from agenttts.tables.schema import TrialState
from agenttts.trial.command import AskedQuestion, DueTrial, TrialCommand
from agenttts.trial.part import read_part
from agenttts.trial.phase import PHASE_FILE, read_phase
from agenttts.trial.questions import OpenQuestions
from agenttts.trial.result import FAULT_FILE, read_fault, read_result
from agenttts.trial.spec import SPEC_FILE

if TYPE_CHECKING:
    from agenttts.dispatch.profile import Profile

# submitit counts a preemption of a short job as a time-out. So submitit's limit is switched off,
# and `TrialJob` counts time-outs itself.
UNLIMITED_REQUEUES = 10**6
# If a signal ends the program, a container's runtime exits with this number plus the signal's.
_KILLED = 128
# Seconds between two checks that the trials make progress.
_LOOK_S = 5.0
# Seconds between two looks for ended trials, or for a worker's next list or question.
_LOOK_AT_TRIALS_S = 1.0


class TrialJob:
    """The function that submitit runs: it runs the command of trials to its end.

    A job that reaches ``limit_seconds`` before its trials have ended is requeued. Its unfinished
    trials then continue from their stored samples. A trial is continued at most ``max_timeouts``
    times. If ``requeue`` is False, the job is not requeued, and the controller submits another one.

    A job with ``linger_seconds`` is a worker. When its trials have ended, it keeps its engines
    loaded and waits for lists in its mailbox (`agenttts.dispatch.node.mailbox`). A worker ends when
    the controller retires it, when no keep-alive sign has come for ``linger_seconds``, or when a
    list would last longer than the time that the job has left. The command reads each list as one
    line of its standard input. While no trial runs, the command also reads questions of the search
    there (`agenttts.trial.questions`). If a question and a list wait, the question goes first.

    Args:
        directory: The directory of the job. If the job is no worker and has a single trial, this is
            the directory of the trial.
        command: The command.
        env: Environment variables of the command.
        gpus: GPUs of the job.
        limit_seconds: The job's time limit.
        grace_seconds: Seconds before the time limit at which the job is warned.
        max_timeouts: How often a trial is continued after its time limit.
        cache: Where compiled code is kept; None: it is not kept.
        needs: Files that the trials read.
        limits: Limits on engine starts, stalls and preemptions.
        earlier_attempts: For a job of a single trial (``trials`` is empty): how many of its earlier
            attempts do not count.
        requeue: Whether the job may be requeued.
        trials: The trials. Empty: the job has one trial, in ``directory``.
        linger_seconds: Seconds without a keep-alive sign after which a worker ends; 0 if the job is
            no worker.
        compiles: Whether the job's engines compile code for GPUs.
    """

    # Defaults for jobs that an older version pickled and that are still in the queue.
    needs: tuple[Path, ...] = ()
    limits = Limits()
    earlier_attempts = 0
    requeue = True
    trials: tuple[JobTrial, ...] = ()
    linger_seconds = 0.0
    compiles = True
    submitted: str | None = None

    _caches: Mapping[str, str] = MappingProxyType({})
    _records: JobAttempts | None = None
    _locks: dict[JobTrial, ExitStack]
    _next_list = 0.0
    _ends_at = math.inf
    _last_sign = ""
    _closing = False
    _earlier_lists = 1
    _idle_since: float | None = None
    _log_start = _oom_kills = 0

    def __init__(
        self,
        directory: Path,
        command: tuple[str, ...],
        env: Mapping[str, str],
        gpus: int,
        limit_seconds: float,
        grace_seconds: float,
        max_timeouts: int,
        cache: CompileCache | None = None,
        needs: tuple[Path, ...] = (),
        limits: Limits | None = None,
        earlier_attempts: int = 0,
        requeue: bool = True,
        trials: tuple[JobTrial, ...] = (),
        linger_seconds: float = 0.0,
        compiles: bool = True,
    ) -> None:
        self.directory = directory
        self.command = command
        self.env = dict(env)
        self.gpus = gpus
        self.limit_seconds = limit_seconds
        self.grace_seconds = grace_seconds
        self.max_timeouts = max_timeouts
        self.cache = cache
        self.needs = needs
        self.limits = limits or Limits()
        self.earlier_attempts = earlier_attempts
        self.requeue = requeue
        self.trials = trials
        self.linger_seconds = linger_seconds
        self.compiles = compiles
        self.submitted = now()  # jobs are made when they are submitted
        self._child: subprocess.Popen[bytes] | None = None

    @classmethod
    def of(cls, request: JobRequest, profile: Profile) -> TrialJob:
        """The job of a request under a profile."""
        return cls(**job_settings(request, profile))

    @property
    def all_trials(self) -> tuple[JobTrial, ...]:
        """The trials of the job, at least one."""
        return self.trials or (JobTrial(self.directory, self.earlier_attempts),)

    @property
    def _outlives_trials(self) -> bool:
        """Whether the job may continue when one of its trials has ended."""
        return len(self.all_trials) > 1 or self.linger_seconds > 0

    @property
    def _attempts(self) -> JobAttempts:
        """The attempts of this start, created at the first use."""
        if self._records is None:
            self._records = JobAttempts(
                self._job_id(), node_name(), self.gpus, self.directory, self._say, self.submitted
            )
        return self._records

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_child": None, "_records": None, "_locks": {}, "_caches": {}}

    def __call__(self) -> str:
        """Run the trials that are due; return the state in which they ended.

        A requeued worker goes through the lists of its mailbox in order.
        """
        self._records = None
        # These are times of this node's monotonic clock. They are set anew at each start, because a
        # requeued job may be on another node.
        self._ends_at = time.monotonic() + self.limit_seconds - self.grace_seconds
        self._next_list, self._closing = 0.0, False
        self._idle_since, self._last_sign = None, ""
        self._mailbox = Mailbox(self.directory)
        self._list_number, self._earlier_lists = 0, 1
        while self._mailbox.read(self._earlier_lists) is not None:
            self._earlier_lists += 1
        self._questions = OpenQuestions(self.directory)
        self._locks = {}
        attempts = self._attempts
        try:
            due = self._lock_due(self.all_trials)
            while not due and self.linger_seconds:
                given = self._mailbox.read(self._list_number + 1)
                if given is None:
                    break
                due = self._lock_due(given.trials, self._list_number + 1)
                self._list_number += 1
            return self._run(due) if due else attempts.outcome()
        finally:
            attempts.close()
            for trial in list(self._locks):
                self._release(trial)

    def _lock_due(self, trials: Iterable[JobTrial], number: int = 0) -> list[JobTrial]:
        """Take the locks of the due trials of a list, and return these trials.

        The outcome of a trial that is not due is recorded in three cases: another job holds the
        trial's lock, the trial's stages are drawn, or the trial reached the time limit too often.

        Args:
            trials: The trials of the list.
            number: The number of the list in the mailbox; 0 for the list of the command line.
        """
        queued = self._is_queued()
        me = LockHolder(self._job_id(), node_name(), now(), queued, cluster_name(), user_name())
        due: list[JobTrial] = []
        waits = Waits()
        for trial in trials:
            if trial in self._locks:  # by an earlier call, which then failed at a file
                due.append(trial)
                continue
            if number < self._earlier_lists and self._was_given_away(trial):
                continue
            if not trial.directory.is_dir():
                self._say(f"{trial.directory} was removed; its trial is left out")
                continue
            lock = ExitStack()
            try:
                lock.enter_context(trial_lock(trial.directory, me, self._say, waits))
            except LockHeld as held:
                self._attempts.start([trial], log_size(self.directory / LOG_FILE))
                verdict = Verdict(TrialState.INFRA_FAILED, True, False, str(held))
                self._attempts.finish(trial, verdict)
                continue
            self._locks[trial] = lock
            state = self._state_of(trial)
            if state is _State.DUE:
                due.append(trial)
                continue
            self._release(trial)
            if state is _State.DRAWN and not self._has_handed_over(trial):
                self._attempts.start([trial], log_size(self.directory / LOG_FILE))
                self._attempts.hand_over(trial)
            elif state is _State.TOO_LONG:
                self._attempts.start([trial], log_size(self.directory / LOG_FILE))
                self._attempts.finish(trial, _TOO_LONG)
        return due

    def _state_of(self, trial: JobTrial) -> _State:
        """Return the state of a trial at a start of this job.

        If the job was requeued, some of its trials may have ended in an earlier start of the job.
        """
        if read_result(trial.directory) is not None:
            return _State.COMPLETE
        if _is_drawn(trial):
            return _State.DRAWN
        attempts = self._counted_attempts(trial)
        if not self._outlives_trials or not attempts or attempts[-1].job_id != self._job_id():
            return _State.DUE
        if attempts[-1].stopped == "time limit":
            return _State.TOO_LONG if self._is_over(trial, "time limit") else _State.DUE
        again = (None, HANDED_OVER, TrialState.PREEMPTED, TrialState.CANCELLED)
        return _State.DUE if attempts[-1].state in again else _State.FAILED

    def _has_handed_over(self, trial: JobTrial) -> bool:
        """Return whether this job has recorded that a trial is handed over."""
        return any(
            attempt.job_id == self._job_id() and attempt.state == HANDED_OVER
            for attempt in read_attempts(trial.directory)
        )

    def _release(self, trial: JobTrial) -> None:
        """Release a trial's lock."""
        self._locks.pop(trial, ExitStack()).close()

    def _was_given_away(self, trial: JobTrial) -> bool:
        """Return whether another job has run a trial since this job did.

        If a list from before this start names such a trial, the trial is no longer this job's. If a
        newer list names the trial, the trial has come back to this job.
        """
        if not self._outlives_trials:
            return False
        jobs = [attempt.job_id for attempt in read_attempts(trial.directory)]
        return self._job_id() in jobs and jobs[-1] != self._job_id()

    def checkpoint(self) -> submitit.helpers.DelayedSubmission | None:
        """Stop the command. Return the job that is to be requeued; None if none is.

        submitit calls this method on SIGUSR2: at a preemption, or near the time limit.
        """
        deadline = time.monotonic() + self.grace_seconds * 0.7
        self._tell_child(signal.SIGTERM)  # at once, because a preemption may leave only seconds
        cause = self._stop_cause()
        self._wait_for_child(deadline - time.monotonic())
        self._finish_ended()
        unfinished = self._attempts.open
        if not self._attempts.states and not unfinished:
            unfinished = list(self.all_trials)  # the signal came before the first attempt began
        self._attempts.finish_all(blame(AttemptEnd(stopped=cause, began=self._began())), cause)
        self._attempts.close()
        over = all(self._is_over(trial, cause) for trial in unfinished)
        return None if over or not self.requeue else started_again(self)

    def _is_over(self, trial: JobTrial, cause: Stop) -> bool:
        """Return whether ``cause`` has stopped a trial more often than its limit allows."""
        attempts = self._counted_attempts(trial)
        if cause == "time limit":
            return count_state(attempts, TrialState.TIMEOUT) > self.max_timeouts
        return count_state(attempts, TrialState.PREEMPTED) > self.limits.max_preemptions

    def _stop_cause(self) -> Stop:
        started = self._attempts.started
        began = datetime.fromisoformat(started) if started else datetime.now(UTC)
        return why_stopped(
            elapsed=(datetime.now(UTC) - began).total_seconds(),
            limit_seconds=self.limit_seconds,
            grace_seconds=self.grace_seconds,
        )

    def _run(self, trials: list[JobTrial]) -> str:
        (self.directory / PHASE_FILE).unlink(missing_ok=True)
        self._begin(trials)
        problem: str | None
        try:
            with scratch_directory(self.cache) as scratch:
                problem = self._node_problem(scratch)
                if problem is None:
                    self._caches = self._host_caches(scratch)
                    kills = oom_kills()
                    command = self._command_of(trials)
                    whole = self._run_command(with_scratch(command, scratch))
                    if not whole or oom_kills() > kills:
                        discard_compiled(scratch)
        except NoScratchDirectory as error:
            problem = str(error)
        if problem is not None:
            end = AttemptEnd(stopped="preflight", problem=problem, node=node_name())
            self._attempts.finish_all(blame(end), "preflight")
        return self._attempts.outcome()

    def _command_of(self, trials: Iterable[JobTrial]) -> list[str]:
        """Return the command for these trials."""
        if not self._outlives_trials:
            return list(self.command)
        own = set(map(str, due_trials(self.all_trials)))
        if own.isdisjoint(self.command):
            return list(self.command)
        return [*(p for p in self.command if p not in own), *map(str, due_trials(trials))]

    def _begin(self, trials: list[JobTrial]) -> None:
        """Record the start of an attempt of each trial."""
        for trial in trials:
            (trial.directory / FAULT_FILE).unlink(missing_ok=True)
        self._log_start = log_size(self.directory / LOG_FILE)
        self._oom_kills = oom_kills()
        self._attempts.start(trials, self._log_start)
        self._idle_since = None

    def _next_trials(self) -> list[JobTrial] | None:
        """Take the next list of the mailbox, if the trials of the last list have ended.

        Returns:
            The trials that begin now, an empty list if none does. None: the job has to end.
        """
        if self._attempts.open:
            return []
        try:
            due = self._take_list()
        except OSError as error:
            if not passing_trouble(error):
                raise
            return []  # the next call tries again
        if due:
            self._begin(due)
        return due

    def _take_list(self) -> list[JobTrial] | None:
        """Return the due trials of the next list; None if the job has to end.

        The job has to end if it is retired, if no keep-alive sign has come for too long, or if the
        list is expected to last longer than the time that the job has left. In the last case, the
        controller gives the list to another job.
        """
        moment = time.monotonic()
        sign = self._mailbox.sign
        if self._idle_since is None or sign != self._last_sign:
            self._idle_since, self._last_sign = moment, sign
        given = self._mailbox.read(self._list_number + 1)
        if given is None:
            over = moment - self._idle_since > self.linger_seconds
            return None if over or self._mailbox.is_retired else []
        if moment + given.seconds > self._ends_at:
            return None
        due = self._lock_due(given.trials, self._list_number + 1)
        self._list_number += 1
        return due

    def _next_question(self) -> AskedQuestion | None:
        """Take the next question. None if there is none, a trial runs, or the end is near."""
        moment = time.monotonic()
        if self._attempts.open or moment > self._ends_at:
            return None
        try:
            question = self._questions.take()
        except OSError as error:
            if not passing_trouble(error):
                raise
            return None  # the next call tries again
        if question is not None:
            self._idle_since = moment
        return question

    @property
    def _in_container(self) -> bool:
        return in_container(self.command)

    def _host_caches(self, scratch: Path) -> Mapping[str, str]:
        """Return the environment variables that say where engines keep compiled code.

        In a container these variables are set already, so none are returned.
        """
        return {} if self.cache is None or self._in_container else host_caches(scratch)

    def _node_problem(self, scratch: Path) -> str | None:
        return node_problem(
            self.directory,
            scratch,
            self.needs,
            gpus=self.gpus,
            # Engines on the host need no room in `scratch`: they can compile elsewhere.
            scratch_bytes=SCRATCH_BYTES if self._in_container else 0,
            compiles=self.compiles,
        )

    def _run_command(self, command: list[str]) -> bool:
        """Run the command, and record how its trials ended.

        Returns:
            Whether it ended by itself.
        """
        try:
            code = self._execute(command)
        except OSError as error:
            # The error is of the command's program, or of a file that is read while the command
            # runs.
            where = error.filename or command[0]
            end = AttemptEnd(problem=f"{where}: {error.strerror}", node=node_name())
            self._stop_child(self.grace_seconds * 0.7)
            self._finish_ended()
            self._attempts.finish_all(blame(end))
        except _LimitPassed as limit:
            self._finish_all(None, limit.overrun)
        except UncompletedJobError:
            raise  # `checkpoint` has recorded the outcome
        except BaseException:
            self._stop_child(0.7)
            self._finish_ended()
            self._attempts.finish_all(blame(AttemptEnd(stopped="signal")), "signal")
            raise
        else:
            self._finish_all(code, None)
            return 0 <= code < _KILLED
        return False

    def _execute(self, command: list[str]) -> int:
        """Run the command to its end; return its exit code."""
        child = self._start_child(command)
        # poll() is used and not wait(), because submitit's signal handler runs on this thread and
        # polls the same child.
        while child.poll() is None:
            time.sleep(0.1)
            self._check_progress()
            if self.linger_seconds:
                self._feed_child(child)
        return child.returncode

    def _feed_child(self, child: subprocess.Popen[bytes]) -> None:
        """Pass the next question or list to the command.

        If the job has to end, the command's input is closed, so that the command ends.
        """
        if child.stdin is None or child.stdin.closed or time.monotonic() < self._next_list:
            return
        self._next_list = time.monotonic() + _LOOK_AT_TRIALS_S
        question = self._next_question()
        trials = self._next_trials() if question is None else []
        with suppress(BrokenPipeError):  # the command has ended; `_execute` notices it
            if question is not None:
                child.stdin.write(TrialCommand.question_line(question))
                child.stdin.flush()
            elif trials is None:
                self._closing = True
                child.stdin.close()
            elif trials:
                child.stdin.write(TrialCommand.line(due_trials(trials)))
                child.stdin.flush()

    def _start_child(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.directory / LOG_FILE).open("ab") as log, signals_held():
            self._child = subprocess.Popen(
                command,
                env=self._environment(),
                stdin=subprocess.PIPE if self.linger_seconds else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        moment = time.monotonic()
        self._watch = Watch(self.limits, moment)
        self._next_look = self._next_ended = moment
        self._sight = TrialSight(
            self.directory,
            self._child.pid,
            on_gpu=self.gpus > 0,
            first_trial=self._attempts.open[0].directory,
        )
        return self._child

    def _check_progress(self) -> None:
        """Record which trials have ended, and check that the others make progress.

        Raises:
            _LimitPassed: An engine has not started in time, or there is no progress.
        """
        moment = time.monotonic()
        # If the job is no worker and has one trial, the trial ends when the command does.
        if self._outlives_trials and moment >= self._next_ended:
            self._next_ended = moment + _LOOK_AT_TRIALS_S
            try:
                self._finish_ended()
            except OSError as error:
                if not passing_trouble(error):
                    raise
        if moment < self._next_look:
            return
        shortest = min(self.limits.start_seconds, self.limits.stall_seconds)
        self._next_look = moment + min(_LOOK_S, shortest / 10)
        try:
            waits = self._waits()
        except OSError as error:
            if not passing_trouble(error):
                raise
            return  # the next look tries again
        if waits:
            self._watch = Watch(self.limits, moment)
            return
        overrun = self._watch.look(self._sight.take(), moment)
        if overrun is not None:
            self._say(overrun.problem)
            self._stop_child(self.grace_seconds * 0.7)
            raise _LimitPassed(overrun)

    def _waits(self) -> bool:
        """Return whether a worker waits for a list, and therefore makes no progress.

        A worker that waits has no open trials, is not closing, and answers no question.
        """
        return not (self._attempts.open or self._closing or self._questions.any_in_work())

    def _finish_ended(self) -> None:
        """Record the outcome of trials that ended while the command was still running."""
        for trial in self._attempts.open:
            has_fault = self._outlives_trials and (trial.directory / FAULT_FILE).exists()
            if _is_done(trial) or has_fault:
                self._finish(trial, None, None)
                self._release(trial)

    def _finish_all(self, code: int | None, overrun: Overrun | None) -> None:
        """Record the outcome of the trials whose outcome is not recorded yet."""
        for trial in self._attempts.open:
            self._finish(trial, code, overrun)

    def _finish(self, trial: JobTrial, code: int | None, overrun: Overrun | None) -> None:
        """Record how a trial's attempt ended.

        Args:
            trial: The trial.
            code: The exit code of the command; None if the command still runs or was stopped.
            overrun: The limit that was passed, if any.
        """
        if read_result(trial.directory) is not None:
            self._attempts.finish(trial, Verdict(TrialState.COMPLETED, False, False, ""))
        elif _is_drawn(trial):
            self._attempts.hand_over(trial)
        else:
            stop = overrun.stop if overrun else None
            self._attempts.finish(trial, self._verdict(trial, code, overrun), stop)

    def _verdict(self, trial: JobTrial, code: int | None, overrun: Overrun | None) -> Verdict:
        """Return the verdict on an attempt that left no result."""
        earlier = self._counted_attempts(trial)[:-1]
        log = read_end(self.directory / LOG_FILE, self._log_start)
        fault = read_fault(trial.directory)
        verdict = blame(
            AttemptEnd(
                exit_code=code,
                fault=fault,
                log=log,
                node=node_name(),
                began=self._began(),
                stopped=overrun.stop if overrun else None,
                problem=overrun.problem if overrun else "",
                stops_before=sum(a.stopped in ("start limit", "stall limit") for a in earlier),
                oom_killed=oom_kills() > self._oom_kills,
                gpus=self.gpus,
            )
        )
        if fault is None:
            verdict = replace(
                verdict,
                explanation=f"{verdict.explanation}; {last_lines(self.directory / LOG_FILE, log)}",
            )
        return verdict

    def _counted_attempts(self, trial: JobTrial) -> list[Attempt]:
        """Return the attempts that count against the trial's limits."""
        return read_attempts(trial.directory)[trial.earlier_attempts :]

    def _began(self) -> bool:
        return read_phase(self.directory) is not None

    def _environment(self) -> dict[str, str]:
        devices = granted_devices()
        granted = container_env({**job_memory(os.environ), **job_cpus(os.environ), **devices})
        passed = passed_variables(self.env)
        inherited = {**device_order(), **without_thread_limits(os.environ), **devices}
        return {**inherited, **self._caches, **self.env, **granted, **passed}

    def _say(self, text: str) -> None:
        """Print to submitit's log of the job.

        If the job's record does not reach the controller, this log is the only trace.
        """
        say(text)

    def _job_id(self) -> str:
        """Return the id of this job in its scheduler."""
        return trial_job_id()

    def _is_queued(self) -> bool:
        """Return whether the job's scheduler is a queue."""
        return queue_job() is not None

    def _tell_child(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def _stop_child(self, patience: float) -> None:
        """Send SIGTERM to the command, so that it stores the samples.

        If the command does not end within ``patience`` seconds, SIGKILL follows.
        """
        self._tell_child(signal.SIGTERM)
        self._wait_for_child(patience)

    def _wait_for_child(self, patience: float) -> None:
        child = self._child
        if child is None:
            return
        deadline = time.monotonic() + patience
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if child.poll() is None:
            child.kill()


class _State(Enum):
    """The state of a trial at a start of a job."""

    COMPLETE = auto()
    """The trial has a result."""
    DRAWN = auto()
    """The leading stages that this job had to draw are drawn."""
    DUE = auto()
    """The job has to run the trial."""
    TOO_LONG = auto()
    """The trial reached the time limit too often."""
    FAILED = auto()
    """The trial failed in this job; the controller decides what follows."""


def _is_done(trial: JobTrial) -> bool:
    """Return whether a trial has a result, or its stages for this job are drawn."""
    return read_result(trial.directory) is not None or _is_drawn(trial)


def _is_drawn(trial: JobTrial) -> bool:
    return trial.upto is not None and read_part(trial.directory).stages >= trial.upto


def due_trials(trials: Iterable[JobTrial]) -> tuple[DueTrial, ...]:
    """Return trials in the form of `TrialCommand`."""
    return tuple(DueTrial(trial.directory / SPEC_FILE, trial.upto) for trial in trials)


_TOO_LONG = Verdict(
    TrialState.TIMEOUT,
    False,
    False,
    "it reached the time limit; max_timeouts allows no more starts",
)


class _LimitPassed(Exception):
    """A start or stall limit has passed, and the child has been stopped."""

    def __init__(self, overrun: Overrun) -> None:
        super().__init__(overrun.problem)
        self.overrun = overrun


def job_settings(request: JobRequest, profile: Profile) -> dict[str, Any]:
    """The arguments of `TrialJob` for a request under a profile."""
    return {
        "directory": request.directory,
        "command": request.command,
        "env": request.env,
        "gpus": request.gpus,
        "limit_seconds": minutes(profile.trial.time) * 60,
        "grace_seconds": profile.grace_seconds,
        "max_timeouts": profile.max_timeouts,
        "requeue": profile.trial.requeue,
        "needs": request.needs,
        "cache": request.cache,
        "compiles": request.compiles,
        "trials": request.trials,
        "linger_seconds": profile.stays_for if request.stays else 0.0,
        "limits": Limits(
            start_seconds=profile.start_minutes * 60,
            stall_seconds=profile.stall_minutes * 60,
            max_preemptions=profile.max_preemptions,
        ),
    }
