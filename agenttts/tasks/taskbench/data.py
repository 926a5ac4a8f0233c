"""The data sets of task automation: TaskBench's requests, gold plans and tools.

There are two kinds. Tools with *temporal* dependencies (daily-life APIs) take named arguments.
Tools with *resource* dependencies (huggingface, multimedia) take resources of a type: a value, or
``<node-j>`` for the output of step j (counted from 0). Source: TaskBench (arXiv 2311.18760).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agenttts.errors import Unavailable, UserError, counted
from agenttts.files.unicode import clean_value
from agenttts.tasks.base import Example
from agenttts.tasks.loading.hub import hub_id
from agenttts.tasks.loading.records import Record
from agenttts.tasks.loading.report import LoadReport, convert
from agenttts.tasks.loading.source import (
    BUILT_IN_PREFIX,
    DATA_FOLDER,
    data_file,
    example_id,
    read_source,
    take_split,
)
from agenttts.tasks.taskbench.forms import argument_pairs, decoded

BUILT_IN = {"errands": DATA_FOLDER / "errands.jsonl", "studio": DATA_FOLDER / "studio.jsonl"}
DEFAULT_DATA = "builtin:errands"
TOOLS_FILE = "tool_desc.json"

# The published files, the older files and the hub's tables use different names for the same fields.
_INSTRUCTION = ("instruction", "user_request")
_STEPS = ("task_steps", "tool_steps")
_NODES = ("task_nodes", "tool_nodes")


@dataclass(frozen=True)
class Tool:
    """A tool that a plan may call.

    ``parameters`` maps names to descriptions (temporal). ``inputs`` and ``outputs`` are types of
    resources (resource).
    """

    id: str
    description: str
    parameters: Mapping[str, str]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToolCall:
    """A call in a plan.

    Its arguments are (name, value) pairs; the name is empty for a resource.
    """

    tool: str
    arguments: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the call as plans write it.

        The form is ``{task, arguments: [{name, value}, ...]}`` or
        ``{task, arguments: [value, ...]}``.
        """
        return {
            "task": self.tool,
            "arguments": [
                {"name": name, "value": value} if name else value for name, value in self.arguments
            ],
        }


@dataclass(frozen=True)
class TaskBenchExample:
    """A request, the tools available, and the gold plan with its steps and calls."""

    id: str
    instruction: str
    tools: tuple[Tool, ...]
    resources: bool
    """True if the tools have resource dependencies, False if temporal ones."""
    steps: tuple[str, ...]
    calls: tuple[ToolCall, ...]

    def to_example(self) -> Example:
        """Return it as an example of a task, whose data are JSON values."""
        data = {
            "instruction": self.instruction,
            "resources": self.resources,
            "tools": [asdict(tool) for tool in self.tools],
            "steps": list(self.steps),
            "calls": [[call.tool, [list(pair) for pair in call.arguments]] for call in self.calls],
        }
        return Example(id=self.id, data=json.loads(json.dumps(data)))

    @classmethod
    def of(cls, example: Example) -> TaskBenchExample:
        """Return the TaskBench example that `to_example` turned into ``example``."""
        data: Mapping[str, Any] = example.data
        return cls(
            id=example.id,
            instruction=data["instruction"],
            tools=tuple(
                Tool(
                    tool["id"],
                    tool["description"],
                    tool["parameters"],
                    tuple(tool["inputs"]),
                    tuple(tool["outputs"]),
                )
                for tool in data["tools"]
            ),
            resources=data["resources"],
            steps=tuple(data["steps"]),
            calls=tuple(
                ToolCall(name, tuple((pair[0], pair[1]) for pair in arguments))
                for name, arguments in data["calls"]
            ),
        )


