"""The model of a job spec: unknown keys are errors, and fields state their units."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from agenttts.errors import KeyPath, counted, located, shortened, valid_names
from agenttts.space import Model, SearchSpace, Stage
from agenttts.spec.agent import AgentSection, ScriptedAgent, ServeAgent, check_kind
from agenttts.spec.allocations import ChoiceSection
from agenttts.spec.engine_options import from_command_line
from agenttts.spec.paths import (
    absolute,
    absolute_bind,
    absolute_data,
    absolute_if_path,
    absolute_model_options,
    absolute_option,
)
from agenttts.spec.section import PlacedError, Section
from agenttts.spec.source import Source
from agenttts.spec.stage_names import BASELINE_KEY, check_names_in_replies, check_stage_names
from agenttts.spec.thinking import ThinkingSetting, check_template_args, check_thinking

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class TaskSection(Section):
    """The task, its data and the number of examples."""

    name: str
    """A built-in task, ``FILE.yaml``, ``FILE.py:Class`` or ``package.module:Class``."""
    data: str = ""
    """A file, a Hugging Face ``datasets`` id or ``builtin:NAME``.

    Empty: the task's built-in data set.
    """
    split: str = "search"
    """The part of the data that the trials are scored on.

    ``search`` has the examples that the search uses. ``test`` (for ``evaluate``) has the examples
    that follow in the data. ``options.search_examples`` sets how many examples ``search`` has. If
    this option is not set, ``search`` has half of the records.
    """
    examples: Annotated[int, Field(ge=1)] | None = None
    """The number of examples that are read from the split; None: all.

    If ``search.examples`` is not set, a trial is scored on all of these examples.
    """
    skip_bad: Annotated[int, Field(ge=0)] = 0
    """How many bad records of a file or hub split may be skipped; more bad ones are an error."""
    options: dict[str, Any] = {}
    """Options of the task."""
    run_code_on_host: bool = False
    """Let a task run a model's programs in the sandbox without a container."""


class SampleValues(Section):
    """An explicit list of sample counts."""

    values: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    """The sample counts."""


MOST_SAMPLES = 100_000
"""The largest sample count; it limits the size of the search space."""


class StageSection(Section):
    """One stage: its models, nominal token counts and allowed sample counts."""

    models: Annotated[list[str], Field(min_length=1)]
    """Names of the models that the stage may use."""
    prompt_tokens: Annotated[int, Field(ge=1)]
    """Nominal tokens of a prompt; the budget counts them."""
    decode_tokens: Annotated[int, Field(ge=1)]
    """Nominal tokens of a sample; the budget counts them. Longer samples are cut."""
    samples: list[int] | SampleValues = [1, 100]
    """The allowed sample counts: ``[low, high]``, or ``{values: [1, 2, 4]}``."""

    @field_validator("samples")
    @classmethod
    def _check_range(cls, value: list[int] | SampleValues) -> list[int] | SampleValues:
        if isinstance(value, list) and not (len(value) == 2 and 1 <= value[0] <= value[1]):
            raise ValueError(
                f"{value} is not a valid sample range; valid: [low, high] with 1 <= low <= high, "
                "or {values: [1, 2, 4]}"
            )
        return value

    @field_validator("samples")
    @classmethod
    def _check_most(cls, value: list[int] | SampleValues) -> list[int] | SampleValues:
        most = max(value.values if isinstance(value, SampleValues) else value)
        if most > MOST_SAMPLES:
            raise ValueError(f"{most} samples are too many; valid: at most {MOST_SAMPLES}")
        return value

    @property
    def sample_counts(self) -> tuple[int, ...]:
        """Every allowed sample count, ascending."""
        if isinstance(self.samples, SampleValues):
            return tuple(sorted(set(self.samples.values)))
        return tuple(range(self.samples[0], self.samples[1] + 1))


