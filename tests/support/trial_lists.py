"""Lists of trials with scripted models, and engines that say what was asked of them."""

from __future__ import annotations

from agenttts.inference.base import EngineError
from agenttts.inference.engine_process import create_engine

LISTS = (
    [("weak", 2), ("strong", 1)],
    [("weak", 5), ("strong", 3)],
    [("strong", 1), ("weak", 4)],
    [("weak", 5), ("weak", 1)],
)


class Engines:
    """Counts what is started and drawn; ``breaks`` says which prompts an engine cannot serve."""

    def __init__(self, breaks=lambda request: False, no_start=()):
        self.started: list[str] = []
        self.calls: list[tuple[str, int]] = []
        self._breaks = breaks
        self._no_start = no_start

    def __call__(self, config):
        self.started.append(config.name)
        if config.name in self._no_start:
            raise EngineError(f"no room for {config.name}", kind="OOM")
        engine, calls, breaks = create_engine(config), self.calls, self._breaks

        class Counted:
            def generate(self, requests, on_finished):
                if any(breaks(request) for request in requests):
                    raise EngineError("a prompt that kills the engine")
                calls.append((config.name, sum(len(r.seeds) for r in requests)))
                return engine.generate(requests, on_finished)

            def close(self):
                engine.close()

        return Counted()


def folder(parent, name):
    (parent / name).mkdir()
    return parent / name


def make_list(make, allocations, **changes):
    return [make(f"t{n:04}", *choices, **changes) for n, choices in enumerate(allocations)]
