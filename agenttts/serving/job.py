"""A model that the run serves itself: the job on the node.

The job (`ServeJob`, a service of the run's scheduler) picks a free port, starts the server as its
child and writes its address. The files in ``DIR``:

- ``serve.json``: what to serve and how;
- ``key``: the API key, readable by the user alone; it reaches the server in its environment;
- ``address.json``: where it listens, present while it runs;
- ``ready.json``: the same once it answers there, and since when;
- ``lease``: touched by the controller; the job ends if this has not happened for long;
- ``log.txt``: the server's log;
- ``job_starts/``: what each job used of its node (`agenttts.dispatch.job_starts`).
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from agenttts.dispatch.apptainer import (
    container_env,
    device_order,
    granted_devices,
    in_container,
    with_scratch,
)
from agenttts.dispatch.job_starts import JobStart, next_number, write_job_start
from agenttts.dispatch.node.preflight import SCRATCH_BYTES, node_problem
from agenttts.dispatch.node.scratch import (
    CompileCache,
    NoScratchDirectory,
    discard_compiled,
    host_caches,
    scratch_directory,
)
from agenttts.dispatch.own_job import node_name, say, service_id
from agenttts.dispatch.service import ServiceRequest
from agenttts.dispatch.service_job import EndingJob
from agenttts.files.atomic import atomic_write_json
from agenttts.files.documents import parse_json
from agenttts.files.processes import die_with_parent
from agenttts.files.signals import signals_held
from agenttts.inference.ranks import without_rank
from agenttts.serving.probe import answers, base_url

SERVE_FILE = "serve.json"
KEY_FILE = "key"
ADDRESS_FILE = "address.json"
READY_FILE = "ready.json"
LEASE_FILE = "lease"
LOG_FILE = "log.txt"
UNUSABLE_NODE = 3
"""Exit code of a job whose node cannot run its server."""
PORT = "{port}"
KEY_VARIABLE = "VLLM_API_KEY"

_ANY = "0.0.0.0"
"""Where a server listens that other hosts have to reach: at all addresses of its node."""
_PATIENCE_S = 10.0
_ASK_S = 2.0
"""Seconds between two looks whether the server answers."""
_RECORD_S = 60.0
"""Seconds between two records of what a job has used: a killed one counts up to the last."""


@dataclass(frozen=True)
class Serving:
    """What the job needs to know.

    Attributes:
        command: The server's command, with `PORT` in place of the port.
        env: Additional environment of the child process.
        key_variables: The variables that hold the key for the child process.
        cache: The fields of a `CompileCache`, if there is one.
        lease_seconds: Seconds for which the job continues after the lease was last renewed.
        needs: Files and directories that its node must see.
    """

    command: Sequence[str]
    env: Mapping[str, str]
    key_variables: Sequence[str]
    host: str
    lease_seconds: float
    name: str
    model: Mapping[str, Any]
    cache: Mapping[str, str] | None = None
    needs: Sequence[str] = ()


@dataclass(frozen=True)
class ServerAddress:
    """Where a server listens.

    ``hosts`` are the names and addresses of its node, ``job`` who runs it. ``ready`` is when it
    first answered on its node; None before, and if a version without this field wrote it. The
    addresses of the node's interfaces are added then: nothing answers before, and to ask at each
    may take seconds, because other hosts have no way to some of them.
    """

    hosts: tuple[str, ...]
    node: str
    port: int
    job: str
    started: str
    ready: str | None = None


def write_serving(directory: Path, serving: Serving) -> None:
    """Make the directory, with a new key in it."""
    directory.mkdir(exist_ok=True)
    write_key(directory)
    atomic_write_json(directory / SERVE_FILE, asdict(serving))


def write_key(directory: Path) -> None:
    """Write a new random key, unless there is one.

    Only the user can read the file, from its creation on. An empty file, which a full disk leaves,
    is no key: the server would listen without one.
    """
    path = directory / KEY_FILE
    with suppress(FileNotFoundError):
        if not path.read_text(encoding="utf-8"):
            path.unlink()
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(32))


def read_address(directory: Path) -> ServerAddress | None:
    """Return where the server listens; None while it does not run."""
    try:
        values = _known_values(directory / ADDRESS_FILE)
        address = ServerAddress(**{**values, "hosts": tuple(values["hosts"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    try:
        ready = _known_values(directory / READY_FILE)
        is_its = (ready["job"], ready["started"]) == (address.job, address.started)
        # A killed job may have left the file.
        return ServerAddress(**{**ready, "hosts": tuple(ready["hosts"])}) if is_its else address
    except (OSError, ValueError, TypeError, KeyError):
        return address


def _known_values(file: Path) -> dict[str, Any]:
    """Return what a file says of an address; a later version may say more."""
    document = parse_json(file.read_bytes())
    if not isinstance(document, dict):
        raise TypeError(f"{file}: not an object")
    return {key.name: document[key.name] for key in fields(ServerAddress) if key.name in document}


def log_tail(directory: Path, lines: int = 5) -> str:
    """Return the end of the server's log in one line."""
    try:
        text = (directory / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "no log"
    return " | ".join(text.strip().splitlines()[-lines:]) or "the log is empty"


class ServeJob(EndingJob):
    """The function of the job.

    It is not requeued. The controller starts another job when it needs one.
    """

    # A default for jobs in the queue that an older version pickled.
    submitted: str | None = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "submitted": _now()}  # it is pickled when it is submitted

    def __call__(self) -> int:
        return serve(self.directory, self.submitted)


