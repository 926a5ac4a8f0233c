"""The limits of a sandboxed program, and how its run ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MB = 1 << 20

Stop = Literal["time", "idle", "memory", "processes", "disk"]


@dataclass(frozen=True)
class Limits:
    """Bounds of one run, for all of its processes together unless said otherwise.

    - ``seconds``: wall time, after which the run is stopped.
    - ``idle_seconds``: time without CPU use (it waits for input or sleeps), after which it is
      stopped.
    - ``cpu_seconds``: CPU time per process.
    - ``memory_mb``: 2^20 bytes; it also bounds the address space of each process.
    - ``processes``: processes at a time, threads included.
    - ``file_mb``: size of one file, standard output and error included.
    - ``disk_mb``: size of all files in its directory and its /dev/shm. They are in memory too where
      the kernel allows it; a run then takes up to ``memory_mb`` plus ``disk_mb``.
    """

    seconds: float = 3.0
    idle_seconds: float = 0.5
    cpu_seconds: int = 10
    memory_mb: int = 512
    processes: int = 32
    file_mb: int = 8
    disk_mb: int = 64


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    ``exit_code`` is the program's own (minus the signal's number when a signal ended it), or None
    when the program was stopped. ``stopped`` says at which limit. ``stdout`` and ``stderr`` are its
    output; of more than 16 kB the beginning and the end, with ``[...]`` between them. ``seconds``
    is wall time.
    """

    exit_code: int | None
    stopped: Stop | None
    stdout: str
    stderr: str
    seconds: float

    @property
    def started(self) -> bool:
        """Whether the program started properly.

        It ended without an error, or it still ran or waited for input when its time was over.
        """
        return self.exit_code == 0 or self.stopped in ("time", "idle")
