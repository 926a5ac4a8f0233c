"""A model that the run serves itself: the job on the node, and who starts and stops it.

The job (``python -m agenttts.serving.job DIR`` here, `ServeJob` on Slurm) picks a free port, starts the server as its
child and writes down where it listens. In ``DIR``:

- ``serve.json``: what to serve and how;
- ``key``: the API key, readable by the user alone; it reaches the server in its environment;
- ``address.json``: where it listens, present while it runs;
- ``lease``: touched by the controller; when that stops for long, the job ends by itself;
- ``log.txt``: the server's log.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from agenttts.dispatch.apptainer import SCRATCH, granted_devices
from agenttts.dispatch.base import JobStatus
from agenttts.dispatch.node.job import die_with_parent
from agenttts.dispatch.node.scratch import CompileCache, scratch_directory
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.slurm.queue import lives, rows_with_comment, run_slurm
from agenttts.dispatch.slurm.request import JobNeeds
from agenttts.dispatch.slurm.stuck_jobs import PatientQueue
from agenttts.dispatch.slurm.submission import outer_environment, slurm_executor, submission_errors
from agenttts.files.atomic import atomic_write_json
from agenttts.files.documents import parse_json
from agenttts.files.processes import command_line, end_process, pids

SERVE_FILE = "serve.json"
KEY_FILE = "key"
ADDRESS_FILE = "address.json"
LEASE_FILE = "lease"
LOG_FILE = "log.txt"
PORT = "{port}"
KEY_VARIABLE = "VLLM_API_KEY"

_PATIENCE_S = 10.0
_PROGRAM = b"agenttts.serving.job"


@dataclass(frozen=True)
class Serving:
    """What the job needs to know. ``command`` holds `PORT` where the port goes; ``env`` is the child's further
    environment, ``key_variables`` the names under which it gets the key; ``cache``, if any, are the fields of a `CompileCache`; ``lease_seconds``: how long the job goes on
    without a sign of the controller."""

    command: Sequence[str]
    env: Mapping[str, str]
    key_variables: Sequence[str]
    host: str
    lease_seconds: float
    name: str
    model: Mapping[str, Any]
    cache: Mapping[str, str] | None = None


@dataclass(frozen=True)
class ServerAddress:
    """Where a server listens. ``hosts`` are the names and addresses of its node, ``job`` who runs it."""

    hosts: tuple[str, ...]
    node: str
    port: int
    job: str
    started: str


def write_serving(directory: Path, serving: Serving) -> None:
    """Make the directory, with a new key in it."""
    directory.mkdir(exist_ok=True)
    write_key(directory)
    atomic_write_json(directory / SERVE_FILE, asdict(serving))


def write_key(directory: Path) -> None:
    """A new random key, unless there is one: readable by the user alone from its first byte on."""
    with suppress(FileExistsError):
        descriptor = os.open(directory / KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(32))


def read_address(directory: Path) -> ServerAddress | None:
    """Where the server listens, None while it does not run."""
    try:
        values = parse_json((directory / ADDRESS_FILE).read_bytes())
        return ServerAddress(**{**values, "hosts": tuple(values["hosts"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def log_tail(directory: Path, lines: int = 5) -> str:
    """The end of the server's log in one line."""
    try:
        text = (directory / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "no log"
    return " | ".join(text.strip().splitlines()[-lines:]) or "the log is empty"


class ServeJob:
    """What submitit runs on Slurm. It is not requeued: the controller starts another when it needs one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self) -> int:
        return serve(self.directory)

    def checkpoint(self) -> None:
        """Called by submitit on SIGUSR2 (preemption, or the time limit is near): None means to end here."""
        return


def serve(directory: Path) -> int:
    """Serve until told to stop, or until the controller gives no sign of life; the server's exit code."""
    signal.signal(signal.SIGTERM, _stop)
    document = json.loads((directory / SERVE_FILE).read_text(encoding="utf-8"))
    serving = Serving(**document)
    key = (directory / KEY_FILE).read_text(encoding="utf-8")
    job = os.environ.get("SLURM_JOB_ID") or str(os.getpid())
    port = _free_port(serving.host)
    address = ServerAddress(_hosts(serving.host), socket.gethostname(), port, job, _now())
    env = {**os.environ, **granted_devices(), **serving.env}
    env |= dict.fromkeys(serving.key_variables, key)
    kept = (
        CompileCache(Path(serving.cache["directory"]), serving.cache["image"])
        if serving.cache
        else None
    )
    with (
        scratch_directory(kept) as scratch,
        (directory / LOG_FILE).open("ab") as log,
    ):
        command = [
            p.replace(SCRATCH, str(scratch)).replace(PORT, str(port)) for p in serving.command
        ]
        child = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
        try:
            atomic_write_json(directory / ADDRESS_FILE, asdict(address))
            _watch(child, directory / LEASE_FILE, serving.lease_seconds)
        finally:
            _end(child)
            found = read_address(directory)
            if found is not None and found.job == job:
                (directory / ADDRESS_FILE).unlink(missing_ok=True)
    return child.returncode


class Server(Protocol):
    """Starts and stops the job that serves a model.

    Contract: `start` returns the job's id; `find` the id of a job of this run that lives, whoever started it; `stop`
    may be called for a job that has ended. `every` are all such jobs, those too that should not be there any more.
    """

    def start(self) -> str: ...

    def find(self) -> str | None: ...

    def every(self) -> list[str]: ...

    def state(self, job: str) -> JobStatus: ...

    def stop(self, job: str) -> None: ...


class LocalServer:
    """A child of this process, and not outliving it."""

    def __init__(self, directory: Path, devices: Sequence[int] = ()) -> None:
        self._directory = directory
        self._devices = devices
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        env = dict(os.environ)
        if self._devices:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self._devices))
        with (self._directory / LOG_FILE).open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", os.fsdecode(_PROGRAM), str(self._directory)],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        return str(self._child.pid)

    def find(self) -> str | None:
        return str(self._child.pid) if self._child and self._child.poll() is None else None

    def every(self) -> list[str]:
        """The child, and what an earlier controller's death has left."""
        wanted = {_PROGRAM, os.fsencode(self._directory)}
        return [pid for pid in pids() if wanted <= set(command_line(pid).split(b"\0"))]

    def state(self, job: str) -> JobStatus:
        alive = self.find() == job
        return JobStatus("RUNNING" if alive else "ENDED", ended=not alive)

    def stop(self, job: str) -> None:
        if self._child is not None and self.find() == job:
            _end(self._child, patience=2 * _PATIENCE_S)
        elif job in self.every():
            end_process(int(job), patience=2 * _PATIENCE_S)