def load_requests(
    data: str,
    *,
    tools: str = "",
    split: str = "search",
    examples: int | None = None,
    search_examples: int | None = None,
    hub_split: str = "",
    records_key: str = "",
    seed: int = 0,
    report: LoadReport | None = None,
) -> list[TaskBenchExample]:
    """Return the examples of a split of ``data``.

    For the splits see `agenttts.tasks.loading.source.take_split`, for bad records
    `agenttts.tasks.loading.report.convert`.

    Args:
        data: A file, a hub id, ``builtin:NAME``, or empty for the built-in default.
        tools: File of the tools' descriptions; empty: ``tool_desc.json`` beside the data. Hub data
            have none beside them.
        split: Name of the split.
        examples: Number of examples; None: all.
        search_examples: Number of examples of the search split.
        hub_split: Split of a hub data set to draw from.
        records_key: Key of the records in a JSON document.
        seed: Seed of the order.
        report: Records what was read.

    Raises:
        UserError: Data are missing, malformed or too few, or the tools are those of other data.
            Also the errors of `read_hub`.
    """
    data = data or DEFAULT_DATA
    tools_file = _tools_file(data, tools)
    source = read_source(
        data,
        BUILT_IN,
        split=split,
        hub_split=hub_split,
        records_key=records_key,
        fields=[_INSTRUCTION],
    )
    known = read_tools(tools_file)
    resources = not any(tool.parameters for tool in known) and any(tool.inputs for tool in known)
    plans: list[tuple[ToolCall, ...]] = []

    def make(record: Record, number: int) -> list[TaskBenchExample]:
        example = _example(record, number, known, resources)
        plans.append(example.calls)
        return [example]

    found = convert(
        source,
        make,
        report or LoadReport(),
        ident=lambda example: example.id,
        notes=lambda: _unknown_tools(plans, known, tools_file),
    )
    return take_split(
        found, split=split, examples=examples, search_examples=search_examples, seed=seed, data=data
    )


