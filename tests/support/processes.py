"""Processes of this machine, as /proc shows them."""

from __future__ import annotations

import signal
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    return _stat(pid)[0] != "Z"


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped a process (SIGSTOP)."""
    return _stat(pid)[0] == "T"


def has_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal was sent to a process that has not taken it yet, for it is stopped."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = dict(line.split(":\t", 1) for line in lines if line.startswith("ShdPnd"))
    return bool(int(masks["ShdPnd"], 16) >> (number - 1) & 1)


def processes_with(text: str) -> list[int]:
    """The processes that have ``text`` on their command line."""
    return [pid for pid in pids() if text.encode() in _command(pid)]


def group_members(group: int) -> list[int]:
    """The processes of a process group, without zombies."""
    fields = {pid: _stat(pid) for pid in pids()}
    return [pid for pid, (state, _, of, *_) in fields.items() if int(of) == group and state != "Z"]


def pids() -> list[int]:
    """The numbers of all processes."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str]:
    """State, parent, group and so on of a process; those of a zombie without any when it does not
    exist.

    In the file they follow the command name, which is in parentheses and may contain spaces
    (proc(5)).
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["Z", "0", "0"]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