class SlurmServer:
    """A GPU job in the partition of the trials. ``token`` is unique to the run.

    One that waits for what will not come by itself is cancelled after the profile's patience, as a trial's job is.
    """

    def __init__(
        self, directory: Path, profile: Profile, folder: Path, *, run: str, token: str, gpus: int
    ) -> None:
        self._directory = directory
        self._profile = profile
        self._folder = folder
        self._run = run
        self._mark = f"batch={token}-agent"
        self._gpus = gpus
        self._queue = PatientQueue(profile.never_patience_minutes * 60)

    def start(self) -> str:
        needs = JobNeeds(
            name=f"llm-{self._run}",
            comment=f"agenttts run={self._run} agent {self._mark}",
            gpus=self._gpus,
            grace_seconds=self._profile.grace_seconds,
            # When its node is lost the controller starts another: two of one run would share an address file.
            requeue=False,
        )
        executor = slurm_executor(self._folder, self._profile, self._profile.trial, needs)
        with submission_errors(), outer_environment():
            [job] = executor.submit_each(
                [ServeJob(self._directory)], f"agent-{secrets.token_hex(4)}"
            )
        return job

    def find(self) -> str | None:
        return next(iter(self.every()), None)

    def every(self) -> list[str]:
        return [job for job, row in rows_with_comment(self._mark).items() if lives(row)]

    def state(self, job: str) -> JobStatus:
        return self._queue.poll([job])[job]

    def stop(self, job: str) -> None:
        run_slurm(["scancel", job])


def _watch(child: subprocess.Popen[bytes], lease: Path, lease_seconds: float) -> None:
    """Until the server ends, a signal stops this job, or the lease has not been renewed for too long."""
    seen, since = _renewed(lease), time.monotonic()
    while child.poll() is None:
        # The time of the renewal is compared with nothing but itself: clocks of nodes differ.
        if (renewed := _renewed(lease)) != seen:
            seen, since = renewed, time.monotonic()
        if time.monotonic() - since > lease_seconds:
            print(f"no sign of the controller for {lease_seconds:g} s: ending", flush=True)
            return
        time.sleep(0.2)


def _renewed(lease: Path) -> int:
    try:
        return lease.stat().st_mtime_ns
    except OSError:
        return 0


def _end(child: subprocess.Popen[bytes], patience: float = _PATIENCE_S) -> None:
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(patience)
    if child.poll() is None:
        child.kill()
        child.wait()


def _stop(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def _free_port(host: str) -> int:
    """A port that is free now. Another may take it before the server does: the job then ends and is started again."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _hosts(bound: str) -> tuple[str, ...]:
    """Under which names and addresses other nodes may reach this one."""
    if bound != "0.0.0.0":
        return (bound,)
    names = [socket.getfqdn(), socket.gethostname()]
    with suppress(OSError):
        names += socket.gethostbyname_ex(socket.gethostname())[2]
    return tuple(dict.fromkeys(name for name in names if name))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1])))
