"""Start the process of an engine, and keep a spare one that was started ahead.

Importing vLLM takes 9 to 19 s, before a GPU is used. A process that is known to be needed can do
that while a trial's program starts or while another engine works. Such a spare process only imports
the libraries of one engine. It initialises no GPU and loads no model, so any model of that engine
may be loaded in it.

This module imports nothing that takes time, so that a program can start a spare process first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType

from agenttts.inference.ranks import without_rank

PROGRAM = "agenttts.inference.engine_process"
"""The program of the process; its arguments are a socket and, for a spare one, its engine."""

LIBRARIES: Mapping[str, str] = MappingProxyType(
    {
        "vllm": "agenttts.inference.vllm:import_libraries",
        "transformers": "agenttts.inference.transformers:import_libraries",
    }
)
"""By engine, the function that imports its libraries, where that takes seconds.

It initialises no GPU, and its effect does not depend on the model.
"""


_GROUP_SECONDS = 60.0
"""The longest wait for killed processes. With a GPU whose driver hangs, they never end."""


class EngineChild:
    """A process that takes a model's configuration, then requests, from its socket.

    It has its own process group, so that `kill` also ends the processes that it starts. It lives as
    long as its standard input is open, and nobody else holds that. Its output is kept in a pipe.

    Args:
        engine: The engine whose libraries it imports at once; empty: none.

    Raises:
        OSError: No process could be started.
    """

    def __init__(self, engine: str = "") -> None:
        self.socket, theirs = socket.socketpair()
        try:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    PROGRAM,
                    str(theirs.fileno()),
                    *([engine] if engine else []),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={
                    **without_rank(os.environ),
                    "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                },
            )
        except OSError:
            self.socket.close()
            raise
        finally:
            theirs.close()

    def kill(self) -> None:
        """End the process group and reap the process; may be called twice.

        It waits until the whole group has ended. vLLM's engine core and workers are no children of
        this process, and the driver gives a GPU's memory back when they end, which takes seconds.
        The next engine would not start without that memory.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        from agenttts.files.processes import group_lives  # psutil takes time to import

        deadline = time.monotonic() + _GROUP_SECONDS
        while group_lives(self.process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        if self.process.stdin is not None:
            self.process.stdin.close()

    def discard(self) -> None:
        """End the process, whose output and socket nobody has taken."""
        self.kill()
        self.socket.close()
        if self.process.stdout is not None:
            self.process.stdout.close()


class SpareEngine:
    """At most one process that imports the libraries of an engine ahead of its use.

    A process that cannot be started, or that has ended, is as if there were none. The same is true
    if the environment has changed since it was started, because libraries read it when they are
    imported.
    """

    def __init__(self) -> None:
        self._child: EngineChild | None = None
        self._engine = ""
        self._environment: dict[str, str] = {}
        self._following = ""

    @property
    def engine(self) -> str | None:
        """The engine of the process; None if there is none."""
        return self._engine if self._child is not None else None

    @property
    def pid(self) -> int | None:
        """The id of the process."""
        return self._child.process.pid if self._child is not None else None

    def resident(self) -> int:
        """Return the bytes of memory of the process."""
        import psutil  # it takes 50 ms, and is not needed where a program begins

        try:
            return int(psutil.Process(self.pid).memory_info().rss) if self._child else 0
        except psutil.Error:
            return 0

    def start(self, engine: str) -> None:
        """Start a process for an engine, unless one for it lives; another one ends."""
        if self._engine == engine and self._child and self._child.process.poll() is None:
            return
        self.close()
        with contextlib.suppress(OSError):
            self._child = EngineChild(engine)
            self._engine, self._environment = engine, dict(os.environ)

    def start_after(self, engine: str) -> None:
        """Set the engine for which `take` starts a process; empty: it starts none."""
        self._following = engine

    def accept_environment(self) -> None:
        """Keep the process although the environment has changed up to now.

        A program calls this when it has imported its own libraries. Some of them set variables for
        themselves, which no engine reads: Polars sets ``_RJEM_MALLOC_CONF`` (2.1).
        """
        self._environment = dict(os.environ)

    def take(self, engine: str) -> EngineChild | None:
        """Hand the process over if it is one for this engine, and lives."""
        taken = None
        if self._child is not None and self._engine == engine:
            child, self._child = self._child, None
            if child.process.poll() is None and self._environment == dict(os.environ):
                taken = child
            else:
                child.discard()
        following, self._following = self._following, ""
        if following:
            self.start(following)
        return taken

    def close(self) -> None:
        """End the process, if there is one."""
        self._following = ""
        child, self._child = self._child, None
        if child is not None:
            child.discard()
