"""Run an engine in its own process, and choose an engine by name.

The engine has its own process for two reasons. Only the end of a process releases all of a model's
memory (CUDA contexts, allocator caches, vLLM's workers). A crash of native code, or a kill by the
kernel's out-of-memory killer, must not end the trial.

The child is a fresh interpreter (``python -m agenttts.inference.engine_process FD``), not a
`multiprocessing` process. So it never imports the parent's main module, and it may start children,
as vLLM does. It takes requests from one socket and lives as long as its standard input is open. The
parent never writes to that, so end-of-file means that the parent has ended, however it ended. A
child that is started ahead first imports the libraries of its engine
(`agenttts.inference.engine_child`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import IO, Any, TextIO

from agenttts.errors import MissingRequirement
from agenttts.files.garbage import without_searches
from agenttts.inference.base import (
    Completion,
    Engine,
    EngineError,
    ModelConfig,
    OnFinished,
    Request,
    put_to_sleep,
    wake,
)
from agenttts.inference.beats import MARK
from agenttts.inference.engine_child import LIBRARIES, EngineChild, SpareEngine
from agenttts.inference.engines import ENGINES
from agenttts.inference.out_of_memory import is_out_of_memory

_KILLS = "the kernel and Slurm send SIGKILL when memory runs out"
_SLEEP, _WAKE = "sleep", "wake"
# What a message of the child is: a part of a call that goes on, the result, or an error.
_PART, _DONE, _FAILED = "part", "done", "failed"
_CLOSE_SECONDS = 20.0
_LOOK_SECONDS = 1.0
"""Time between two looks at whether a silent child is alive."""
_OUTPUT_SECONDS = 2.0
_TAIL_LINES = 500
_MESSAGE_LENGTH = 300
# A line of one of vLLM's own processes: "(EngineCore pid=5494) ERROR 11-26 16:31:40 [core.py:1330]
# ValueError: ...", "(Worker_TP1 pid=12) torch.OutOfMemoryError: ...". The other lines of its
# tracebacks name no error.
_WORKER_ERROR = re.compile(
    r"^\(\w[\w .=-]* pid=\d+\)\s+(?:ERROR \S+ \S+ \[[^\]]+\] )?"
    r"(?P<error>(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b: .*)$"
)
# What vLLM says of its processes that a signal ended: of a worker in a line, of the engine core in
# its exception ("Failed core proc(s): {'EngineCore': -9}").
_WORKER_KILLED = re.compile(r"Worker proc (\S+) died unexpectedly \(exit code: -(\d+)\)")
_CORE_KILLED = re.compile(r"Failed core proc\(s\): \{[^}]*?'([^']+)': -(\d+)")
# vLLM's exception when its engine core has ended.
_CORE_IS_DEAD = "EngineDeadError"
# Parts of errors that are the effect of another process's end: "cancelled" is a worker's whose core
# is gone, the last two are the core's, with a worker that is gone.
_EFFECTS = (
    "see root cause above",
    "runtimeerror: cancelled",
    "workerproc initialization failed",
    "runtimeerror: executor failed.",
)


def create_engine(
    config: ModelConfig, output: TextIO | None = None, spare: SpareEngine | None = None
) -> Engine:
    """Return the engine that ``config.engine`` names, with its model loaded.

    The engine runs in a child process, unless its entry in `ENGINES` says otherwise.

    Args:
        config: The model.
        output: Gets the output of the child process; default: standard error.
        spare: Its process, if it is one for this engine, becomes the child process.

    Raises:
        MissingRequirement: A Python package of the engine is not installed.
        EngineError: The model could not be loaded.
    """
    entry = ENGINES[config.engine]
    for package in entry.packages:
        if importlib.util.find_spec(package) is None:
            raise MissingRequirement(
                f"model '{config.name}' needs the engine '{config.engine}', "
                f"but the Python package '{package}' is not installed in {sys.prefix}",
                fix=entry.install,
            )
    return EngineProcess(config, output, spare) if entry.own_process else entry.load(config)


class EngineProcess:
    """An `Engine` whose model runs in a child process.

    The output of the child goes to ``output``, by default this process's standard error. The
    constructor waits until the model is loaded. If ``spare`` has a process that was started ahead
    for this engine, that is the child; its earlier output goes to ``output`` too.
    ``reports_progress`` says whether a call reports its progress in the child's output
    (`agenttts.inference.beats`).

    Raises:
        EngineError: The engine raised it, or the child died. Its kind is OOM when the child was
            killed by SIGKILL, which the kernel sends when memory runs out.
    """

    def __init__(
        self, config: ModelConfig, output: TextIO | None = None, spare: SpareEngine | None = None
    ) -> None:
        self._config = config
        self._output = output
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        try:
            self._engine_child = (spare and spare.take(config.engine)) or EngineChild()
        except OSError as error:
            raise EngineError(
                f"no process could be started for model '{config.name}': {error}"
            ) from error
        self._child = self._engine_child.process
        self._connection: Connection[Any, Any] | None = Connection(
            self._engine_child.socket.detach()
        )
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

    def generate(
        self, requests: Sequence[Request], on_finished: OnFinished | None = None
    ) -> list[Completion]:
        """Return one completion per request, in order.

        Raises:
            EngineError: The engine raised it, or the child died.
        """
        answer: list[Completion] = self._ask(list(requests), on_finished)
        return answer

    def sleep(self) -> bool:
        """Have the engine give up the memory of its GPUs until `wake`; False if it cannot.

        Raises:
            EngineError: The engine raised it, or the child died.
        """
        return bool(self._ask(_SLEEP))

    def wake(self) -> None:
        """Undo `sleep`.

        Raises:
            EngineError: As `sleep`.
        """
        self._ask(_WAKE)

    def close(self) -> None:
        """End the child and wait for its end; the memory is free afterwards.

        A busy child is killed at once.
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

    def _ask(self, message: object, on_finished: OnFinished | None = None) -> Any:
        """Send a message and wait for its answer; pass on the samples that come before it."""
        if self._connection is None:
            raise EngineError(f"the engine of model '{self._config.name}' is closed")
        self._busy = True
        try:
            self._connection.send(message)
        except OSError as error:
            raise self._death() from error
        while True:
            try:
                what, answer = self._receive(self._connection)
            except (EOFError, OSError) as error:
                raise self._death() from error
            if what != _PART:
                break
            if on_finished is not None:
                on_finished(answer)
        self._busy = False
        if what == _DONE:
            return answer
        text, kind = answer
        self._await_traceback(text)
        # vLLM's workers are processes too. The cause of a failure in one is only in its output.
        if kind == "FAILED" and is_out_of_memory("\n".join(self._tail)):
            kind = "OOM"
        cause = self._cause(text)
        if kind == "FAILED" and not cause and _CORE_IS_DEAD in text:
            cause = (
                "; a process of the engine ended without saying why, as one does that is killed; "
                f"{_KILLS}"
            )
        if kind == "FAILED" and cause.endswith(_KILLS):
            kind = "OOM"
        ended = _CORE_IS_DEAD in text or kind == "OOM"
        raise EngineError(text + cause, kind=kind, ended=ended)

    def _await_traceback(self, text: str) -> None:
        """Wait until the child's output has come as far as its error with this text.

        The child prints the error before it sends it, but on another way.
        """
        last = text.rstrip().rpartition("\n")[2]
        deadline = time.monotonic() + _OUTPUT_SECONDS
        while time.monotonic() < deadline and not any(last in line for line in list(self._tail)):
            time.sleep(0.01)

    def _receive(self, connection: Connection[Any, Any]) -> tuple[str, Any]:
        """Wait for the child's next message.

        The socket alone does not tell of the child's end: a process that the child has forked, as
        vLLM does, may hold a copy of it.

        Raises:
            EOFError: The child has ended, and all its messages were read.
        """
        while not wait([connection], _LOOK_SECONDS):
            if self._child.poll() is not None and not connection.poll(0):
                raise EOFError
        message: tuple[str, Any] = connection.recv()
        return message

    def _death(self) -> EngineError:
        """Return the error of a child that ended without an answer."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_CLOSE_SECONDS)
        self._kill()
        code = self._child.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else "ended"
        text = f"the engine process of model '{self._config.name}' {how} (exit code {code})"
        killed = code == -signal.SIGKILL
        if killed:
            text += f"; {_KILLS}"
        oom = killed or is_out_of_memory("\n".join(self._tail))
        last = next((line for line in reversed(self._tail) if line.strip()), "")
        text += self._cause(text) or (
            f"; its last line: {last.strip()[:_MESSAGE_LENGTH]}" if last else ""
        )
        return EngineError(text, kind="OOM" if oom else "FAILED", ended=True)

    def _cause(self, text: str) -> str:
        """Return the end of a message: the cause in the output of the engine's processes.

        It is empty if ``text`` contains the cause, or if none is known. If a signal ended one of
        the processes before any of them printed an error, that is said.
        """
        lines = list(self._tail)
        ended = next((n for n, line in enumerate(lines) if _WORKER_KILLED.search(line)), len(lines))
        cause = worker_error(lines[:ended])
        if cause is not None:
            said = f"; the cause, printed by a process of the engine: {cause}"
            return "" if cause in text else said
        match = _WORKER_KILLED.search("".join(lines[ended : ended + 1])) or _CORE_KILLED.search(
            text
        )
        return f"; {_killed_by(match[1], int(match[2]))}" if match else ""

    def _kill(self) -> None:
        """End the child's whole process group and reap the child."""
        self._engine_child.kill()
        self._pump.join(timeout=5)

    def _pass_on(self, stream: IO[bytes]) -> None:
        """Copy the child's output to ``output``, and keep its last lines."""
        for line in stream:
            text = line.decode(errors="replace")
            if not text.startswith(MARK):  # signs of life are not the cause of a failure
                self._tail.append(text.rstrip("\n"))
            # A closed or replaced stream must not stop the reading. The child would block on a full
            # pipe.
            with contextlib.suppress(OSError, ValueError):
                output = self._output or sys.stderr
                output.write(text)
                output.flush()
        stream.close()


