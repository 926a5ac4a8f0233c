"""Check within half a minute whether a node can run a trial.

This is done before a container starts and holds the node's GPUs. The checks:

- The scratch directory can be written and has room. If engines compile, on GPUs, code can be loaded
  from it.
- The trial's directory can be written.
- The image, the models and whatever else the trial reads are there.
- The granted GPUs answer.

They run in a thread of their own: a file system or a driver that hangs must not hang the job.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from agenttts.dispatch.node.devices import device_problem
from agenttts.files.temporary import is_noexec

DEADLINE_S = 30.0
"""Seconds for all checks together.

A busy file server, an automounter, or the driver of eight GPUs that wakes takes ten or more. To
give up too early costs an attempt, a wait in the queue, and the node for a day."""
NOT_READABLE = "cannot be read on this node"
"""What is said of a file or directory that the trial reads; its path comes before."""
TRIAL_DIRECTORY = "the trial's directory"
"""What is said first if that directory cannot be written; its path comes after."""
SCRATCH_BYTES = 10**9
"""Free space that an engine's compilers and caches need in the scratch directory.

vLLM 0.33 takes 0.2 to 0.6 GB.
"""


def node_problem(
    directory: Path,
    scratch: Path,
    needs: Sequence[Path],
    *,
    gpus: int,
    env: Mapping[str, str] = os.environ,
    scratch_bytes: int = SCRATCH_BYTES,
    compiles: bool = True,
    deadline: float = DEADLINE_S,
) -> str | None:
    """Return what keeps this node from running a trial.

    None if nothing was found within ``deadline`` seconds.

    Args:
        directory: The trial's directory, which the trial writes to.
        scratch: The job's scratch directory.
        needs: Files and directories that the trial reads.
        gpus: GPUs granted to the job.
        env: The job's environment (CUDA_VISIBLE_DEVICES).
        scratch_bytes: Free space that is needed in ``scratch``; 0: engines do not use it.
        compiles: Whether engines on GPUs load code from ``scratch``, which they compile.
        deadline: Seconds after which a check without an answer is abandoned. Files that were not
            reached by then are a problem. A missing answer of `nvidia-smi` is not, because it may
            take as long to wake a driver.
    """
    loads_code = gpus > 0 and scratch_bytes > 0 and compiles
    looked_at: list[Path] = []
    files: list[str | None] = []
    devices: list[str | None] = []
    checks: list[tuple[Path, Callable[[], str | None]]] = [
        (directory, lambda: _not_writable(directory, TRIAL_DIRECTORY)),
        (scratch, lambda: _not_writable(scratch, "the node's scratch directory")),
        (scratch, lambda: _no_room(scratch, scratch_bytes)),
        (scratch, lambda: _not_executable(scratch) if loads_code else None),
        *((path, partial(_not_there, path)) for path in needs),
    ]
    looking = threading.Thread(target=_look, args=(checks, looked_at, files), daemon=True)
    asking = threading.Thread(
        target=lambda: devices.append(device_problem(gpus, env, deadline)), daemon=True
    )
    end = time.monotonic() + deadline
    try:
        looking.start()
        asking.start()
    except RuntimeError as error:  # Python's message: "can't start new thread"
        return (
            f"the node cannot start a thread ({error}); its limit on processes is reached ('ulimit "
            "-u')"
        )
    looking.join(deadline)
    if looking.is_alive():
        place = looked_at[-1] if looked_at else directory
        return f"the files of the trial did not answer within {deadline:g} s (at {place})"
    found = next((problem for problem in files if problem), None)
    if found is None:
        asking.join(max(0.0, end - time.monotonic()))
    return found or next((problem for problem in devices if problem), None)


def _look(
    checks: Sequence[tuple[Path, Callable[[], str | None]]],
    looked_at: list[Path],
    found: list[str | None],
) -> None:
    """Run the checks until one finds something; ``looked_at`` gets the place of each."""
    for place, check in checks:
        looked_at.append(place)
        found.append(check())
        if found[-1]:
            return


def _not_writable(directory: Path, what: str) -> str | None:
    problem = write_problem(directory)
    return f"{what} {directory} cannot be written: {problem}" if problem else None


def write_problem(directory: Path) -> str | None:
    """Return what keeps this process from writing and reading files in ``directory``.

    None if nothing does.
    """
    probe = directory / f".preflight-{secrets.token_hex(4)}"
    try:
        probe.write_bytes(b"written\n")
        if probe.read_bytes() != b"written\n":
            return "the bytes that were read are not those that were written"
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


def _no_room(scratch: Path, needed: int) -> str | None:
    try:
        free = shutil.disk_usage(scratch).free
    except OSError as error:
        return f"the node's scratch directory {scratch} cannot be read: {error.strerror}"
    if free < needed:
        return (
            f"the node's scratch directory {scratch} has {free / 1e9:.1f} GB free, and "
            f"{needed / 1e9:.1f} GB are "
            "needed; TMPDIR chooses another place"
        )
    return None


def _not_executable(scratch: Path) -> str | None:
    if not is_noexec(scratch):
        return None
    return (
        f"the node's scratch directory {scratch} is mounted noexec, so engines cannot load the "
        "code that they compile there; TMPDIR chooses another place"
    )


def _not_there(path: Path) -> str | None:
    try:
        with contextlib.suppress(IsADirectoryError), path.open("rb") as stream:
            stream.read(1)
            return None
        os.scandir(path).close()
    except OSError as error:
        return f"{path} {NOT_READABLE}: {error.strerror}"
    return None
