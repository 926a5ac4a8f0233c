"""Starts of a controller: one command at a time, and one valid start.

Every start of a controller has a token, which is on disk (``controller.json``) before the
controller is a job or a process. A controller continues while that file names its own start and
does not mark it as cancelled. A cancel names the start that it cancels, so it does not end a later
one. It also works if no signal arrives, e.g. while slurmctld is down.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime

from agenttts.dispatch.own_job import cluster_name, queue_job
from agenttts.errors import AgentTTSError, RunFailed, UserError, cli_command
from agenttts.files.atomic import atomic_write_json
from agenttts.files.documents import parse_json, typed
from agenttts.files.locks import LockBusy, locked, write_holder
from agenttts.files.repeated_calls import repeated_calls
from agenttts.run.directory import RunDirectory, RunGone
from agenttts.run.record import INCOMPLETE

log = logging.getLogger(__name__)

# A cancel waits for a controller to end, sbatch for an answer.
_COMMAND_PATIENCE_S = 300.0
_CONTROLLER_PATIENCE_S = 30.0
# Seconds between two signs of a controller.
_SIGN_S = 60.0
# In the text of the run's lock; the name of the holder's cluster follows.
_CLUSTER = ", cluster "


class RunRemoved(RunGone):
    """The run was removed or renamed before a command held its lock."""


class RunCancelled(AgentTTSError):
    """This start of the controller has been cancelled."""


class StartSuperseded(RunFailed):
    """Another start of the controller has taken this one's place."""


@dataclass(frozen=True)
class _WrittenHandle:
    """The keys that the file of every version has."""

    kind: str
    job_id: str | int | None


@dataclass(frozen=True)
class ControllerHandle:
    """A start of the controller, and its job.

    ``job_id`` is None until it is known. ``kind`` is the name of the scheduler that started it,
    which defines the meaning of the other fields (`agenttts.dispatch.service.Service`).
    ``start`` is its token; '' if an older version wrote it.
    """

    kind: str
    job_id: str | None = None
    start: str = field(default_factory=lambda: secrets.token_hex(4))
    host: str = field(default_factory=socket.gethostname)
    cancelled: bool = False
    identity: str | None = None
    """What tells its process from a later one with the same pid
    (`agenttts.files.processes.process_identity`).
    """
    cluster: str = ""
    """The cluster that has the run's jobs; '' without a queue, and where it is not known."""
    user: str = ""
    """The user that started it; '' if an older version wrote the file."""
    earlier_users: tuple[str, ...] = ()
    """Other users that have started a controller of the run, whose jobs may run still."""
    path: str = ""
    """The run's directory at the start; '' if an older version wrote the file."""


def read_handle(run: RunDirectory) -> ControllerHandle | None:
    """Return the last start of the controller; None before the first.

    Raises:
        UserError: The file cannot be read, or lacks keys.
    """
    path = run.controller_file
    try:
        document = parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); {INCOMPLETE}") from None
    try:
        typed(_WrittenHandle, document)
    except ValueError as error:
        wanted = ", ".join(key.name for key in fields(_WrittenHandle))
        raise UserError(
            f"{path}: an object with the keys {wanted} is expected ({error}); {INCOMPLETE}"
        ) from None
    known = {field.name for field in fields(ControllerHandle)}
    values = {"start": "", "host": ""} | {k: v for k, v in document.items() if k in known}
    job_id = values["job_id"]
    values["job_id"] = None if job_id is None else str(job_id)
    values["earlier_users"] = tuple(values.get("earlier_users", ()))
    return ControllerHandle(**values)


def write_handle(run: RunDirectory, handle: ControllerHandle) -> None:
    """Make this the valid start. For callers within `one_command`."""
    atomic_write_json(run.controller_file, vars(handle))


