"""Running a command of this machine with a limit, and saying how it failed."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

_LONGEST_OUTPUT = 1000


def run_command(
    command: Sequence[str], env: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str] | str:
    """What a command did, or why there is no answer."""
    try:
        return subprocess.run(
            list(command),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not end within {seconds:g} s"
    except OSError as error:
        return f"{command[0]} cannot be run: {error.strerror}"


def failure(done: subprocess.CompletedProcess[str]) -> str:
    """How a command failed: its exit status and the end of what it said."""
    said = " ".join((done.stderr or done.stdout).split())[-_LONGEST_OUTPUT:]
    return f"exit status {done.returncode}: {said}" if said else f"exit status {done.returncode}"
