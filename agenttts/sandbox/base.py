"""The limits of a sandboxed program, and how its run ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MB = 1 << 20

Stop = Literal["time", "idle", "memory", "processes", "disk"]


@dataclass(frozen=True)
class Limits:
    """Bounds of one run, all of its processes together unless said otherwise.

    ``seconds`` of wall time, after which it is stopped; ``idle_seconds`` without using a CPU (it
    waits for input or sleeps), after which it is stopped too; ``cpu_seconds`` of CPU time a
    process; ``memory_mb`` (2^20 bytes), also the address space of each process; ``processes``,
    threads included, at a time; ``file_mb`` of one file, standard output and error included;
    ``disk_mb`` of all files in its directory, which lies in memory too where the kernel allows it:
    a run then takes up to ``memory_mb`` plus ``disk_mb``.
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

    ``exit_code`` is the program's own (minus the signal's number when a signal ended it), None when
    it was stopped; ``stopped`` says at which limit. ``stdout`` and ``stderr`` are the beginnings of
    what it printed; ``seconds`` is wall time.
    """

    exit_code: int | None
    stopped: Stop | None
    stdout: str
    stderr: str
    seconds: float

    @property
    def started(self) -> bool:
        """Whether it ended without an error, or still ran or waited for input when its time was
        over.
        """
        return self.exit_code == 0 or self.stopped in ("time", "idle")
