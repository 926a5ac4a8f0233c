"""Compare the arguments of plans: TaskBench's t-F1 and v-F1 of one example.

t-F1 compares names, v-F1 names and values. An argument counts as (tool, name, value), with the
value as text. The name of a resource is its type, and ``<node-j>`` stands for the tool of call j.
So plans are equal whatever the order of their calls. Repeats count once. A reference of a call to
itself is no argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from agenttts.tasks.metrics import Overlap, set_overlap
from agenttts.tasks.taskbench.data import TaskBenchExample, tool_name

_REFERENCE = re.compile(r"<node-([0-9]{1,6})>")
_OTHER = "other"
_ENDINGS = {
    "image": ("jpg", "jpeg", "png", "gif", "bmp", "tiff", "svg", "ico", "webp"),
    "audio": ("mp3", "wav", "wma", "ogg", "aac", "flac", "aiff", "au", "m4a"),
    "video": ("mp4", "avi", "mov", "flv", "wmv", "mkv", "webm", "m4v", "mpg", "mpeg"),
}
_TYPE_OF = {ending: kind for kind, endings in _ENDINGS.items() for ending in endings}

Argument = tuple[str, str, str]


def argument_overlap(calls: Sequence[Mapping[str, Any]], gold: TaskBenchExample) -> Overlap:
    """Return the overlap of a plan's arguments and values with the gold plan's.

    If neither plan has an argument, the tools are compared.
    """
    predicted, wanted = _both(calls, gold)
    if not predicted and not wanted:
        return _tools_overlap(calls, gold)
    return set_overlap(predicted, wanted)


def name_overlap(calls: Sequence[Mapping[str, Any]], gold: TaskBenchExample) -> Overlap:
    """Return the overlap as `argument_overlap` does, without the values."""
    predicted, wanted = _both(calls, gold)
    if not predicted and not wanted:
        return _tools_overlap(calls, gold)
    return set_overlap({a[:2] for a in predicted}, {a[:2] for a in wanted})


def _both(
    calls: Sequence[Mapping[str, Any]], gold: TaskBenchExample
) -> tuple[set[Argument], set[Argument]]:
    types = {tool_name(tool.id): (*tool.outputs, _OTHER)[0] for tool in gold.tools}
    # `to_json` would make a resource of a value without a name. In a plan of named arguments such
    # a value is not a resource, here as in a prediction.
    wanted = [
        {
            "task": call.tool,
            "arguments": [
                value if gold.resources else {"name": name, "value": value}
                for name, value in call.arguments
            ],
        }
        for call in gold.calls
    ]
    return _arguments(calls, types), _arguments(wanted, types)


def _arguments(calls: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> set[Argument]:
    tools = [tool_name(call["task"]) for call in calls]
    found = set()
    for position, call in enumerate(calls):
        for argument in call["arguments"]:
            if isinstance(argument, Mapping):
                found.add((tools[position], argument["name"], argument["value"]))
            elif _referenced(argument) != position:
                found.add((tools[position], *_resource(argument, tools, types)))
    return found


def _referenced(value: str) -> int | None:
    """Return the call that a resource refers to; None if it refers to none.

    TaskBench's evaluate.py skips references of a call to itself, in predictions and gold plans.
    """
    match = _REFERENCE.search(value)
    return int(match[1]) if match else None


def _resource(value: str, tools: Sequence[str], types: Mapping[str, str]) -> tuple[str, str]:
    """Return a resource as (type, value).

    A reference to no call stays as it is written.
    """
    number = _referenced(value)
    if number is None:
        ending = value.rstrip("'\"").rpartition(".")[2].lower()
        return _TYPE_OF.get(ending, "text"), value
    if number >= len(tools):
        return _OTHER, value
    return types.get(tools[number], _OTHER), tools[number]


def _tools_overlap(calls: Sequence[Mapping[str, Any]], gold: TaskBenchExample) -> Overlap:
    return set_overlap(
        {tool_name(call["task"]) for call in calls}, {tool_name(call.tool) for call in gold.calls}
    )
