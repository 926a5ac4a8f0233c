"""The job on the node: checks the node, runs the trial's command, records the outcome.

It runs on the host's Python under submitit (it must be able to call ``scontrol``); the child is
usually ``apptainer exec ... python -m agenttts.trial``. Each start is a record
(`agenttts.dispatch.attempts`); how it ended is for `agenttts.dispatch.blame` to say.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import UncompletedJobError

from agenttts.dispatch.apptainer import SCRATCH, granted_devices
from agenttts.dispatch.attempts import Attempt, count_state, read_attempts, write_attempt
from agenttts.dispatch.base import JobRequest
from agenttts.dispatch.blame import AttemptEnd, Stop, Verdict, blame
from agenttts.dispatch.node.limits import Limits, Overrun, Watch
from agenttts.dispatch.node.preflight import SCRATCH_BYTES, node_problem
from agenttts.dispatch.node.progress import TrialSight
from agenttts.dispatch.node.scratch import CompileCache, scratch_directory
from agenttts.dispatch.node.stop_cause import show_job, stop_cause
from agenttts.dispatch.node.trial_lock import LockHeld, LockHolder, trial_lock
from agenttts.dispatch.node.trial_log import LOG_FILE, last_lines, log_size, read_end
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.service_job import queue_job
from agenttts.dispatch.slurm.syntax import minutes
from agenttts.files.processes import oom_kills
from agenttts.tables.schema import TrialState
from agenttts.trial.phase import PHASE_FILE, read_phase
from agenttts.trial.result import FAULT_FILE, read_fault, read_result

# submitit counts a preemption of a short job as a time-out. Its limit is therefore switched off,
# and the jobs count time-outs themselves.
UNLIMITED_REQUEUES = 10**6
_PR_SET_PDEATHSIG = 1
# Between looks at whether a trial makes progress.
_LOOK_S = 5.0
# Loaded here, not between fork and exec: there another thread's lock on the loader would never be
# released.
_LIBC = ctypes.CDLL(None)


class TrialJob:
    """What submitit runs: the trial's command, once to its end.

    ``limit_seconds`` is the job's time limit. A job that reaches it is requeued up to
    ``max_timeouts`` times; the next attempt continues from the stored samples. Without ``requeue``
    the controller submits the next attempt. ``needs`` are the files that the trial reads.
    """

    # Of jobs that an older version has pickled into the queue.
    needs: tuple[Path, ...] = ()
    limits = Limits()
    earlier_attempts = 0
    requeue = True

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
        self._child: subprocess.Popen[bytes] | None = None
        self._attempt: Attempt | None = None
        self._log_start = self._oom_kills = 0

    @classmethod
    def of(cls, request: JobRequest, profile: Profile) -> TrialJob:
        """The job of a request under a profile."""
        return cls(**job_settings(request, profile))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_child": None, "_attempt": None}

    def __call__(self) -> str:
        """Run the trial unless it is complete; the state it ended in."""
        me = LockHolder(self._job_id(), _node(), _now(), queue_job() is not None)
        try:
            with trial_lock(self.directory, me, self._say):
                if read_result(self.directory) is not None:
                    return TrialState.COMPLETED.value
                return self._run()
        except LockHeld as held:
            self._log_start = log_size(self.directory / LOG_FILE)
            self._start()
            return self._finish(Verdict(TrialState.INFRA_FAILED, True, False, str(held)))

    def checkpoint(self) -> submitit.helpers.DelayedSubmission | None:
        """Return the requeue, or None to end here.

        submitit calls it on SIGUSR2: at a preemption, or near the time limit.
        """
        deadline = time.monotonic() + self.grace_seconds * 0.7
        self._tell_child(signal.SIGTERM)  # first: a preemption may leave only seconds
        cause = self._stop_cause()
        self._wait_for_child(deadline - time.monotonic())
        verdict = blame(AttemptEnd(stopped=cause, began=self._began()))
        self._finish(verdict, cause)
        attempts = self._counted_attempts()
        if cause == "time limit":
            over = count_state(attempts, TrialState.TIMEOUT) > self.max_timeouts
        else:
            over = count_state(attempts, TrialState.PREEMPTED) > self.limits.max_preemptions
        return None if over or not self.requeue else submitit.helpers.DelayedSubmission(self)

    def _stop_cause(self) -> Stop:
        attempt = self._attempt
        began = datetime.fromisoformat(attempt.started) if attempt else datetime.now(UTC)
        job_id = os.environ.get("SLURM_JOB_ID", "")
        return stop_cause(
            show_job(job_id, timeout=max(1.0, self.grace_seconds * 0.3)) if job_id else {},
            os.environ if job_id else {},
            now=time.time(),
            elapsed=(datetime.now(UTC) - began).total_seconds(),
            limit_seconds=self.limit_seconds,
            grace_seconds=self.grace_seconds,
        )

    def _run(self) -> str:
        for name in (FAULT_FILE, PHASE_FILE):
            (self.directory / name).unlink(missing_ok=True)
        self._log_start = log_size(self.directory / LOG_FILE)
        self._oom_kills = oom_kills()
        self._start()
        with scratch_directory(self.cache) as scratch:
            problem = self._node_problem(scratch)
            if problem is not None:
                end = AttemptEnd(stopped="preflight", problem=problem, node=_node())
                return self._finish(blame(end), "preflight")
            return self._run_command([part.replace(SCRATCH, str(scratch)) for part in self.command])

    def _node_problem(self, scratch: Path) -> str | None:
        in_container = any(SCRATCH in part for part in self.command)
        return node_problem(
            self.directory,
            scratch,
            self.needs,
            gpus=self.gpus,
            # Engines on the host keep their caches in the home directory.
            scratch_bytes=SCRATCH_BYTES if in_container else 0,
        )

    def _run_command(self, command: list[str]) -> str:
        try:
            code = self._execute(command)
        except OSError as error:
            # Of the program, or of a file that is looked at while it runs.
            where = error.filename or command[0]
            end = AttemptEnd(problem=f"{where}: {error.strerror}", node=_node())
            return self._finish(blame(end))
        except _LimitPassed as limit:
            return self._finish(*self._verdict(None, limit.overrun))
        except UncompletedJobError:
            raise  # the checkpoint has recorded how it ended
        except BaseException:
            self._stop_child(0.7)
            self._finish(blame(AttemptEnd(stopped="signal")), "signal")
            raise
        return self._finish(*self._verdict(code, None))

    def _execute(self, command: list[str]) -> int:
        """Run the command to its end; its exit code."""
        child = self._start_child(command)
        # Polling, not wait(): submitit's signal handler runs on this thread and polls the same
        # child.
        while child.poll() is None:
            time.sleep(0.1)
            self._check_progress()
        return child.returncode

    def _start_child(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.directory / LOG_FILE).open("ab") as log:
            self._child = subprocess.Popen(
                command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        now = time.monotonic()
        self._watch, self._next_look = Watch(self.limits, now), now
        self._sight = TrialSight(self.directory, self._child.pid, on_gpu=self.gpus > 0)
        return self._child

    def _check_progress(self) -> None:
        """Raise `_LimitPassed` when the trial's engine does not start or does nothing."""
        now = time.monotonic()
        if now < self._next_look:
            return
        shortest = min(self.limits.start_seconds, self.limits.stall_seconds)
        self._next_look = now + min(_LOOK_S, shortest / 10)
        overrun = self._watch.look(self._sight.take(), now)
        if overrun is not None:
            self._stop_child(self.grace_seconds * 0.7)
            raise _LimitPassed(overrun)

    def _verdict(self, code: int | None, overrun: Overrun | None) -> tuple[Verdict, Stop | None]:
        """What the end of the command means."""
        stop = overrun.stop if overrun else None
        if read_result(self.directory) is not None:
            return Verdict(TrialState.COMPLETED, False, False, ""), None
        earlier = self._counted_attempts()[:-1]
        log = read_end(self.directory / LOG_FILE, self._log_start)
        fault = read_fault(self.directory)
        verdict = blame(
            AttemptEnd(
                exit_code=code,
                fault=fault,
                log=log,
                node=_node(),
                began=self._began(),
                stopped=stop,
                problem=overrun.problem if overrun else "",
                stops_before=sum(a.stopped in ("start limit", "stall limit") for a in earlier),
                oom_killed=oom_kills() > self._oom_kills,
            )
        )
        if fault is None:
            verdict = replace(
                verdict,
                explanation=f"{verdict.explanation}; {last_lines(self.directory / LOG_FILE, log)}",
            )
        return verdict, stop

    def _counted_attempts(self) -> list[Attempt]:
        """The attempts that count against the trial's limits."""
        return read_attempts(self.directory)[self.earlier_attempts :]

    def _began(self) -> bool:
        return read_phase(self.directory) is not None

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.env, **granted_devices()}

    def _start(self) -> None:
        attempts = read_attempts(self.directory)
        self._attempt = Attempt(
            number=max((attempt.number for attempt in attempts), default=0) + 1,
            job_id=self._job_id(),
            node=_node(),
            gpus=self.gpus,
            devices=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            started=_now(),
            log_start=self._log_start,
        )
        write_attempt(self.directory, self._attempt)

    def _finish(self, verdict: Verdict, stopped: Stop | None = None) -> str:
        if self._attempt is not None and self._attempt.finished is None:
            self._attempt = replace(
                self._attempt,
                finished=_now(),
                state=verdict.state.value,
                error=verdict.explanation or None,
                retry=verdict.retry,
                node_fault=verdict.exclude_node,
                stopped=stopped,
            )
            write_attempt(self.directory, self._attempt)
            self._say(f"{self.directory.name}: {verdict.state}: {verdict.explanation}")
        return verdict.state.value

    def _say(self, text: str) -> None:
        """Print to submitit's log of the job.

        It is all that is left if the record does not reach the controller.
        """
        print(text, file=sys.stderr)

    def _job_id(self) -> str:
        """The id under which the scheduler knows this job."""
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        if array:
            return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        return os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID", "")

    def _tell_child(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def _stop_child(self, patience: float) -> None:
        """Send SIGTERM, so that the trial stores its samples, then SIGKILL.

        SIGKILL follows if it does not end in ``patience`` seconds.
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


class _LimitPassed(Exception):
    """A limit of the job's own has passed; the child has been stopped."""

    def __init__(self, overrun: Overrun) -> None:
        super().__init__(overrun.problem)
        self.overrun = overrun


def die_with_parent() -> None:
    """In the child: end when the job process dies without having stopped it (prctl(2), Linux)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


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
        "earlier_attempts": request.earlier_attempts,
        "limits": Limits(
            start_seconds=profile.start_minutes * 60,
            stall_seconds=profile.stall_minutes * 60,
            max_preemptions=profile.max_preemptions,
        ),
    }


def _node() -> str:
    """This node, by the name that Slurm knows it under."""
    return os.environ.get("SLURMD_NODENAME", socket.gethostname())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
