"""submitit's local executor, without the current directory on the path of modules."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import submitit

_SAFE_PATH = "PYTHONSAFEPATH"


class SafePathExecutor(submitit.LocalExecutor):  # type: ignore[misc]  # submitit has no types
    """Starts jobs whose Python does not find modules in the current directory.

    ``python -m`` looks there first, so that a user's ``queue.py`` would hide Python's own.
    submitit 1.5.4 takes the command of a job's task, but not of the process that starts the task.
    That process gets the option as a variable. The task does not, because programs that it starts
    may be scripts with modules beside them.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        python = [sys.executable, "-P"]
        if _SAFE_PATH not in os.environ:
            python = ["env", "-u", _SAFE_PATH, *python]
        super().__init__(folder, python=shlex.join(python), **options)

    def _submit_command(self, command: str) -> submitit.Job[Any]:
        if setup := self.parameters.get("setup"):
            self.parameters["setup"] = [*setup, f"export {_SAFE_PATH}=1"]
            return super()._submit_command(command)
        before = os.environ.get(_SAFE_PATH)
        os.environ[_SAFE_PATH] = "1"
        try:
            return super()._submit_command(command)
        finally:
            if before is None:
                del os.environ[_SAFE_PATH]
