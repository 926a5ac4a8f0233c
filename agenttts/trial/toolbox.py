"""The toolbox of a trial: the sandbox and the embedding model.

The trial's `ExecutingStage`s use it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from agenttts.errors import UserError
from agenttts.files.processes import usable_cpus
from agenttts.files.unicode import clean_value
from agenttts.inference.embedding import EmbeddingModel
from agenttts.sandbox import Outcome, check_sandbox, run_program
from agenttts.tasks.base import Example, ExecutingStage, Task, Toolbox, ToolboxSettings

_MOST_AT_ONCE = 8


class TrialToolbox:
    """`agenttts.tasks.base.Toolbox` on this machine.

    The embedding model is loaded when it is first used in this process. All trials share it.

    Raises:
        UserError: The task runs code, this is not a container, and the user has not allowed that
            (``on_host``).
        MissingRequirement: The sandbox cannot be made here.
    """

    def __init__(self, settings: ToolboxSettings, *, on_host: bool) -> None:
        self._settings = settings
        if settings.runs_code:
            if not on_host and not in_container():
                raise UserError(refusal(), at=("run_code_on_host",))
            check_sandbox()

    def run(self, files: Mapping[str, str], main: str) -> Outcome:
        if not self._settings.runs_code:
            raise UserError(
                "the task runs code, but its toolbox_settings() do not say so (runs_code)"
            )
        return run_program(files, main, self._settings.limits)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        with _EMBEDDING:
            return _embedding_model(self._settings.embedding_model).embed(texts)


_EMBEDDING = Lock()


@cache
def _embedding_model(path: str | None) -> EmbeddingModel:
    return EmbeddingModel(path)


def in_container() -> bool:
    """Return whether this process is in a container of Apptainer or Singularity."""
    names = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")
    return any(name in os.environ for name in names) and Path("/.singularity.d").is_dir()


def toolbox_settings(task: Task, options: Mapping[str, Any]) -> ToolboxSettings | None:
    """Return what the stages of a task need of a toolbox; None if they need none.

    Raises:
        UserError: The options are not valid, or the task gives no settings for its
            `ExecutingStage`.
    """
    settings = task.toolbox_settings(task.read_options(options))
    executing = [stage.name for stage in task.stages if isinstance(stage, ExecutingStage)]
    if settings is None and executing:
        raise UserError(
            f"stage '{executing[0]}' is an ExecutingStage, but its task's "
            "toolbox_settings() returns None; return ToolboxSettings",
            at=("name",),
        )
    return settings


def refusal() -> str:
    """Return why code is not run outside a container, and what the user can do."""
    return (
        "this task runs programs that a model wrote, and trials would run them on this machine "
        "without a container; name an image in the section container of the spec or the profile, "
        "or, if this machine may run them in the sandbox alone, set run_code_on_host: true"
    )


def execute_samples(
    stage: ExecutingStage,
    toolbox: Toolbox,
    candidates: Sequence[Sequence[Any]],
    examples: Sequence[Example],
    outputs: Sequence[Mapping[str, Any]],
) -> list[list[Any]]:
    """Return every example's parsed samples, completed by `ExecutingStage.execute`.

    Equal samples of an example are executed once. Halves of characters become question marks.
    """
    # As many at a time as there are cores. With more, a program that fails slowly would reach its
    # time limit before it fails, and would count as one that runs. Two at least, because most
    # programs wait for input and use no core.
    pool = ThreadPoolExecutor(min(max(usable_cpus(), 2), _MOST_AT_ONCE))
    try:
        executions: list[dict[str, Future[Any]]] = []
        for values, example, earlier in zip(candidates, examples, outputs, strict=True):
            by_value: dict[str, Future[Any]] = {}
            for value in values:
                if (key := _key(value)) not in by_value:
                    by_value[key] = pool.submit(stage.execute, value, example, earlier, toolbox)
            executions.append(by_value)
        return [
            [clean_value(by_value[_key(value)].result()) for value in values]
            for values, by_value in zip(candidates, executions, strict=True)
        ]
    finally:
        # When the trial is told to stop, executions that have not started are dropped.
        pool.shutdown(cancel_futures=True)


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
