"""A task: stages in order, each with its prompt, parsing, fusion and metrics.

A task is pure: it never calls a model. The trial draws samples for the prompts that a stage writes,
parses them, fuses them and passes the fused output to the next stage. If samples must be executed,
as programs are, the stage is an `ExecutingStage`: the trial gives it a `Toolbox` between parsing
and fusing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from agenttts.errors import located
from agenttts.inference.base import Prompt
from agenttts.sandbox import Limits, Outcome
from agenttts.spec.section import Options
from agenttts.spec.strict import read_options
from agenttts.tasks.loading.report import LoadReport


@dataclass(frozen=True)
class Example:
    """One input of the task.

    ``id`` is the same in every run. ``data`` has a form of the task's own.
    """

    id: str
    data: Any


@dataclass(frozen=True)
class Fusion:
    """Fusing by the stage's own model: one more call with this prompt and temperature."""

    prompt: Prompt
    temperature: float


class StageDefinition(ABC):
    """One stage of a task.

    ``outputs`` always maps the names of earlier stages to their fused outputs for this example.
    Outputs are JSON values, so that tables can store them.
    """

    # Set by the class or by each object.
    name: str
    temperature: float
    description: str

    @abstractmethod
    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        """Return the prompt whose samples this stage draws."""

    @abstractmethod
    def parse(self, text: str, example: Example) -> Any:
        """Return one sample's text as a value.

        Never raises: unusable text gives the stage's empty value, and so does an empty text. Halves
        of characters in the value (lone surrogates) become question marks.

        Args:
            text: The sample without the model's thinking.
            example: The example that it was drawn for.
        """

    def fusion(
        self, candidates: Sequence[Any], example: Example, outputs: Mapping[str, Any]
    ) -> Fusion | None:
        """Return the call that fuses k > 1 candidates, or None if `fuse` needs no model."""
        return None

    @abstractmethod
    def fuse(self, candidates: Sequence[Any], example: Example) -> Any:
        """Fuse candidates without a model; a single candidate is returned as it is."""

    @abstractmethod
    def metrics(self, output: Any, example: Example) -> dict[str, float]:
        """Return scores in [0, 1] of one example's fused output, by metric name.

        The names have no stage prefix. The higher a score, the better: the search maximises the
        main metric, and takes the mean of another stage's metrics as the quality of its output. So
        return 1 - error rate, and no latency.
        """


class Toolbox(Protocol):
    """The tools that a trial gives to its `ExecutingStage`s.

    Several threads may use them at once.
    """

    def run(self, files: Mapping[str, str], main: str) -> Outcome:
        """Run a Python program in the sandbox.

        Args:
            files: Texts of the program's files, by relative path.
            main: The file to start.
        """

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector of length 1 for each text.

        The dot product of two vectors is the cosine similarity of the texts' meanings.
        """


@dataclass(frozen=True)
class ToolboxSettings:
    """The parts of the `Toolbox` that a task uses, and their settings.

    ``embedding_model`` is the directory of a sentence embedding model. None: the one installed with
    the engines.
    """

    runs_code: bool = False
    embeds: bool = False
    limits: Limits = field(default_factory=Limits)
    embedding_model: str | None = None


class ExecutingStage(StageDefinition):
    """A stage whose parsed samples are executed.

    For example, a program is run or meanings are compared. The result becomes part of the value, so
    that fusing, later prompts and metrics stay pure.
    """

    @abstractmethod
    def execute(
        self, value: Any, example: Example, outputs: Mapping[str, Any], toolbox: Toolbox
    ) -> Any:
        """Execute a parsed sample and return the value that is fused.

        Equal samples of an example are executed once.
        """

    def postprocess_fused(self, output: Any, example: Example, toolbox: Toolbox) -> Any:
        """Return the value that is scored and passed to later stages.

        It is made of the fused output. Work that is needed once for each example, instead of once
        for each sample, belongs here.
        """
        return output


@dataclass(frozen=True)
class TaskConfig:
    """The ``task:`` section of a job spec, as the task sees it.

    ``options`` are as `Task.read_options` returns them. ``report`` says how many bad records may be
    skipped, and records what was read (`agenttts.tasks.loading.report.convert`).
    """

    data: str
    split: str = "search"
    examples: int | None = None
    seed: int = 0
    options: Any = field(default_factory=dict)
    report: LoadReport = field(default_factory=LoadReport)


class Task(ABC):
    """A multi-stage task.

    ``main_metric`` is ``STAGE.METRIC``, e.g. ``answer.em``. ``options_model`` is the section that
    declares the task's options. A task that declares none gets any options as they are written.
    """

    name: str
    description: str
    stages: tuple[StageDefinition, ...]
    main_metric: str
    options_model: ClassVar[type[Options] | None] = None

    @abstractmethod
    def load(self, config: TaskConfig) -> list[Example]:
        """Return the examples of a split; the same config gives the same examples.

        Raises:
            UserError: Data are missing or malformed; the message names file and record (line).
        """

    def read_options(self, given: Options | Mapping[str, Any]) -> Any:
        """Return options as the section that the task declares.

        Options that were read already are returned as they are.

        Raises:
            UserError: Options are unknown or not valid; located as in the section ``task``.
        """
        if self.options_model is None or isinstance(given, Options):
            return given
        with located("options"):
            return read_options(self.options_model, given, f"task '{self.name}'")

    def toolbox_settings(self, options: Any) -> ToolboxSettings | None:
        """Return the settings of the tools that the task's `ExecutingStage`s need.

        It is None if there are no such stages. ``options`` are the same as for `load`.
        """
        return None

    def stage(self, name: str) -> StageDefinition:
        """Return the stage called ``name``."""
        return next(stage for stage in self.stages if stage.name == name)
