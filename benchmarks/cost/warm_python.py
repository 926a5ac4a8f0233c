"""A Python that starts as a copy of a process that has imported the project already.

An array of a thousand jobs starts two thousand Python processes. On two cores their imports take
most of the time, and say nothing of the controller. `warm_python` therefore makes a program that is
called like Python. Called with ``-m MODULE``, it has a waiting process fork, and the copy runs the
module with the caller's arguments, environment, directory and streams. Its exit status is passed
on. The module and all that it does are the same as with Python.

Only for one machine and for jobs that are not stopped by signals: a signal ends the program, not
the copy.
"""

from __future__ import annotations

import array
import atexit
import gc
import importlib
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

IMPORTED = (
    "agenttts.dispatch.node.job",
    "agenttts.inference.engine_process",
    "agenttts.tasks.retrieval.task",
    "agenttts.trial.engines_ahead",
    "agenttts.trial.run",
    "polars",
    "submitit.core._submit",
)
_NUMBER_BYTES = 4
# It imports nothing that Python has not loaded by itself, apart from two modules in C.
_CLIENT = """\
#!{python} -IS
import _socket, os, sys
if "-m" not in sys.argv:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
texts = [os.getcwd(), str(len(sys.argv)), *sys.argv]
texts += [f"{{name}}={{value}}" for name, value in os.environ.items()]
message = os.fsencode("\\0".join(texts))
asked = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
asked.connect({address!r})
streams = b"".join(n.to_bytes(4, sys.byteorder) for n in (0, 1, 2))
asked.sendmsg(
    [len(message).to_bytes(4, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)]
)
rest = memoryview(message)
while rest:
    rest = rest[asked.send(rest):]
status = asked.recv(4)
os._exit(int.from_bytes(status, "big") if len(status) == 4 else 70)
"""


@contextmanager
def warm_python(folder: Path) -> Iterator[Path]:
    """Start the waiting process, and yield the program; end it and its copies afterwards."""
    address, program = folder / "warm.socket", folder / "warm-python"
    program.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    command = [sys.executable, __file__, str(address)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert server.stdout is not None
        if server.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{__file__} did not start")
        yield program
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def serve(address: str) -> None:
    """Fork for every call."""
    for module in IMPORTED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that the copies share the memory of what is imported
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(address)
        listening.listen(128)
        print("ready", flush=True)
        while True:
            call, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _attend(call)
            call.close()
            while _reap():
                pass


def _reap() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _attend(call: socket.socket) -> None:
    """Run a call in a process of its own, and send its exit status."""
    copy = os.fork()
    if copy == 0:
        status = 70
        try:
            status = _run(*_received(call))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(copy, 0)
    code = os.waitstatus_to_exitcode(status)
    call.sendall((code if code >= 0 else 128 - code).to_bytes(_NUMBER_BYTES, "big"))
    os._exit(0)


def _received(call: socket.socket) -> tuple[list[str], dict[str, str]]:
    """Take over the streams and the directory; return the arguments and the environment."""
    streams = array.array("i")
    data, ancillary, _, _ = call.recvmsg(
        _NUMBER_BYTES, socket.CMSG_SPACE(3 * streams.itemsize), socket.MSG_WAITALL
    )
    streams.frombytes(ancillary[0][2][: 3 * streams.itemsize])
    size = int.from_bytes(data, "big")
    message = b""
    while len(message) < size:
        message += call.recv(size - len(message))
    call.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    directory, count, *texts = os.fsdecode(message).split("\0")
    os.chdir(directory)
    arguments = texts[: int(count)]
    return arguments, dict(text.split("=", 1) for text in texts[int(count) :])


def _run(arguments: Sequence[str], environment: dict[str, str]) -> int:
    os.setsid()
    random.seed()
    os.environ.clear()
    os.environ.update(environment)
    place = arguments.index("-m")
    sys.argv = [*arguments[place + 1 :]]
    sys.executable = arguments[0]
    try:
        runpy.run_module(arguments[place + 1], run_name="__main__", alter_sys=True)
        code: object = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code or 0


if __name__ == "__main__":
    serve(sys.argv[1])
