"""What Linux says of this machine's processes (proc(5))."""

from __future__ import annotations

import time
from pathlib import Path

# A process that another program is about to replace, or that has just been started, has a program and no arguments yet, for
# milliseconds; one that blanked its arguments has none for good.
_PATIENCE_S = 0.5


def command_line(pid: int | str) -> bytes:
    """A process's command line, its arguments ended by zero bytes; empty when there is no such process."""
    try:
        folder = Path(f"/proc/{int(pid)}")
    except ValueError:
        return b""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            command = (folder / "cmdline").read_bytes()
            if command or time.monotonic() > deadline:
                return command
            # Fails for a thread of the kernel and for a process that has ended: neither will have arguments.
            (folder / "exe").readlink()
        except OSError:
            return b""
        time.sleep(0.002)
