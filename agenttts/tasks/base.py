"""What a task is: stages in order, each with its prompt, parsing, fusion and metrics.

A task is pure: it never calls a model. The trial draws samples for the prompts a stage writes, parses them, fuses
them and hands the fused output to the next stage.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from agenttts.inference.base import Prompt


@dataclass(frozen=True)
class Example:
    """One input of the task. ``id`` is stable over runs; ``data`` is the task's own."""

    id: str
    data: Any


@dataclass(frozen=True)
class Fusion:
    """Fusing by the stage's own model: one more call with this prompt at this temperature."""

    prompt: Prompt
    temperature: float


class StageDefinition(ABC):
    """One stage of a task.

    ``outputs`` always maps the names of earlier stages to their fused outputs for this example. Outputs are JSON
    values, so that they can be stored in tables.
    """

    name: ClassVar[str]
    temperature: ClassVar[float]
    description: ClassVar[str]

    @abstractmethod
    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        """The prompt whose samples this stage draws."""

    @abstractmethod
    def parse(self, text: str, example: Example) -> Any:
        """One sample's text as a value. Never raises: unusable text gives the stage's empty value."""

    def fusion(
        self, candidates: Sequence[Any], example: Example, outputs: Mapping[str, Any]
    ) -> Fusion | None:
        """The call that fuses k > 1 candidates, or None when `fuse` does it without a model."""
        return None

    @abstractmethod
    def fuse(self, candidates: Sequence[Any], example: Example) -> Any:
        """Fuse candidates without a model; of one candidate, that candidate."""

    @abstractmethod
    def metrics(self, output: Any, example: Example) -> dict[str, float]:
        """Scores in [0, 1] of the fused output of one example, by metric name (no stage prefix)."""


@dataclass(frozen=True)
class TaskConfig:
    """The ``task:`` section of a job spec as the task itself sees it."""

    data: str
    split: str = "search"
    examples: int | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """A multi-stage task. ``main_metric`` is ``STAGE.METRIC``, e.g. ``answer.em``."""

    name: ClassVar[str]
    description: ClassVar[str]
    stages: ClassVar[tuple[StageDefinition, ...]]
    main_metric: ClassVar[str]

    @abstractmethod
    def load(self, config: TaskConfig) -> list[Example]:
        """The examples of a split, the same ones for the same config.

        Raises `agenttts.errors.UserError` naming file and record (line) for missing or malformed data.
        """

    def stage(self, name: str) -> StageDefinition:
        """The stage called ``name``."""
        return next(stage for stage in self.stages if stage.name == name)
