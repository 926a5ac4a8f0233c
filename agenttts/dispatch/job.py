"""The job on the node: runs the trial's command as a child and writes down how it went.

It runs on the host's Python under submitit (it must be able to call ``scontrol``); the child is usually
``apptainer exec ... python -m agenttts.trial``. One record an attempt, ``attempts/NN.json``, is written at the start
and completed at the end, so that an attempt whose node was lost is still counted.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import submitit
from submitit.core.utils import UncompletedJobError

from agenttts.dispatch.apptainer import SCRATCH, granted_devices
from agenttts.dispatch.scratch import CompileCache, scratch_directory
from agenttts.tables.atomic import atomic_write_json
from agenttts.tables.schema import TrialState
from agenttts.trial.result import FAULT_FILE, read_fault, read_result

LOG_FILE = "log.txt"
ATTEMPTS = "attempts"
LOCK_FILE = "lock"
# submitit's own count of time-outs takes every preemption of a short job for one; the jobs count for themselves.
NEVER = 10**6
_PR_SET_PDEATHSIG = 1
# Loaded here, not between fork and exec: there another thread's lock on the loader would never be released.
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Attempt:
    """One start of a trial. Times are ISO-8601 UTC; ``finished`` is None when the attempt was cut off."""

    number: int
    job_id: str
    node: str
    gpus: int
    devices: str
    started: str
    finished: str | None = None
    state: str | None = None
    error: str | None = None

    @property
    def seconds(self) -> float:
        """Wall seconds, 0 when the end is not known."""
        if self.finished is None:
            return 0.0
        start, end = datetime.fromisoformat(self.started), datetime.fromisoformat(self.finished)
        return (end - start).total_seconds()


def read_attempts(directory: Path) -> list[Attempt]:
    """The attempts of a trial so far, oldest first."""
    files = sorted((directory / ATTEMPTS).glob("*.json"))
    return [Attempt(**json.loads(path.read_text(encoding="utf-8"))) for path in files]


class TrialJob:
    """What submitit runs: the trial's command, once to its end.

    ``limit_seconds`` is the job's time limit and ``max_timeouts`` how often reaching it may requeue the job: the
    sample store keeps what was drawn, so the next attempt goes on from there.
    """

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
    ) -> None:
        self.directory = directory
        self.command = command
        self.env = dict(env)
        self.gpus = gpus
        self.limit_seconds = limit_seconds
        self.grace_seconds = grace_seconds
        self.max_timeouts = max_timeouts
        self.cache = cache
        self._child: subprocess.Popen[bytes] | None = None
        self._attempt: Attempt | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_child": None, "_attempt": None}

    def __call__(self) -> str:
        """Run the trial unless it is complete; the state it ended in."""
        with _locked(self.directory):
            if read_result(self.directory) is not None:
                return TrialState.COMPLETED.value
            return self._run()

    def checkpoint(self) -> submitit.helpers.DelayedSubmission | None:
        """Called by submitit on SIGUSR2 (preemption, or the time limit is near): requeue, or None to end here."""
        attempt = self._attempt
        began = datetime.fromisoformat(attempt.started) if attempt else datetime.now(UTC)
        elapsed = (datetime.now(UTC) - began).total_seconds()
        # Slurm looks at limits about every 30 s, and the signal may come up to a minute early (sbatch --signal).
        timed_out = elapsed >= self.limit_seconds - self.grace_seconds - 60
        self._stop_child(self.grace_seconds * 0.7)
        self._finish(TrialState.TIMEOUT if timed_out else TrialState.PREEMPTED, None)
        earlier = [a for a in read_attempts(self.directory) if a.state == TrialState.TIMEOUT]
        if timed_out and len(earlier) > self.max_timeouts:
            return None
        return submitit.helpers.DelayedSubmission(self)

    def _run(self) -> str:
        (self.directory / FAULT_FILE).unlink(missing_ok=True)
        self._start()
        with scratch_directory(self.cache) as scratch:
            return self._run_command([part.replace(SCRATCH, str(scratch)) for part in self.command])

    def _run_command(self, command: list[str]) -> str:
        try:
            code = self._execute(command)
        except OSError as error:
            return self._finish(TrialState.INFRA_FAILED, f"{command[0]}: {error.strerror}")
        except UncompletedJobError:
            raise  # the checkpoint has recorded how it ended
        except BaseException:
            self._stop_child(0.7)
            self._finish(TrialState.CANCELLED, None)
            raise
        return self._finish(*self._verdict(code))

    def _execute(self, command: list[str]) -> int:
        """Run the command to its end; its exit code."""
        child = self._start_child(command)
        # Polling, not wait(): submitit's signal handler runs on this thread and polls the same child.
        while child.poll() is None:
            time.sleep(0.1)
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
        return self._child

    def _verdict(self, code: int) -> tuple[TrialState, str | None]:
        if read_result(self.directory) is not None:
            return TrialState.COMPLETED, None
        fault = read_fault(self.directory)
        if fault is not None:
            return TrialState(fault.kind), fault.message
        tail = self._log_tail()
        if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return (
                TrialState.OOM,
                f"the trial was killed (SIGKILL), as when memory runs out; {tail}",
            )
        if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            return TrialState.CANCELLED, f"the trial was ended by SIGTERM; {tail}"
        return TrialState.FAILED, f"the trial's command ended with exit code {code}; {tail}"

    def _log_tail(self) -> str:
        path = self.directory / LOG_FILE
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
        return f"end of {path}: {' | '.join(lines)}" if lines else f"{path} is empty"

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.env, **granted_devices()}

    def _start(self) -> None:
        self._attempt = Attempt(
            number=len(read_attempts(self.directory)) + 1,
            job_id=self._job_id(),
            node=os.environ.get("SLURMD_NODENAME", socket.gethostname()),
            gpus=self.gpus,
            devices=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            started=_now(),
        )
        self._write(self._attempt)

    def _finish(self, state: TrialState, error: str | None) -> str:
        if self._attempt is not None and self._attempt.finished is None:
            self._attempt = replace(self._attempt, finished=_now(), state=state.value, error=error)
            self._write(self._attempt)
        return state.value

    def _job_id(self) -> str:
        """The id under which the dispatcher knows this job."""
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        if array:
            return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        return os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID", "")

    def _write(self, attempt: Attempt) -> None:
        folder = self.directory / ATTEMPTS
        folder.mkdir(exist_ok=True)
        atomic_write_json(folder / f"{attempt.number:02}.json", asdict(attempt))

    def _stop_child(self, patience: float) -> None:
        """SIGTERM, so that the trial stores its samples; SIGKILL when it does not end in ``patience`` seconds."""
        child = self._child
        if child is None or child.poll() is not None:
            return
        child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + patience
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if child.poll() is None:
            child.kill()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the trial's lock: two jobs never run one trial at once, whatever submitted them.

    A job that finds it taken waits: should the other one be lost, it is there to go on from its samples.
    """
    with (directory / LOCK_FILE).open("w") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.2)
                continue
            except OSError:  # a file system without locks: the queue alone keeps jobs apart
                pass
            break
        yield


def die_with_parent() -> None:
    """In the child: end when the job process dies without having stopped it (prctl(2), Linux)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
