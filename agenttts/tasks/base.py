"""What a task is: stages in order, each with its prompt, parsing, fusion and metrics.

A task is pure: it never calls a model. The trial draws samples for the prompts a stage writes, parses them, fuses
them and hands the fused output to the next stage. A stage whose samples must be executed, such as
programs, is an `ExecutingStage`: the trial gives it a `Toolbox` between parsing and fusing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agenttts.inference.base import Prompt
from agenttts.sandbox import Limits, Outcome
from agenttts.tasks.loading.report import LoadReport


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

    # Set by the class, or by each object.
    name: str
    temperature: float
    description: str

    @abstractmethod
    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        """The prompt whose samples this stage draws."""

    @abstractmethod
    def parse(self, text: str, example: Example) -> Any:
        """One sample's text, without the model's thinking, as a value.

        Never raises: unusable text gives the stage's empty value, and so does an empty text.
        """

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


class Toolbox(Protocol):
    """What a trial gives to its `ExecutingStage`s. May be used from several threads."""

    def run(self, files: Mapping[str, str], main: str) -> Outcome:
        """Run the Python program ``main`` of ``files`` (relative path to text) in the sandbox."""

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of length 1, a text each: their dot product is the cosine of two texts' meanings."""


@dataclass(frozen=True)
class ToolboxSettings:
    """Which parts of the `Toolbox` a task uses, and with which settings.

    ``embedding_model`` is the directory of a sentence embedding model; None: the one installed with the engines.
    """

    runs_code: bool = False
    embeds: bool = False
    limits: Limits = field(default_factory=Limits)
    embedding_model: str | None = None


class ExecutingStage(StageDefinition):
    """A stage whose parsed samples are executed: a program is run, meanings are compared.

    The result becomes part of the value, so that fusing, later prompts and metrics stay pure.
    """

    @abstractmethod
    def execute(
        self, value: Any, example: Example, outputs: Mapping[str, Any], toolbox: Toolbox
    ) -> Any:
        """The value that is fused, of a parsed sample.

        Called once for equal samples of an example.
        """

    def postprocess_fused(self, output: Any, example: Example, toolbox: Toolbox) -> Any:
        """The value that is scored and given to later stages, of the fused output.

        For work that is to be done once an example, not once a sample.
        """
        return output


@dataclass(frozen=True)
class TaskConfig:
    """The ``task:`` section of a job spec as the task itself sees it.

    ``report`` says how many bad records may be skipped, and takes what was read (`agenttts.tasks.loading.report.convert`).
    """

    data: str
    split: str = "search"
    examples: int | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    report: LoadReport = field(default_factory=LoadReport)


class Task(ABC):
    """A multi-stage task. ``main_metric`` is ``STAGE.METRIC``, e.g. ``answer.em``."""

    name: str
    description: str
    stages: tuple[StageDefinition, ...]
    main_metric: str

    @abstractmethod
    def load(self, config: TaskConfig) -> list[Example]:
        """The examples of a split, the same ones for the same config.

        Raises `agenttts.errors.UserError` naming file and record (line) for missing or malformed data.
        """

    def toolbox_settings(self, options: Mapping[str, Any]) -> ToolboxSettings | None:
        """What the `ExecutingStage`s of the task need; None when it has none.

        ``options`` as `load` takes them.
        """
        return None

    def stage(self, name: str) -> StageDefinition:
        """The stage called ``name``."""
        return next(stage for stage in self.stages if stage.name == name)