class ModelSection(Section):
    """A model: where its files are, its nominal size and how to run it."""

    path: str
    """A directory or a hub id. For ``engine: endpoint``, the server's id of the model; for
    ``engine: scripted``, the file of the replies."""
    revision: str | None = None
    """Revision of a hub id; for ``engine: endpoint``, any text. Samples of another revision are
    not used."""
    params: Annotated[float, Field(gt=0)]
    """Nominal parameters, e.g. 7.0e9; the budget counts them."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs of one engine.

    None: derived from the model's config.json and the profile's GPU memory.
    """
    engine: Literal["vllm", "transformers", "endpoint", "scripted"] = "vllm"
    """What draws the samples."""
    prompt_style: Literal["chat", "few_shot_chat", "few_shot_completion"] = "chat"
    """A chat; a chat with worked examples; or plain text with worked examples (base models)."""
    options: dict[str, Any] = {}
    """Options of the engine.

    For vLLM: dtype, quantization, max_model_len, tensor_parallel_size, ... Values may be written as
    on vLLM's command line: JSON objects and, where vLLM takes them, ``8k`` (8,000) or ``8K``
    (8,192).
    """
    thinking: ThinkingSetting = "auto"
    """The markers around the model's thinking.

    With ``auto``, the markers are taken from the model's chat template and tokens.
    """
    template_args: dict[str, Any] = {}
    """Arguments of the chat template, e.g. ``{enable_thinking: false}``."""

    @property
    def files(self) -> Path | None:
        """The directory of the model, or the file of replies (``engine: scripted``).

        None for a hub id or a model on a server.
        """
        path = Path(self.path)
        return path if self.engine != "endpoint" and path.is_absolute() else None

    @field_validator("options")
    @classmethod
    def _read_options(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return from_command_line(value) if info.data.get("engine") == "vllm" else value

    @field_validator("thinking", mode="before")
    @classmethod
    def _check_thinking(cls, value: Any) -> Any:
        return check_thinking(value)

    @field_validator("template_args")
    @classmethod
    def _check_template_args(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_template_args(value)

    @field_validator("params", mode="before")
    @classmethod
    def _as_float(cls, value: Any) -> Any:
        """Convert a whole number, or a text such as ``7e9``, to a float."""
        if isinstance(value, str) and re.fullmatch(r"\d+(\.\d*)?[eE]\+?\d+", value):
            return float(value)
        return float(value) if type(value) is int else value


class TestSplitSection(Section):
    """The final test: the best allocations, scored on examples new to the search."""

    split: str = "test"
    """The split of the final test."""
    examples: Annotated[int, Field(ge=1)] | None = None
    """Number of examples.

    None: all examples of the split that neither the search nor the finalists use.
    """
    top: Annotated[int, Field(ge=1)] = 1
    """Number of allocations, the best first.

    If the run has finalists, these come in the order of their scores. Otherwise the recommended
    allocation comes first, then the best of the other allocations.
    """


class FinalistsSection(Section):
    """The finalists: the best allocations, scored again on more examples.

    The report names the best finalist as the result.
    """

    examples: Annotated[int, Field(ge=2)]
    """Number of examples of the search split; more than a trial of the search has."""
    top: Annotated[int, Field(ge=2)] = 3
    """Number of finalists: the recommended allocation and the best of the other allocations."""


class StopSection(Section):
    """When the search may end before its last iteration."""

    within: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """How far the recommended allocation may be below the best.

    This distance is a share of the best allocation's expected score. If that score is negative, its
    absolute value is used.
    """
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.9
    """The least probability that the recommended allocation is within this distance."""


class ExamplesSection(Section):
    """The number of examples that a trial is scored on.

    Different trials may be scored on different examples. Good allocations are scored again, on
    further examples.
    """

    first: Annotated[int, Field(ge=1)]
    """Number of examples of an allocation's first trial.

    Each further trial of the allocation adds the same number of examples.
    """
    most: Annotated[int, Field(ge=1)] | None = None
    """The most examples of an allocation; None: all examples of the task."""

    @model_validator(mode="after")
    def _check(self) -> ExamplesSection:
        if self.most is not None and self.first > self.most:
            raise ValueError(f"first ({self.first}) is above most ({self.most}); lower first")
        return self


class SearchSection(Section):
    """How allocations are searched.

    One unit of ``budget`` is one sample, 64 tokens long, of a reference model with 3e9 parameters
    (`agenttts.space`).
    """

    method: str = "agenttts"
    """The searcher."""
    budget: Annotated[float, Field(gt=0)]
    """The most that one example may cost."""
    iterations: Annotated[int, Field(ge=0)] = 5
    """Number of iterations after the initial trials."""
    batch_size: Annotated[int, Field(ge=1)] = 10
    """Trials of one iteration."""
    asynchronous: bool = False
    """Whether a new trial is proposed as soon as another one ends.

    ``batch_size`` trials then run at a time. Two runs with one seed may differ, because the
    proposals depend on the order in which trials end.
    """
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the examples, the samples and the method."""
    options: dict[str, Any] = {}
    """Options of the method."""
    first: list[dict[str, ChoiceSection]] = []
    """The user's own allocations, tried before the allocations of the method.

    ``baseline: true`` makes one of them the baseline. The report compares the recommended
    allocation with the baseline. (See `agenttts.spec.allocations`.)
    """
    baseline: Annotated[int, Field(ge=0)] | None = None
    """The position in ``first`` of the allocation with ``baseline: true``, from 0.

    It is set from the entry with this mark."""
    examples: ExamplesSection | None = None
    """None: every trial is scored on all examples of the task.

    ``examples: 40`` means ``{first: 40, most: 40}``.
    """
    stored: bool = True
    """Whether the method also gets scores that a trial's models would have with fewer samples.

    These scores are computed from the samples of the trial.
    """
    stop: StopSection | None = None
    """None: the search ends after its last iteration."""
    finalists: FinalistsSection | None = None
    """None: there are no finalists, and the result is the recommended allocation."""
    test_split: TestSplitSection | None = None
    """None: no final test. A plain text, such as ``test_split: test``, is the name of the split."""

    @model_validator(mode="before")
    @classmethod
    def _take_baseline_mark(cls, values: Any) -> Any:
        """Set ``baseline`` by the mark in ``first``, and remove the mark."""
        first = values.get("first") if isinstance(values, dict) else None
        if not isinstance(first, list):
            return values
        marked = []
        for position, item in enumerate(first):
            mark = item.get(BASELINE_KEY) if isinstance(item, dict) else None
            if mark is not None and not isinstance(mark, bool):
                raise PlacedError(
                    ("search", "first", position, BASELINE_KEY),
                    f"'{shortened(str(mark))}' is not valid; valid: true or false",
                )
            marked += [position] if mark else []
        if len(marked) > 1:
            raise PlacedError(
                ("search", "first", marked[1], BASELINE_KEY),
                f"entry {marked[0]} is marked as the baseline too; mark only one entry",
            )
        kept = [
            {name: choice for name, choice in item.items() if name != BASELINE_KEY}
            if isinstance(item, dict)
            else item
            for item in first
        ]
        return {**values, "first": kept, **({BASELINE_KEY: marked[0]} if marked else {})}

    @model_validator(mode="after")
    def _check_baseline(self) -> SearchSection:
        if self.baseline is not None and self.baseline >= len(self.first):
            raise PlacedError(
                ("search", BASELINE_KEY),
                f"{self.baseline} is not the position of an allocation in first, which has "
                f"{counted(len(self.first), 'allocation')}; write "
                "'baseline: true' beside the choices of one of them",
            )
        return self

    @field_validator("test_split", mode="before")
    @classmethod
    def _expand_split(cls, value: Any) -> Any:
        return {"split": value} if isinstance(value, str) else value

    @field_validator("examples", mode="before")
    @classmethod
    def _expand_examples(cls, value: Any) -> Any:
        return {"first": value, "most": value} if type(value) is int else value

    @field_validator("budget", mode="before")
    @classmethod
    def _as_float(cls, value: Any) -> Any:
        return float(value) if type(value) is int else value


class ContainerSection(Section):
    """The container of trials.

    An image replaces the profile's; binds are added to the profile's.
    """

    image: str | None = None
    """The image; None: the profile's."""
    binds: list[str] = []
    """Further ``HOST[:CONTAINER[:ro]]`` binds.

    The run with its examples, the sample store, the models and the paths in options are always
    bound."""


class JobSpec(Section):
    """A whole experiment, as ``launch`` takes it."""

    name: str
    """Name of the run and its directory: letters, digits, '.', '_' and '-', at most 64."""
    task: TaskSection
    """The task and its data."""
    stages: Annotated[dict[str, StageSection], Field(min_length=1)]
    """All stages of the task, by name."""
    models: Annotated[dict[str, ModelSection], Field(min_length=1)]
    """The models by the names that the stages use."""
    search: SearchSection
    """How allocations are searched, and within which budget."""
    agent: AgentSection = "none"
    """The language model that the search asks, if any (see `agenttts.spec.agent`)."""
    cluster: str = "local"
    """The profile: ``local``, ``in_process``, NAME of ``slurm/NAME.yaml``, or a file."""
    container: ContainerSection = Field(default_factory=ContainerSection)
    """The container of trials; see `ContainerSection`."""
    samples: str | None = None
    """Directory of a sample store that runs share; None: the run's ``samples/``."""
    _source: Source = PrivateAttr(default=Source("", {}))

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not RUN_NAME.fullmatch(value):
            raise ValueError(
                f"'{value}' is not a valid run name; valid: letters, digits, '.', '_' and '-', "
                "at most 64, first a letter or digit"
            )
        return value

    @field_validator("stages")
    @classmethod
    def _check_stages(cls, value: dict[str, StageSection]) -> dict[str, StageSection]:
        check_stage_names(value)
        return value

    @field_validator("agent", mode="before")
    @classmethod
    def _check_agent(cls, value: Any) -> Any:
        return check_kind(value)

    @model_validator(mode="after")
    def _check_replies(self) -> JobSpec:
        if self.agent != "none":
            check_names_in_replies(self.stages)
        return self

    @model_validator(mode="after")
    def _check_models(self) -> JobSpec:
        for stage, section in self.stages.items():
            for position, model in enumerate(section.models):
                if model not in self.models:
                    raise PlacedError(
                        ("stages", stage, "models", position),
                        f"unknown model '{shortened(model)}'; " + valid_names(model, self.models),
                    )
            if len(set(section.models)) != len(section.models):
                raise PlacedError(("stages", stage, "models"), "a model is listed twice")
        for name, given in self.models.items():
            if given.template_args and given.prompt_style == "few_shot_completion":
                raise PlacedError(
                    ("models", name, "template_args"),
                    "prompt_style few_shot_completion writes plain text and applies no chat "
                    "template, so its arguments "
                    "would be ignored; leave template_args out, or set prompt_style: chat",
                )
        return self

    def with_source(self, source: Source) -> JobSpec:
        """Return a copy of the spec that knows the file and line of each of its keys."""
        spec = self.model_copy()
        spec._source = source
        return spec

    def located(self) -> AbstractContextManager[None]:
        """Return a context that adds file and line to errors about values of this spec."""
        return self._source.located()

    def overridden(self) -> tuple[KeyPath, ...]:
        """Return the keys whose values were given with ``--set``."""
        return self._source.overridden()

    def space(self) -> SearchSpace:
        """Return the search space.

        Raises:
            UserError: No allocation fits the budget.
        """
        stages = tuple(
            Stage(
                name=name,
                models=tuple(Model(model, self.models[model].params) for model in section.models),
                prompt_tokens=section.prompt_tokens,
                decode_tokens=section.decode_tokens,
                samples=section.sample_counts,
            )
            for name, section in self.stages.items()
        )
        with self.located(), located("search"):
            return SearchSpace(stages, self.search.budget)

    def with_absolute_paths(self, base: Path) -> JobSpec:
        """Return the same spec with absolute paths, and ``~`` and variables replaced.

        The functions of `agenttts.spec.paths` decide which values are paths.

        Args:
            base: Directory of the spec file. Relative paths are relative to this directory.

        Raises:
            UserError: A variable is not set.
        """
        samples = absolute(self.samples, base, ("samples",)) if self.samples else None
        return self.model_copy(
            update={
                "task": _anchored_task(self.task, base),
                "models": {
                    name: _anchored_model(name, model, base) for name, model in self.models.items()
                },
                "container": _anchored_container(self.container, base),
                "samples": samples,
                "agent": _anchored_agent(self.agent, base),
                "search": _anchored_search(self.search, base),
            }
        )


_NAMES_IN_DATA = ("records_key", "hub_split")
"""Options of tasks that are never paths, because they name a part of the data."""


def _anchored_task(task: TaskSection, base: Path) -> TaskSection:
    options = {
        name: value
        if name in _NAMES_IN_DATA
        else absolute_option(value, base, ("task", "options", name))
        for name, value in task.options.items()
    }
    name = _anchored_task_name(task.name, base)
    data = absolute_data(task.data, base, ("task", "data"))
    return task.model_copy(update={"name": name, "data": data, "options": options})


def _anchored_task_name(name: str, base: Path) -> str:
    if name.endswith((".yaml", ".yml")):
        return absolute_if_path(name, base, ("task", "name"))
    file, separator, class_name = name.rpartition(":")
    if file.endswith(".py"):
        return f"{absolute(file, base, ('task', 'name'))}{separator}{class_name}"
    return name


def _anchored_model(name: str, model: ModelSection, base: Path) -> ModelSection:
    path = model.path
    if model.engine != "endpoint":
        path = absolute_if_path(path, base, ("models", name, "path"))
    options = absolute_model_options(model.options, base, ("models", name, "options"))
    return model.model_copy(update={"path": path, "options": options})


def _anchored_container(container: ContainerSection, base: Path) -> ContainerSection:
    image = container.image
    binds = [
        absolute_bind(bind, base, ("container", "binds", number))
        for number, bind in enumerate(container.binds)
    ]
    found = absolute_if_path(image, base, ("container", "image")) if image else None
    return container.model_copy(update={"image": found, "binds": binds})


def _anchored_agent(agent: AgentSection, base: Path) -> AgentSection:
    if isinstance(agent, ScriptedAgent):
        return agent.model_copy(
            update={"replies": absolute(agent.replies, base, ("agent", "replies"))}
        )
    if isinstance(agent, ServeAgent):
        return agent.model_copy(
            update={
                "model": absolute_if_path(agent.model, base, ("agent", "model")),
                "options": absolute_model_options(agent.options, base, ("agent", "options")),
            }
        )
    return agent


def _anchored_search(search: SearchSection, base: Path) -> SearchSection:
    """Return the section with absolute paths in mlcopilot's option ``knowledge``."""
    knowledge = search.options.get("knowledge")
    if not isinstance(knowledge, list) or not all(isinstance(k, str) for k in knowledge):
        return search
    key = ("search", "options", "knowledge")
    anchored = [absolute_if_path(k, base, (*key, n)) for n, k in enumerate(knowledge)]
    return search.model_copy(update={"options": {**search.options, "knowledge": anchored}})
