"""The workbench of a trial: the sandbox and the embedding model, lent to stages that look beyond a sample's text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from agenttts.errors import UserError
from agenttts.inference.embedding import EmbeddingModel
from agenttts.sandbox import Outcome, check_sandbox, run_program
from agenttts.tasks.base import BenchSettings, Example, ObservingStage, Workbench

_MOST_AT_ONCE = 8
OPT_IN = "task.run_code_on_host"


class TrialBench:
    """`agenttts.tasks.base.Workbench` on this machine.

    Raises `UserError` when the task runs code, this is no container, and the user has not opted in (``on_host``);
    `MissingRequirement` when the sandbox cannot be made here. The embedding model is loaded when it is first used.
    """

    def __init__(self, settings: BenchSettings, *, on_host: bool) -> None:
        self._settings = settings
        self._embedding: EmbeddingModel | None = None
        self._lock = Lock()
        if settings.runs_code:
            if not on_host and not in_container():
                raise UserError(refusal())
            check_sandbox()

    def run(self, files: Mapping[str, str], main: str) -> Outcome:
        if not self._settings.runs_code:
            raise UserError(
                "the task runs code, but its bench() settings do not say so (runs_code)"
            )
        return run_program(files, main, self._settings.limits)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        with self._lock:
            if self._embedding is None:
                self._embedding = EmbeddingModel(self._settings.embedding_model)
            return self._embedding.embed(texts)


def in_container() -> bool:
    """Whether this process is in a container of Apptainer or Singularity."""
    names = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")
    return any(name in os.environ for name in names) and Path("/.singularity.d").is_dir()


def refusal() -> str:
    """Why code is not run outside a container, and what the user can do."""
    return (
        "this task runs programs that a model wrote, and trials would run them on this machine without a container; "
        "name an image (container.image, or one in the profile), or, if this machine may run them in the sandbox "
        f"alone, opt in with {OPT_IN}: true"
    )


def observe(
    stage: ObservingStage,
    bench: Workbench,
    candidates: Sequence[Sequence[Any]],
    examples: Sequence[Example],
    outputs: Sequence[Mapping[str, Any]],
) -> list[list[Any]]:
    """Every example's parsed samples as `ObservingStage.observe` completes them, equal ones looked at once."""
    # As many as there are cores: a program that is slow to fail must not pass for one that runs. But two at least,
    # because most wait for input and take no time of a core's.
    cores = len(os.sched_getaffinity(0))
    pool = ThreadPoolExecutor(min(max(cores, 2), _MOST_AT_ONCE))
    try:
        looks: list[dict[str, Future[Any]]] = []
        for values, example, earlier in zip(candidates, examples, outputs, strict=True):
            by_value: dict[str, Future[Any]] = {}
            for value in values:
                if (key := _key(value)) not in by_value:
                    by_value[key] = pool.submit(stage.observe, value, example, earlier, bench)
            looks.append(by_value)
        return [
            [by_value[_key(value)].result() for value in values]
            for values, by_value in zip(candidates, looks, strict=True)
        ]
    finally:
        # A trial that is told to stop does not start what waits.
        pool.shutdown(cancel_futures=True)


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
