"""A real OpenAI-compatible server: vLLM with a small model on this machine's CPU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from agenttts.inference.base import ModelConfig
from agenttts.serving.program import server_command

KEY_VARIABLE = "AGENTTTS_TEST_ENDPOINT_KEY"
KEY = "sk-endpoint-secret-0815"
_START_S = 600
# vLLM's server on the CPU is then two processes, not three; each takes ten seconds of a core to start (0.32).
FEWER_PROCESSES = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


@contextmanager
def vllm_server(model: Path, name: str, log: Path, **options: object) -> Iterator[str]:
    """Serve a model under a name, with `KEY`; the address up to ``/v1``.

    Args:
        model: The model's directory.
        name: The server's id of the model.
        log: Gets the server's output.
        options: vLLM's options.
    """
    with _held_port() as port:
        config = ModelConfig(name, str(model), options={"dtype": "float32", **options})
        command, environment = server_command(config, name, "127.0.0.1", port)
        env = {**environment, **os.environ, **FEWER_PROCESSES, "VLLM_API_KEY": KEY}
        with log.open("ab") as output:
            server = subprocess.Popen(
                command, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


@contextmanager
def _held_port() -> Iterator[int]:
    """A port that the kernel gives to nobody else, and that vLLM can still listen on.

    vLLM binds its port seconds after its start. Until then any connection of another test could
    have got the port. Two sockets with ``SO_REUSEADDR`` may be bound to one port while at most one
    of them listens (Linux, socket(7)).
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended:\n{log.read_text()[-3000:]}"
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass  # it is not there yet
        time.sleep(0.5)
    raise AssertionError(f"the server was not ready in {_START_S} s:\n{log.read_text()[-3000:]}")