def _killed_by(process: str, number: int) -> str:
    """Return in words that a signal ended a process of an engine."""
    known = number in set(signal.Signals)
    name = signal.Signals(number).name if known else f"signal {number}"
    text = f"its process {process} was killed by {name} (exit code -{number})"
    return f"{text}; {_KILLS}" if number == signal.SIGKILL else text


def worker_error(lines: Iterable[str]) -> str | None:
    """Return the first error with which a process of vLLM says it ended.

    vLLM's own exception says only that something failed ("See root cause above"). With several
    workers the first error is the cause, and the later errors are its effects on the other workers.

    Args:
        lines: Lines that an engine printed.
    """
    for line in lines:
        match = _WORKER_ERROR.match(line.strip())
        if match and not any(effect in line.lower() for effect in _EFFECTS):
            return match["error"][:_MESSAGE_LENGTH]
    return None


# The child.


def _serve(connection: Connection[Any, Any]) -> None:
    """Answer the parent until it asks to end: a `ModelConfig`, then lists of requests.

    Between calls, the engine may be told to sleep and to wake. What is not an `EngineError` leaves
    the engine as it is: closing it may hang.
    """
    engine: Engine | None = None
    try:
        while (message := connection.recv()) is not None:
            try:
                if isinstance(message, ModelConfig):
                    _import_libraries(message.engine)
                    engine = ENGINES[message.engine].load(message)
                    answer: Any = getattr(engine, "reports_progress", False)
                else:
                    assert engine is not None
                    answer = _answer(engine, message, connection)
            except EngineError as error:
                traceback.print_exc()
                connection.send((_FAILED, (str(error), error.kind)))
            else:
                connection.send((_DONE, answer))
    except EOFError:
        pass
    if engine is not None:
        engine.close()


