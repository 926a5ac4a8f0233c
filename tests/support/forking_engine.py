"""The program of an engine that forks another process, as vLLM forks its engine core.

Command: ``python -m tests.support.forking_engine FD [holding]``, in place of the engine process's
own. With ``holding`` the forked process keeps its copy of the engine's socket, as a program may that
was started by other means.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from agenttts.inference import engine_process
from agenttts.inference.base import (
    Completion,
    EngineError,
    Finished,
    ModelConfig,
    OnFinished,
    Request,
    Sample,
)
from agenttts.inference.engines import EngineEntry
from agenttts.inference.scripted import ScriptedOptions


class ForkingEngine:
    """Finishes one sample of a call and no other; a call "dead" fails as vLLM's without a core,
    after what follows this word was printed, and "odd" in a way that is no engine's, with a thread that does not end soon.

    The forked process writes to the model's path whether it holds the engine's socket, and waits.
    """

    def __init__(self, config: ModelConfig) -> None:
        if os.fork() == 0:
            path = Path(config.path)
            held = Path(f"/proc/self/fd/{sys.argv[1]}").exists()
            path.with_name("writing").write_text(str(held), encoding="utf-8")
            path.with_name("writing").rename(path)
            while True:
                signal.pause()

    def generate(
        self, requests: Sequence[Request], on_finished: OnFinished | None = None
    ) -> list[Completion]:
        assert on_finished is not None
        if requests[0].content.startswith("dead"):
            print(requests[0].content.removeprefix("dead"), flush=True)
            raise EngineError("EngineDeadError: EngineCore encountered an issue.")
        if requests[0].content == "odd":
            threading.Thread(target=time.sleep, args=(120,)).start()
            raise MemoryError("no pinned memory")
        on_finished(Finished(0, (0,), Completion((Sample("one", 1, "stop"),), 1)))
        while True:
            signal.pause()

    def close(self) -> None:
        """Nothing to close."""


if __name__ == "__main__":
    if "holding" in sys.argv:
        os.register_at_fork = lambda **_: None
    entry = EngineEntry("tests.support.forking_engine:ForkingEngine", ScriptedOptions)
    engine_process.ENGINES = {"scripted": entry}
    engine_process._main(int(sys.argv[1]))