def read_tools(path: Path) -> tuple[Tool, ...]:
    """Return the tools of a ``tool_desc.json``.

    Its form is ``{nodes: [{id, desc, parameters | input-type and output-type}]}``.

    Raises:
        UserError: The file is missing or malformed; the message names the file and the node.
    """
    try:
        content = clean_value(json.loads(path.read_text(encoding="utf-8-sig")))
    except FileNotFoundError:
        raise Unavailable(
            f"there is no file {path} with the descriptions of the tools",
            fix=f"name it with the option tools, or put {TOOLS_FILE} beside the data",
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    nodes = content.get("nodes") if isinstance(content, dict) else None
    if not isinstance(nodes, list) or not nodes:
        raise UserError(f"{path}: must be an object with a list 'nodes' of one or more tools")
    tools = [_tool(node, f"{path}: node {number}") for number, node in enumerate(nodes, 1)]
    if len({tool_name(tool.id) for tool in tools}) < len(tools):
        raise UserError(f"{path}: two nodes have the same id; each tool must have its own")
    if any(tool.parameters for tool in tools) and any(tool.inputs for tool in tools):
        raise UserError(
            f"{path}: some nodes have 'parameters', others 'input-type'; valid: one of them in "
            "all nodes"
        )
    return tuple(tools)


def tool_name(name: str) -> str:
    """Return the form in which names of tools are compared.

    TaskBench writes some names with '_' in one place and ' ' in another.
    """
    return " ".join(name.replace("_", " ").split())


def _tools_file(data: str, tools: str) -> Path:
    if tools:
        return Path(tools).expanduser()
    if not data.startswith(BUILT_IN_PREFIX) and hub_id(data) is not None:
        raise UserError(
            f"missing; hub data set '{data}' has no descriptions of its "
            "tools beside it: name the "
            f"{TOOLS_FILE} that belongs to it",
            at=("options", "tools"),
        )
    file = data_file(data, BUILT_IN)
    if data.startswith(BUILT_IN_PREFIX):
        return file.with_name(f"{file.stem}_tools.json")
    return file.with_name(TOOLS_FILE)


def _unknown_tools(
    plans: Sequence[Sequence[ToolCall]], known: Sequence[Tool], file: Path
) -> list[str]:
    """Return a note on the gold plans with tools that the file does not have.

    Raises:
        UserError: No tool of any plan is in the file, so it belongs to other data.
    """
    names = {tool_name(tool.id) for tool in known}
    unknown = [[c.tool for c in plan if tool_name(c.tool) not in names] for plan in plans]
    given = [tool for plan in unknown for tool in plan]
    if not given:
        return []
    if len(given) == sum(map(len, plans)):
        raise UserError(
            f"{file}: has none of the tools in the gold plans, such as '{given[0]}', but "
            f"{counted(len(known), 'other')}, such as '{known[0].id}'; name the {TOOLS_FILE} that "
            "belongs to the data",
            at=("options", "tools"),
        )
    return [
        f"{sum(map(bool, unknown))} of {len(plans)} gold plans have tools that {file} does not "
        f"have, such as '{given[0]}'"
    ]


def _tool(node: Any, where: str) -> Tool:
    record = Record(node if isinstance(node, dict) else {}, lambda: where)
    name = record.text("id").strip()
    description = record.text("desc").strip()
    if "parameters" not in record.values and "input-type" not in record.values:
        raise UserError(
            f"{where}: '{name}' has neither 'parameters' (named arguments) nor 'input-type' "
            "and 'output-type' "
            f"(resources); has: {', '.join(record.values)}"
        )
    if "parameters" not in record.values:
        inputs, outputs = _types(record, "input-type"), _types(record, "output-type")
        return Tool(name, description, {}, inputs, outputs)
    parameters = record.values["parameters"]
    if not isinstance(parameters, list) or not all(
        isinstance(p, dict) and isinstance(p.get("name"), str) for p in parameters
    ):
        raise record.error("parameters", "must be a list of objects with a 'name'")
    return Tool(name, description, {p["name"]: str(p.get("desc") or "") for p in parameters})


def _types(record: Record, field: str) -> tuple[str, ...]:
    value = record.values.get(field, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise record.error(field, "must be a list of types such as text, image, audio, video")
    return tuple(item.lower() for item in value)


def _example(
    record: Record, number: int, tools: tuple[Tool, ...], resources: bool
) -> TaskBenchExample:
    fields = _Fields(record)
    return TaskBenchExample(
        id=example_id(record, number),
        instruction=fields.record.text(fields.name(_INSTRUCTION)).strip(),
        tools=tools,
        resources=resources,
        steps=tuple(_steps(fields.record, fields.name(_STEPS))),
        calls=tuple(_calls(fields.record, fields.name(_NODES), resources)),
    )


class _Fields:
    """A record whose fields have one of several names, as in the hub's tables.

    The fields may hold JSON as text.
    """

    def __init__(self, record: Record) -> None:
        values = dict(record.values)
        for name in (*_STEPS, *_NODES):
            if isinstance(values.get(name), str):
                try:
                    values[name] = clean_value(json.loads(values[name]))
                except (ValueError, RecursionError):
                    raise record.error(name, "must be a list, or one as JSON text") from None
        self.record = replace(record, values=values)

    def name(self, names: tuple[str, ...]) -> str:
        """Return the first of the names whose field is not null."""
        there = filter(self.record.is_given, names)
        return next(there, next((name for name in names if name in self.record.values), names[0]))


def _steps(record: Record, field: str) -> list[str]:
    """Return the gold steps without blank ones and nulls; there may be none."""
    value = record.values.get(field)
    if not isinstance(value, list) or not all(isinstance(step, str | None) for step in value):
        raise record.error(field, "must be a list of texts")
    return [step for step in value if step and step.strip()]


def _calls(record: Record, field: str, resources: bool) -> list[ToolCall]:
    """Return the gold calls, in the order of the data."""
    nodes = record.values.get(field)
    if not isinstance(nodes, list) or not nodes:
        raise record.error(field, "must be a list of one or more {task, arguments}")
    calls = []
    for node in map(decoded, nodes):
        task = node.get("task") if isinstance(node, dict) else None
        if not isinstance(task, str) or not task.strip():
            raise record.error(field, "must hold only objects with a 'task', the name of a tool")
        arguments = node.get("arguments")
        if problem := _problem(decoded(arguments), resources):
            raise record.error(field, f"{problem} as 'arguments' of '{task}'")
        calls.append(ToolCall(task.strip(), tuple(argument_pairs(arguments, resources))))
    return calls


def _problem(arguments: Any, resources: bool) -> str | None:
    """Return what is wrong with gold arguments, or None.

    The plan is a reference for scores, so nothing in it is guessed.
    """
    if not isinstance(arguments, list | dict | str | None):
        return "must have a list, an object or null"
    if isinstance(arguments, str) and arguments.lstrip()[:1] in ("[", "{"):
        return "must have whole JSON"
    for argument in arguments if isinstance(arguments, list) else []:
        if argument == {} or isinstance(argument, list):
            return "must have only {name, value} objects and values"
        named = isinstance(argument, dict) and not resources and "name" in argument
        if named and not (isinstance(argument["name"], str) and argument["name"].strip()):
            return "must have a text that is not empty for each 'name'"
    return None