class StartCheck:
    """Raises `RunCancelled` or `StartSuperseded` if a start has to end."""

    def __init__(self, run: RunDirectory, start: str) -> None:
        self._run = run
        self._start = start
        self._warned = ""

    def __call__(self) -> None:
        try:
            handle = read_handle(self._run)
        except UserError as error:  # a file system's trouble of a moment must not end the run
            if str(error) != self._warned:
                log.warning("%s", error)
            self._warned = str(error)
            return
        if handle is None or not self._start:
            return
        if handle.start != self._start:
            raise StartSuperseded(
                f"a newer controller of {self._run.path} has been started (job {handle.job_id}); "
                "this one ends"
            )
        if handle.cancelled:
            raise RunCancelled(f"run {self._run.path} has been cancelled")


class ControllerSign:
    """A controller's sign of life: a file that it touches while it lives.

    The next controller records the time of the last sign. So it is known when a controller ended
    that was killed.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._file = run.sign_file

    def last(self) -> str | None:
        """Return the time of the last sign (ISO 8601); None if there was none."""
        try:
            seconds = self._file.stat().st_mtime
        except OSError:
            return None
        return datetime.fromtimestamp(seconds, UTC).isoformat()

    def given(self) -> AbstractContextManager[None]:
        """Return a context in which signs are given.

        They are also given while its thread waits or computes.
        """
        return repeated_calls(self._give, _SIGN_S, name="sign of life", at_once=True)

    def _give(self) -> None:
        with suppress(OSError):  # it is for the report alone
            self._file.touch()


@contextmanager
def one_command(run: RunDirectory, what: str) -> Iterator[None]:
    """Hold the run's lock of commands: launch, resume or cancel; ``what`` is this one.

    Raises:
        RunRemoved: The run is not there any more.
        RunFailed: Another command does not end.
    """
    try:
        with locked(run.command_lock_file, _COMMAND_PATIENCE_S) as stream:
            me = f"{what} on {socket.gethostname()}, process {os.getpid()}, since {_moment()}"
            write_holder(stream, me)
            yield
            with suppress(OSError):  # a full disk; what it says is for people
                stream.truncate(0)
    except LockBusy as busy:
        raise RunFailed(
            f"another command is changing {run.path} ({busy.holder or 'its name is not known'}) "
            f"and has not ended within {_COMMAND_PATIENCE_S:g} s; try again when it has ended; if "
            f"that process or its host no longer exists, remove {run.command_lock_file} first"
        ) from None
    except FileNotFoundError:
        if run.exists:
            raise
        raise RunRemoved(run.path, "was removed or moved") from None


@contextmanager
def only_controller(run: RunDirectory) -> Iterator[None]:
    """Hold the run's lock, so that two controllers do not write one journal.

    On a file system without locks the start's token and, on Slurm, the job's dependency keep them
    apart.

    Raises:
        RunFailed: another controller holds the lock, or did when its host crashed.
    """
    try:
        with locked(run.lock_file, _CONTROLLER_PATIENCE_S, _is_own_earlier_start) as stream:
            cluster = cluster_name()
            where = f"{_CLUSTER}{cluster}" if cluster else ""
            me = f"{_holder_name()} on {socket.gethostname()}, since {_moment()}{where}"
            write_holder(stream, me)
            yield
    except LockBusy as busy:
        raise RunFailed(
            f"another controller of {run.path} is running "
            f"({busy.holder or 'its name is not known'}); if that job or its host no longer "
            f"exists, remove {run.lock_file} and run '{cli_command('resume', run.path)}'"
        ) from None


def _holder_name() -> str:
    """Return the text that names this process in the run's lock."""
    job = queue_job()
    return f"job {job}" if job else f"process {os.getpid()}"


def _is_own_earlier_start(holder: str) -> bool:
    """Return whether an earlier start of this job, on a crashed host, has the lock.

    A queue runs a job in one place at a time. A job of another cluster may have the same number.
    """
    job = queue_job()
    cluster, (_, _, other) = cluster_name(), holder.strip().partition(_CLUSTER)
    if cluster and other and cluster != other:
        return False
    earlier = job is not None and holder.startswith(f"job {job} on ")
    if not earlier or holder.startswith(f"job {job} on {socket.gethostname()},"):
        return False
    log.warning(
        "the run's lock belongs to an earlier start of this job and is taken over: %s", holder
    )
    return True


def _moment() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
