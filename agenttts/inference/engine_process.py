"""An engine in a process of its own, and the choice of an engine by name.

A process, because only its end gives all of a model's memory back (CUDA contexts, allocator caches,
vLLM's workers), and because a crash of native code, or the kernel's out-of-memory killer, must not
take the trial with it.

The child is a fresh interpreter (``python -m agenttts.inference.engine_process FD``), not a
`multiprocessing` process: it never imports the parent's main module, and it may start children, as
vLLM does. It takes requests from one socket and lives as long as its standard input is open; the
parent never writes there, so end-of-file means that the parent is gone, however it ended.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection
from typing import IO, Any, TextIO

from agenttts.errors import MissingRequirement
from agenttts.inference.base import Completion, Engine, EngineError, ModelConfig, Request
from agenttts.inference.beats import MARK
from agenttts.inference.engines import ENGINES
from agenttts.inference.out_of_memory import is_out_of_memory

_CLOSE_SECONDS = 20.0
_TAIL_LINES = 500
_MESSAGE_LENGTH = 300
# A line of one of vLLM's own processes: "(EngineCore pid=5494) ERROR 11-26 16:31:40 [core.py:1330]
# ValueError: ...", "(Worker_TP1 pid=12) torch.OutOfMemoryError: ...". Its tracebacks' other lines
# name no error.
_WORKER_ERROR = re.compile(
    r"^\(\w[\w .=-]* pid=\d+\)\s+(?:ERROR \S+ \S+ \[[^\]]+\] )?"
    r"(?P<error>(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b: .*)$"
)


def create_engine(config: ModelConfig, output: TextIO | None = None) -> Engine:
    """The engine that ``config.engine`` names, with its model loaded.

    An engine that loads weights runs in a child process, whose output goes to ``output`` (default:
    standard error).

    Raises:
        MissingRequirement: A Python package of the engine is not installed.
        EngineError: The model could not be loaded.
    """
    entry = ENGINES[config.engine]
    for package in entry.packages:
        if importlib.util.find_spec(package) is None:
            raise MissingRequirement(
                f"model '{config.name}' runs on the engine '{config.engine}', but the Python package '{package}' is "
                f"not installed in {sys.prefix}",
                fix=entry.install,
            )
    return EngineProcess(config, output) if entry.own_process else entry.load(config)


class EngineProcess:
    """An `Engine` whose model lives in a child process.

    What that prints goes to ``output``, by default this process's standard error. Construction
    waits for the model to be loaded. Raises `EngineError` when the engine does, or when the child
    dies (kind OOM when it was killed by SIGKILL, which is what the kernel does when memory runs
    out).

    ``reports_progress``: a call that goes on says so in what it prints
    (`agenttts.inference.beats`).
    """

    def __init__(self, config: ModelConfig, output: TextIO | None = None) -> None:
        self._config = config
        self._output = output
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        ours, theirs = socket.socketpair()
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                # A process group of its own, so that `close` can end vLLM's workers with it.
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
        except OSError as error:
            ours.close()
            raise EngineError(
                f"no process could be started for model '{config.name}': {error}"
            ) from error
        finally:
            theirs.close()
        self._connection: Connection[Any, Any] | None = Connection(ours.detach())
        self._pump = threading.Thread(target=self._pass_on, args=(self._child.stdout,), daemon=True)
        self._pump.start()
        self._busy = False
        try:
            self.reports_progress = bool(self._ask(config))
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in order. Raises `EngineError`."""
        answer: list[Completion] = self._ask(list(requests))
        return answer

    def close(self) -> None:
        """End the child and wait for it: the memory is free afterwards.

        A busy child is killed, not waited for.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if not self._busy:
            with contextlib.suppress(OSError):
                connection.send(None)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_CLOSE_SECONDS)
        self._kill()
        connection.close()

    def _ask(self, message: object) -> Any:
        """Send a message and wait for its answer."""
        if self._connection is None:
            raise EngineError(f"the engine of model '{self._config.name}' is closed")
        self._busy = True
        try:
            self._connection.send(message)
            done, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        self._busy = False
        if done:
            return answer
        text, kind = answer
        # vLLM's workers are processes too: the cause of a failure there is only in what they
        # printed.
        if kind != "OOM" and is_out_of_memory("\n".join(self._tail)):
            kind = "OOM"
        raise EngineError(text + self._cause(text), kind=kind)

    def _death(self) -> EngineError:
        """The error of a child that closed its socket without an answer."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_CLOSE_SECONDS)
        self._kill()
        code = self._child.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else "ended"
        text = f"the engine process of model '{self._config.name}' {how} (exit code {code})"
        killed = code == -signal.SIGKILL
        if killed:
            text += "; SIGKILL is what the kernel and Slurm send when memory has run out"
        oom = killed or is_out_of_memory("\n".join(self._tail))
        last = next((line for line in reversed(self._tail) if line.strip()), "")
        text += self._cause(text) or (
            f"; its last line: {last.strip()[:_MESSAGE_LENGTH]}" if last else ""
        )
        return EngineError(text, kind="OOM" if oom else "FAILED")

    def _cause(self, text: str) -> str:
        """The end of a message ``text``: the cause that a process of the engine printed, unless
        the text has it already.
        """
        cause = worker_error(self._tail)
        if cause is None or cause in text:
            return ""
        return f"; the cause, as a process of the engine printed it: {cause}"

    def _kill(self) -> None:
        """End the child's whole process group and reap the child."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        if self._child.stdin is not None:
            self._child.stdin.close()
        self._pump.join(timeout=5)

    def _pass_on(self, stream: IO[bytes]) -> None:
        """What the child prints, to ``output``, its last lines kept."""
        for line in stream:
            text = line.decode(errors="replace")
            if not text.startswith(MARK):  # signs of life are no cause of anything
                self._tail.append(text.rstrip("\n"))
            # A closed or replaced stream must not stop the reading: the child would block on a full
            # pipe.
            with contextlib.suppress(OSError, ValueError):
                output = self._output or sys.stderr
                output.write(text)
                output.flush()
        stream.close()


def worker_error(lines: Iterable[str]) -> str | None:
    """The first error that a process of vLLM's own says it ended with, among lines that an engine
    printed.

    vLLM's own exception says only that something failed ("See root cause above"). With several
    workers the first error is the cause, those after it are what it did to the others.
    """
    for line in lines:
        match = _WORKER_ERROR.match(line.strip())
        if match and "see root cause above" not in line.lower():
            return match["error"][:_MESSAGE_LENGTH]
    return None


# The child.


def _serve(connection: Connection[Any, Any]) -> None:
    """Answer the parent until it says to end: first a `ModelConfig`, then lists of requests."""
    engine: Engine | None = None
    try:
        while (message := connection.recv()) is not None:
            try:
                if isinstance(message, ModelConfig):
                    engine = ENGINES[message.engine].load(message)
                    answer: Any = getattr(engine, "reports_progress", False)
                else:
                    assert engine is not None
                    answer = engine.generate(message)
            except EngineError as error:
                traceback.print_exc()
                connection.send((False, (str(error), error.kind)))
            else:
                connection.send((True, answer))
    except EOFError:
        return
    finally:
        if engine is not None:
            engine.close()


def _die_with_parent() -> None:
    """Kill this process group once standard input, held open by the parent alone, ends."""
    lifeline = os.dup(0)
    # Libraries that read standard input, and processes they start, must not take the lifeline.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def watch() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _main(descriptor: int) -> None:
    # Slurm signals every process of a step; the parent alone decides what a signal means for its
    # engine.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    _serve(Connection(descriptor))
    sys.stdout.flush()
    sys.stderr.flush()
    # Interpreter shutdown of torch and vLLM takes seconds and may hang; everything is closed by
    # now.
    os._exit(0)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
