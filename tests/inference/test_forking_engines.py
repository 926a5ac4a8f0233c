"""An engine's process whose own processes outlive it: vLLM forks its engine core, which holds the
GPU's memory. On an H200 a trial whose engine was killed waited for ever, and the core stayed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace

import pytest

from agenttts.inference.base import EngineError, Finished, ModelConfig, Request, SamplingParams
from agenttts.inference.engine_process import EngineProcess
from tests.support.processes import group_members
from tests.support.waiting import until

REQUEST = Request("Which tree?", SamplingParams(1.0, 8), (1, 2))


@pytest.fixture(params=["", "holding"])
def forking(request, tmp_path, monkeypatch):
    """An engine with a forked process, and whether that holds the engine's socket."""
    program, told = tmp_path / "python", tmp_path / "told"
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -m tests.support.forking_engine "$4" {request.param}\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(program))
        engine = EngineProcess(ModelConfig("model", str(told), engine="scripted"))
    until(told.exists, pause=0.02)
    assert told.read_text(encoding="utf-8") == str(request.param == "holding")
    yield engine
    engine.close()


@pytest.mark.processes
def test_a_killed_engine_is_noticed_and_takes_its_processes_with_it(forking):
    assert len(group_members(forking.pid)) == 2

    def kill(finished: Finished) -> None:
        os.kill(forking.pid, signal.SIGKILL)

    with pytest.raises(EngineError, match="killed by SIGKILL"):
        forking.generate([REQUEST], kill)
    until(lambda: not group_members(forking.pid), pause=0.05)


@pytest.mark.processes
@pytest.mark.parametrize("forking", [""], indirect=True)
def test_a_core_that_was_killed_is_taken_for_one_out_of_memory(forking):
    with pytest.raises(EngineError, match=r"EngineDeadError.*; a process .* is killed") as caught:
        forking.generate([replace(REQUEST, content="dead")])
    assert caught.value.kind == "OOM"


DIED = "(EngineCore pid=5) ERROR 11-26 16:31:40 [multiproc_executor.py:315] Worker proc VllmWorker-1 died unexpectedly (exit code: {}), shutting down executor."
AFTER = "(EngineCore pid=5) ERROR 11-26 16:31:41 [core.py:1330] RuntimeError: NCCL communicator was aborted"


@pytest.mark.processes
@pytest.mark.parametrize("forking", [""], indirect=True)
def test_a_killed_engine_has_no_process_left(forking, monkeypatch):
    """Not one that takes a while to end either, as one does that has a GPU's memory: the next
    engine does not start without it.
    """
    killpg, [core] = os.killpg, [pid for pid in group_members(forking.pid) if pid != forking.pid]
    later = threading.Timer(1.0, os.kill, (core, signal.SIGKILL))

    def kill_slowly(group: int, number: int) -> None:
        if number == signal.SIGKILL:
            os.kill(group, signal.SIGKILL)
            later.start()
        else:
            killpg(group, number)

    with monkeypatch.context() as patched:
        patched.setattr(os, "killpg", kill_slowly)
        forking._engine_child.kill()
    assert not group_members(forking.pid)
    later.join(10)
    assert not later.is_alive()


@pytest.mark.processes
@pytest.mark.parametrize("forking", [""], indirect=True)
@pytest.mark.parametrize(
    ("printed", "says", "kind"),
    [
        (f"{DIED.format(-9)}\n{AFTER}", "its process VllmWorker-1 was killed by SIGKILL", "OOM"),
        (f"{DIED.format(-11)}\n{AFTER}", "its process VllmWorker-1 was killed by SIGSEGV", "FAILED"),
        (f"{DIED.format(-99)}", "its process VllmWorker-1 was killed by signal 99", "FAILED"),
        (f"{AFTER}\n{DIED.format(-15)}", "NCCL communicator was aborted", "FAILED"),
        (f"{DIED.format(1)}\n{AFTER}", "NCCL communicator was aborted", "FAILED"),
    ],
)  # fmt: skip
def test_a_worker_that_a_signal_ended_is_named(forking, printed, says, kind):
    """With several GPUs, what the other workers say then is only the effect."""
    with pytest.raises(EngineError, match=says) as caught:
        forking.generate([replace(REQUEST, content=f"dead{printed}")])
    assert caught.value.kind == kind


@pytest.mark.processes
@pytest.mark.parametrize("forking", [""], indirect=True)
def test_an_error_that_is_no_engine_s_ends_the_engine_at_once(forking):
    """The shutdown of the interpreter waits for threads, and may hang."""
    begun = time.monotonic()
    with pytest.raises(EngineError, match="ended .exit code 1.; its last line: MemoryError"):
        forking.generate([replace(REQUEST, content="odd")])
    assert time.monotonic() - begun < 60
    until(lambda: not group_members(forking.pid), pause=0.05)
