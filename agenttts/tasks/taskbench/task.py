"""Task automation: split a request into steps, choose tools, fill in arguments.

The data are TaskBench's. As in the paper, each stage fills in one part of a JSON plan and gets the
parts of earlier stages. The same model merges k samples, drawn at temperature 0.5, with a call at
temperature 0.5.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from agenttts.inference.base import Prompt
from agenttts.tasks.base import Example, Fusion, StageDefinition, Task, TaskConfig
from agenttts.tasks.metrics import rouge_l, set_overlap
from agenttts.tasks.options import SplitOptions
from agenttts.tasks.taskbench.arguments import argument_overlap, name_overlap
from agenttts.tasks.taskbench.data import TaskBenchExample, load_requests, tool_name
from agenttts.tasks.taskbench.prompts import (
    arguments_prompt,
    calls_json,
    merge_prompt,
    shot_arguments,
    shot_steps,
    shot_tools,
    steps_json,
    steps_prompt,
    tools_json,
    tools_prompt,
)
from agenttts.tasks.taskbench.replies import parse_calls, parse_steps, parse_tools
from agenttts.tasks.votes import most_frequent

TEMPERATURE = 0.5
FUSION_TEMPERATURE = 0.5


class PlanStage(StageDefinition):
    """A stage that fills in one part of the plan.

    Its output is a list, which is empty if nothing could be read.
    """

    temperature = TEMPERATURE
    shot_part: ClassVar[staticmethod[[Any], str]]
    """Returns the stage's part of a worked example's plan."""

    @abstractmethod
    def as_json(self, output: list[Any]) -> str:
        """Return an output as the part of a plan that a model writes."""

    def fusion(
        self, candidates: Sequence[list[Any]], example: Example, outputs: Mapping[str, Any]
    ) -> Fusion | None:
        """Return one more call that merges the candidates.

        There is none for a single sample, or if no candidate could be read.
        """
        given = [self.as_json(candidate) for candidate in candidates if candidate]
        if len(candidates) < 2 or not given:
            return None
        record = TaskBenchExample.of(example)
        prompt = merge_prompt(self.shot_part, record.resources, record.instruction, given)
        return Fusion(prompt, FUSION_TEMPERATURE)

    def fuse(self, candidates: Sequence[list[Any]], example: Example) -> list[Any]:
        """Return the most frequent candidate that is not empty; the first on a tie."""
        return most_frequent(filter(None, candidates), self.as_json) or []


class Decomposition(PlanStage):
    """Splits the request into steps; the output is a list of texts."""

    name = "decomposition"
    description = "Break the request down into steps, one for each tool it takes."
    shot_part = staticmethod(shot_steps)

    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        record = TaskBenchExample.of(example)
        return steps_prompt(record.instruction, record.tools, record.resources)

    def parse(self, text: str, example: Example) -> list[str]:
        return parse_steps(text)

    def as_json(self, output: list[str]) -> str:
        return steps_json(output)

    def metrics(self, output: list[str], example: Example) -> dict[str, float]:
        """Return ROUGE-L's F1 of all steps, as lines of one text, against the gold steps."""
        gold = TaskBenchExample.of(example).steps
        return {"rouge_l": rouge_l("\n".join(output), "\n".join(gold)).f1}


class ToolSelection(PlanStage):
    """Chooses the tools; the output is a list of their names, one for each step."""

    name = "tool_selection"
    description = "Choose the tool for each step of the plan."
    shot_part = staticmethod(shot_tools)

    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        record = TaskBenchExample.of(example)
        steps = outputs[Decomposition.name]
        return tools_prompt(record.instruction, record.tools, record.resources, steps)

    def parse(self, text: str, example: Example) -> list[str]:
        return parse_tools(text, [tool.id for tool in TaskBenchExample.of(example).tools])

    def as_json(self, output: list[str]) -> str:
        return tools_json(output)

    def metrics(self, output: list[str], example: Example) -> dict[str, float]:
        """Return precision, recall and F1 of the set of tools (TaskBench's node scores)."""
        gold = {tool_name(call.tool) for call in TaskBenchExample.of(example).calls}
        return dataclasses.asdict(set_overlap({tool_name(name) for name in output}, gold))


class ParameterPrediction(PlanStage):
    """Fills in the arguments.

    The output is a list of calls, ``{task, arguments}`` as in the data.
    """

    name = "parameter_prediction"
    description = "Fill in the arguments of each chosen tool."
    shot_part = staticmethod(shot_arguments)

    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        record = TaskBenchExample.of(example)
        return arguments_prompt(
            record.instruction,
            record.tools,
            record.resources,
            outputs[Decomposition.name],
            outputs[ToolSelection.name],
        )

    def parse(self, text: str, example: Example) -> list[dict[str, Any]]:
        return parse_calls(text, TaskBenchExample.of(example).resources)

    def as_json(self, output: list[dict[str, Any]]) -> str:
        return calls_json(output)

    def metrics(self, output: list[dict[str, Any]], example: Example) -> dict[str, float]:
        """Return precision, recall and F1 of arguments with values, and F1 of names alone.

        These are TaskBench's v-F1 and t-F1.
        """
        record = TaskBenchExample.of(example)
        overlap = dataclasses.asdict(argument_overlap(output, record))
        return {**overlap, "name_f1": name_overlap(output, record).f1}


class TaskBenchOptions(SplitOptions):
    """The options of `taskbench`."""

    tools: Annotated[str, Field(min_length=1, description="the path of a tool_desc.json")] = ""
    """The file of the tools' descriptions; unset: ``tool_desc.json`` beside the data."""


class TaskBench(Task):
    """Decomposition, tool selection and parameter prediction."""

    name = "taskbench"
    description = (
        "Automate a request: break it down into steps, choose a tool for each, and "
        "fill in the tools' arguments."
    )
    stages = (Decomposition(), ToolSelection(), ParameterPrediction())
    main_metric = "parameter_prediction.f1"
    options_model = TaskBenchOptions

    def load(self, config: TaskConfig) -> list[Example]:
        options: TaskBenchOptions = self.read_options(config.options)
        found = load_requests(
            config.data,
            split=config.split,
            examples=config.examples,
            seed=config.seed,
            report=config.report,
            search_examples=options.search_examples,
            hub_split=options.hub_split,
            records_key=options.records_key,
            tools=options.tools,
        )
        return [example.to_example() for example in found]
