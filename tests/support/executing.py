"""What suites over all tasks need for `ExecutingStage`s.

A conformance suite asks that perfect replies score 1. Of a program that takes a run and a
comparison of meanings, so the suite executes parsed samples as a trial would, with a toolbox where
every program starts and every text means the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agenttts.sandbox import Outcome
from agenttts.tasks.base import Example, ExecutingStage, StageDefinition


class AcceptingToolbox:
    """Every program starts; every text means the same."""

    def run(self, files: Mapping[str, str], main: str) -> Outcome:
        return Outcome(exit_code=0, stopped=None, stdout="", stderr="", seconds=0.0)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[1.0] for _ in texts]


def executed(stage: StageDefinition, value: Any, example: Example, outputs: Mapping[str, Any]) -> Any:  # fmt: skip
    """A parsed sample as it is fused."""
    if isinstance(stage, ExecutingStage):
        return stage.execute(value, example, outputs, AcceptingToolbox())
    return value


def postprocessed(stage: StageDefinition, output: Any, example: Example) -> Any:
    """A fused output as it is scored and handed on."""
    return stage.postprocess_fused(output, example, AcceptingToolbox()) if isinstance(stage, ExecutingStage) else output  # fmt: skip


def perfect_chatdev(example: Example) -> dict[str, str]:
    """A reply a stage that cannot be bettered."""
    program = f"main.py\n```python\nprint({example.data['name']!r})\n```"
    return dict.fromkeys(("coding", "static_testing", "dynamic_testing"), program)
