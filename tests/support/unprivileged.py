"""A process without root's right to pass over permissions, which calls the command line.

Tests may run as root, to whom every file is open. A program that such a process starts still runs
as root, so it reads what is root's own (the interpreter, for one), and has no more rights on files
than their owner. As a module it is that program: it answers one line of JSON for each it is given.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support import command_line

# prctl(2) and capabilities(7): CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER.
_PR_CAPBSET_DROP = 24
_CAPABILITIES = (1, 2, 3)
_LIBC = ctypes.CDLL(None, use_errno=True)


def drop_rights() -> None:
    """In a child before exec: what it executes has no rights on files beyond the user's."""
    for capability in _CAPABILITIES:
        if _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_CAPBSET_DROP)")


def may_drop_rights(folder: Path) -> bool:
    """Whether a child of this process can be kept out of a file that is closed to everybody."""
    closed = folder / "closed"
    closed.touch()
    closed.chmod(0)
    words = [sys.executable, "-c", "import sys; open(sys.argv[1])", closed]
    try:
        done = subprocess.run(words, preexec_fn=_before(), capture_output=True, check=False)
    except subprocess.SubprocessError:
        return False
    return b"PermissionError" in done.stderr


@dataclass
class Unprivileged:
    """The process. Commands run one after the other in it."""

    process: subprocess.Popen[str]

    def __call__(self, *arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> command_line.Done:  # fmt: skip
        """Call ``agenttts-hpc`` there, in directory ``cwd``."""
        asked = {"arguments": list(map(str, arguments)), "cwd": str(cwd), "env": dict(env or {})}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return command_line.Done(list(map(str, arguments)), *json.loads(self.process.stdout.readline()))  # fmt: skip


def start() -> Unprivileged:
    """Start the process; end it by closing its standard input."""
    words = [sys.executable, "-m", "tests.support.unprivileged"]
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    return Unprivileged(
        subprocess.Popen(
            words, cwd=root, env=env, preexec_fn=_before(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
    )  # fmt: skip


def _before() -> Callable[[], None] | None:
    return drop_rights if os.geteuid() == 0 else None


def _answer() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        done = command_line.call(*asked["arguments"], cwd=Path(asked["cwd"]), env=asked["env"])
        print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)


if __name__ == "__main__":
    _answer()
