"""Start a service that outlives this process.

The command is ``python -m agenttts.dispatch.detached``. Standard input holds the pickled folder,
start and function; the function is pickled by itself. The process that was started is written to
``FOLDER/START.json``. The folder is not on the command line, because services are found by the
folder on theirs.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import submitit

from agenttts.dispatch.local_executor import SafePathExecutor
from agenttts.dispatch.node.devices import numbered_devices
from agenttts.dispatch.pickled import Pickled
from agenttts.files.atomic import atomic_write_json
from agenttts.files.processes import process_identity

_YEAR_MINUTES = 60 * 24 * 365


def start(folder: Path, token: str, function: bytes) -> None:
    """Submit a pickled function as a local job, and record its process."""
    executor = SafePathExecutor(folder)
    # submitit hides the GPUs that it is not told of. The service gives them to its jobs.
    given = numbered_devices()
    executor.update_parameters(
        timeout_min=_YEAR_MINUTES, gpus_per_node=len(given), visible_gpus=given
    )
    # Only the job loads the function, because that imports all that a controller needs.
    job: submitit.Job[Any] = executor.submit(Pickled(function))
    pid = str(job.job_id)
    atomic_write_json(folder / f"{token}.json", {"job_id": pid, "identity": process_identity(pid)})


if __name__ == "__main__":
    arguments = pickle.loads(sys.stdin.buffer.read())
    # The job must not hold the caller's pipe open.
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    start(*arguments)