def _answer(engine: Engine, message: Any, connection: Connection[Any, Any]) -> Any:
    if message == _SLEEP:
        return put_to_sleep(engine)
    if message == _WAKE:
        return wake(engine)
    return engine.generate(message, lambda part: connection.send((_PART, part)))


def _import_libraries(engine: str) -> None:
    """Import an engine's libraries.

    An error is only printed, because loading a model meets it again.
    """
    module, _, name = LIBRARIES.get(engine, "").partition(":")
    if module:
        try:
            with without_searches(freeze=True):
                getattr(import_module(module), name)()
        except Exception:
            traceback.print_exc()


def _die_with_parent() -> None:
    """Kill this process group when standard input ends.

    Only the parent holds standard input open.
    """
    lifeline = os.dup(0)
    # Libraries that read standard input, and processes that they start, must not read this pipe.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def watch() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _main(descriptor: int, engine: str = "") -> None:
    # Slurm signals every process of a step. Only the parent decides what a signal means for its
    # engine.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    connection: Connection[Any, Any] = Connection(descriptor)
    # vLLM forks the process of its engine core. If that held the socket too, the parent would never
    # see the end of a message that this process was killed in.
    os.register_at_fork(after_in_child=connection.close)
    _import_libraries(engine)
    code = 0
    try:
        _serve(connection)
    except BaseException:  # the parent waits for the end of this process
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter shutdown of torch and vLLM takes seconds and may hang. Everything is closed by
    # now, or the parent kills what is left of this process group.
    os._exit(code)


if __name__ == "__main__":
    _main(int(sys.argv[1]), *sys.argv[2:])