def service_request(directory: Path, *, run: str, token: str, gpus: int) -> ServiceRequest:
    """Return the job that serves a run's model from ``directory``.

    ``token`` is unique to the run.
    """
    return ServiceRequest(
        name=service_name(token),
        start="",
        function=ServeJob(directory),
        title=f"llm-{run}",
        comment=f"agenttts run={run} agent",
        section="trial",
        gpus=gpus,
        # When its node is lost the controller starts another: two of one run would share an address
        # file.
        requeue=False,
        ends_with_caller=True,
        log=directory / LOG_FILE,
    )


def service_name(token: str) -> str:
    """The name of the service, which all starts of a run's model have in common."""
    return f"{token}-agent"


def serve(directory: Path, submitted: str | None = None) -> int:
    """Serve until a signal stops the job or the lease expires; return the exit code.

    If the node cannot run the server, it is not started. The log then says what is wrong with the
    node, and the code is `UNUSABLE_NODE`.

    Args:
        directory: Where the model's files are.
        submitted: When the job was submitted; None if that is not known.
    """
    signal.signal(signal.SIGTERM, _stop)
    document = json.loads((directory / SERVE_FILE).read_text(encoding="utf-8"))
    serving = Serving(**document)
    key = (directory / KEY_FILE).read_text(encoding="utf-8")
    job = service_id()
    port = _free_port(serving.host)
    address = ServerAddress(_hosts(serving.host), socket.gethostname(), port, job, _now())
    gpus = int(serving.model.get("gpus") or 0)
    start = JobStart(
        number=next_number(directory),
        job_id=job,
        node=address.node,
        gpus=gpus,
        waited_since=submitted,
        started=address.started,
        written=address.started,
    )
    _record(directory, start)
    contained = in_container(serving.command)
    kept = (
        CompileCache(Path(serving.cache["directory"]), serving.cache["image"])
        if serving.cache
        else None
    )
    with (directory / LOG_FILE).open("ab") as output, ExitStack() as stack:
        stack.callback(lambda: _record(directory, start, ended=True))
        problem: str | None
        try:
            scratch = stack.enter_context(scratch_directory(kept))
        except NoScratchDirectory as error:
            problem = str(error)
        else:
            problem = node_problem(
                directory,
                scratch,
                [Path(path) for path in serving.needs],
                gpus=gpus,
                scratch_bytes=SCRATCH_BYTES if contained else 0,
            )
        if problem is not None:
            output.write(f"{address.node} cannot serve the model: {problem}\n".encode())
            return UNUSABLE_NODE
        caches = {} if kept is None or contained else host_caches(scratch)
        devices = granted_devices()
        env = {**device_order(), **without_rank(os.environ), **devices, **container_env(devices)}
        env |= {**caches, **serving.env}
        env |= dict.fromkeys(serving.key_variables, key)
        command = [part.replace(PORT, str(port)) for part in with_scratch(serving.command, scratch)]
        child: subprocess.Popen[bytes] | None = None
        stopped = False
        try:
            with signals_held():
                child = subprocess.Popen(
                    command,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    preexec_fn=die_with_parent,
                )
            _note_address(directory, address)
            _watch(
                child,
                directory / LEASE_FILE,
                serving.lease_seconds,
                lambda: _record(directory, start),
                lambda: _note_ready(directory, address, key, serving.host),
            )
        except SystemExit:  # of `_stop`, as the model is released
            stopped = True
        finally:
            if child is not None:
                _end(child)
            # It is recorded now, because to keep what was compiled may take long.
            _record(directory, start, ended=True)
            found = read_address(directory)
            if found is not None and found.job == job:
                (directory / ADDRESS_FILE).unlink(missing_ok=True)
                (directory / READY_FILE).unlink(missing_ok=True)
        code = 0 if child is None else child.returncode
        if code != 0:  # told to end, vLLM ends with 0 once it serves (0.32)
            discard_compiled(scratch)
    return 0 if stopped else code


