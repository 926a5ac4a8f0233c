"""The job of ``doctor --submit``: looks at its node and records what it saw.

It does not judge the facts. Job and command exchange files in one folder. The job writes `HELLO`,
the command answers with `REPLY`, and the job with `ECHO`. The command's own clock thus measures how
long a file takes to the node and back. `FACTS` comes last.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agenttts import __version__
from agenttts.dispatch.apptainer import (
    Container,
    container_env,
    device_order,
    exec_command,
    granted_devices,
    with_scratch,
)
from agenttts.dispatch.node.devices import device_problem, list_devices
from agenttts.dispatch.node.preflight import SCRATCH_BYTES, write_problem
from agenttts.dispatch.node.scratch import NoScratchDirectory, scratch_directory
from agenttts.dispatch.own_job import node_name, queue_job
from agenttts.dispatch.service_job import EndingJob
from agenttts.doctor import environment_facts
from agenttts.doctor.limits import limit_facts
from agenttts.files.atomic import atomic_write_json, atomic_write_text
from agenttts.files.commands import ask
from agenttts.files.temporary import (
    executable_directory,
    is_noexec,
    resolved,
    temporary_directory,
)
from agenttts.images.cuda import driver_facts

SCRATCH_DIRECTORY = "scratch directory"
TMPDIR = "scratch directory that TMPDIR names"
HELLO, REPLY, ECHO, FACTS = "hello.json", "reply.txt", "echo.json", "facts.json"
# A driver that is not in use may take this long to start (nvidia-smi, without persistence mode).
_DEVICES_S = 30.0
# Time for a container whose image is read for the first time from a parallel file system.
_ENVIRONMENT_S = 300.0


@dataclass(frozen=True)
class ProbeQuestion:
    """What the job has to look at.

    The keys of ``directories`` are their purposes.
    """

    folder: Path
    token: str
    gpus: int
    directories: Mapping[str, Path]
    container: Container | None
    python: bool
    """Whether to look at the Python of the trials (the container's, if there is one)."""
    scheduler_problems: Callable[[], dict[str, str | None]] | None
    """Tries, from the node, what a controller needs of the scheduler; submits nothing.

    None: it is not tried.
    """
    answer_seconds: float


class ProbeJob(EndingJob):
    """The function that runs on the node."""

    def __init__(self, question: ProbeQuestion) -> None:
        self.question = question

    def __call__(self) -> None:
        question = self.question
        self._say("checks the results directory")
        atomic_write_json(
            question.folder / HELLO,
            {"token": question.token, "node": node_name(), "time": time.time()},
        )
        waited = wait_for_file(question.folder / REPLY, question.answer_seconds)
        atomic_write_json(question.folder / ECHO, {"waited": waited, "time": time.time()})
        self._say("checks directories")
        directories = {what: _made(path) for what, path in question.directories.items()}
        directories |= _temporary_directories()
        self._say("checks GPUs")
        facts: dict[str, Any] = {
            "node": node_name(),
            "job_id": queue_job() or "",
            "python": {"version": platform.python_version(), "path": sys.executable},
            "agenttts": __version__,
            "answered": waited is not None,
            "directories": directories,
            "limits": limit_facts(),
            "devices": self._devices(),
            "gpus": [asdict(gpu) for gpu in driver_facts(_DEVICES_S)],
            "environment": None,
            "slurm": None,
        }
        if question.python:
            self._say("checks the Python of the trials")
            facts["environment"] = self._environment()
        if question.scheduler_problems is not None:
            self._say("checks the commands of the scheduler")
            facts["slurm"] = question.scheduler_problems()
        atomic_write_json(question.folder / FACTS, facts)
        self._say("has ended")

    def _devices(self) -> dict[str, Any]:
        listing = list_devices(_DEVICES_S) if self.question.gpus else None
        return {
            "asked": self.question.gpus,
            "granted": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            "listed": None if listing is None else len(listing.gpus) + len(listing.mig),
            "problem": device_problem(self.question.gpus, os.environ, _DEVICES_S),
        }

    def _environment(self) -> dict[str, Any] | None:
        """Return what `environment_facts` prints in the trials' container, if any.

        None if the job has no scratch directory, which its container would get.
        """
        source = Path(environment_facts.__file__).read_text(encoding="utf-8")
        container = self.question.container
        command: tuple[str, ...] = (sys.executable, "-P", "-c", source)
        env = dict(os.environ)
        with ExitStack() as stack:
            try:
                scratch = stack.enter_context(scratch_directory(None))
            except NoScratchDirectory:
                return None  # the facts of the directories say why
            if container is not None:
                command = exec_command(
                    container,
                    ("python", "-c", source),
                    read_only=(),
                    writable=(self.question.folder,),
                )
                command = tuple(with_scratch(command, scratch))
                env |= {**device_order(), **container_env(granted_devices())}
            started = time.monotonic()
            answer = ask(command, _ENVIRONMENT_S, env)
        seconds = time.monotonic() - started
        if not answer.succeeded:
            return {"error": f"{command[0]} {answer.failure()}", "seconds": seconds}
        try:
            return {"error": None, "seconds": seconds, **json.loads(answer.text.splitlines()[-1])}
        except (ValueError, IndexError, TypeError):
            return {
                "error": f"its output cannot be read: {answer.text[:200]!r}",
                "seconds": seconds,
            }

    def _say(self, text: str) -> None:
        """Write a line to the job's log; the last one shows where a job hangs."""
        print(f"agenttts-doctor {text}", file=sys.stderr, flush=True)


def wait_for_file(path: Path, seconds: float) -> float | None:
    """Return the seconds until ``path`` was seen; None after ``seconds``."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if is_there(path):
            return time.monotonic() - started
        time.sleep(0.1)
    return None


def is_there(path: Path) -> bool:
    """Return whether a file can be read.

    Its folder is listed first, because NFS clients then ask again for names that they know to be
    missing.
    """
    try:
        return path.name in os.listdir(path.parent) and path.stat().st_size > 0  # noqa: PTH208
    except OSError:
        return False


def write_reply(folder: Path) -> None:
    """Write the command's answer to `HELLO`."""
    atomic_write_text(folder / REPLY, "seen\n")


def _made(path: Path) -> dict[str, Any]:
    """Return what `_directory` does; the directory is made if it is missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _unusable(path, error)
    return _directory(path)


def _temporary_directories() -> dict[str, dict[str, Any]]:
    """Return what `_directory` does of the scratch directory and of another TMPDIR."""
    wanted = os.environ.get("TMPDIR")
    try:
        used = executable_directory(SCRATCH_BYTES)
    except OSError as error:
        return {SCRATCH_DIRECTORY: _unusable(Path(wanted or "/tmp"), error)}
    found = {SCRATCH_DIRECTORY: {**_directory(used), "noexec": is_noexec(used)}}
    if wanted and resolved(wanted) != temporary_directory():  # Python could not write there
        found[TMPDIR] = _directory(Path(wanted))
    return found


def _directory(path: Path) -> dict[str, Any]:
    """Return whether files can be made in a directory, and its free space."""
    try:
        free = shutil.disk_usage(path).free
    except OSError as error:
        return _unusable(path, error)
    return {"path": str(path), "problem": write_problem(path), "free": free}


def _unusable(path: Path, error: OSError) -> dict[str, Any]:
    return {"path": str(path), "problem": error.strerror or str(error), "free": None}