def _record(directory: Path, start: JobStart, *, ended: bool = False) -> None:
    """Write what the job has used so far; it goes on without the record."""
    now = _now()
    try:
        write_job_start(directory, replace(start, written=now, finished=now if ended else None))
    except OSError as error:
        say(f"what the job used is not recorded: {error}")


def _note_address(directory: Path, address: ServerAddress) -> bool:
    """Write the address; return False if that is not possible at present."""
    # A controller of an older version, which may run still, reads no file with further keys.
    known = {key: value for key, value in asdict(address).items() if key != "ready"}
    try:
        atomic_write_json(directory / ADDRESS_FILE, known)
        if address.ready is not None:
            atomic_write_json(directory / READY_FILE, asdict(address))
    except OSError as error:
        say(f"the server's address is not noted yet: {error}")
        return False
    return True


def _note_ready(directory: Path, address: ServerAddress, key: str, bound: str) -> bool:
    """Return whether the server answers here and its address says so.

    The controller can then tell a server that it cannot reach from one that still loads its model.
    """
    if not answers(base_url("127.0.0.1", address.port), key):
        return False
    hosts = (*address.hosts, *(_addresses() if bound == _ANY else ()))
    ready = replace(address, hosts=tuple(dict.fromkeys(hosts)), ready=_now())
    return _note_address(directory, ready)


def _watch(
    child: subprocess.Popen[bytes],
    lease: Path,
    lease_seconds: float,
    record: Callable[[], None],
    is_ready: Callable[[], bool] = lambda: True,
) -> None:
    """Wait until the server ends, a signal stops this job, or the lease is too old.

    ``record`` is called from time to time, and so is ``is_ready`` until it is true.
    """
    seen, since = _renewed(lease), time.monotonic()
    recorded = asked = since
    ready = False
    while child.poll() is None:
        if not ready and time.monotonic() - asked > _ASK_S:
            ready = is_ready()
            asked = time.monotonic()
        if time.monotonic() - recorded > _RECORD_S:
            record()
            recorded = time.monotonic()
        # The time of the renewal is compared with nothing but itself: clocks of nodes differ.
        if (renewed := _renewed(lease)) != seen:
            seen, since = renewed, time.monotonic()
        if time.monotonic() - since > lease_seconds:
            say(f"the controller has not renewed the lease for {lease_seconds:g} s: ending")
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
    """Return a port that is free now.

    Another process may take it before the server does. The job then ends and is started again.
    """
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _hosts(bound: str) -> tuple[str, ...]:
    """Return the names and addresses under which other nodes may reach this one."""
    if bound != _ANY:
        return (bound,)
    names = [socket.getfqdn(), socket.gethostname(), node_name()]
    with suppress(OSError):
        names += socket.gethostbyname_ex(socket.gethostname())[2]
    return tuple(dict.fromkeys(name for name in names if name and not _is_loopback(name)))


def _addresses() -> list[str]:
    """Return the addresses (IPv4) of this node's interfaces that are up."""
    try:
        up = {name for name, state in psutil.net_if_stats().items() if state.isup}
        interfaces = psutil.net_if_addrs()
    except OSError:
        return []
    return [
        found.address
        for name, addresses in interfaces.items()
        for found in addresses
        if name in up and found.family == socket.AF_INET and not _is_loopback(found.address)
    ]


def _is_loopback(host: str) -> bool:
    # Debian's /etc/hosts gives a node's own name the address 127.0.1.1.
    return host.startswith("127.") or host.partition(".")[0] == "localhost"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
