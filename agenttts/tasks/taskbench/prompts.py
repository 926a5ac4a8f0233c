"""The prompts of task automation.

The tools of the worked examples are invented, and in none of the data sets.

A plan is JSON with ``task_steps`` and ``task_nodes``. Each stage gets the parts that earlier stages
have filled in and is asked for its own part. The part is on one line, so that a base model that
continues worked examples stops at the end of the line.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agenttts.inference.base import Prompt
from agenttts.tasks.taskbench.data import Tool, ToolCall, tool_name

_ONE_LINE = "Reply with one line of JSON and nothing else: "
_STEPS_SYSTEM = (
    "Break the request down into steps, one for each tool it takes, in the order in which they "
    "have to run. " + _ONE_LINE + '{"task_steps": ["Step 1: ...", "Step 2: ..."]}'
)
_TOOLS_SYSTEM = (
    "Choose the tool for each step of the plan, in the order of the steps. "
    + _ONE_LINE
    + '{"task_nodes": [{"task": "tool"}, ...]}'
)
_NAMED_SYSTEM = (
    "Fill in the arguments of each tool of the plan with values from the request. "
    + _ONE_LINE
    + '{"task_nodes": [{"task": "tool", "arguments": [{"name": "argument", "value": "value"}, '
    "...]}, ...]}"
)
_RESOURCE_SYSTEM = (
    "Fill in the arguments of each tool of the plan, one for each of its inputs: a file or "
    "text of the request, or "
    "<node-j> for what tool number j (counted from 0) puts out. "
    + _ONE_LINE
    + '{"task_nodes": [{"task": "tool", "arguments": ["value or <node-j>", ...]}, ...]}'
)
_MERGE_SYSTEM = (
    "Several assistants have worked on the same part of a plan. Merge their versions into the "
    "best one, in the same "
    "format: keep what most of them agree on, mend what is wrong. Reply with one line of JSON "
    "and nothing else."
)


@dataclass(frozen=True)
class _Plan:
    """A worked example: a request, the tools shown with it, and its whole plan."""

    request: str
    tools: tuple[Tool, ...]
    steps: tuple[str, ...]
    calls: tuple[ToolCall, ...]


_BARN = (
    Tool("mow_field", "Mow a field", {"field": "The field"}),
    Tool("feed_animal", "Feed an animal", {"animal": "The animal", "food": "What it gets"}),
)
_KITCHEN = (
    Tool("set_oven", "Heat the oven", {"degrees": "The temperature", "dish": "What is baked"}),
    Tool("ring_bell", "Ring the bell of a room", {"room": "The room"}),
    Tool("fold_napkins", "Fold napkins", {"number": "How many"}),
)
_WORKSHOP = (
    Tool("Map Reader", "Writes down what is on a map", {}, ("image",), ("text",)),
    Tool("Poem Writer", "Writes a poem about a text", {}, ("text",), ("text",)),
    Tool("Score Player", "Plays a text as music", {}, ("text",), ("audio",)),
)
_NAMED_SHOTS = (
    _Plan(
        "Please give the goat some hay.",
        _BARN,
        ("Step 1: Call feed_animal with animal: 'goat' and food: 'hay'",),
        (ToolCall("feed_animal", (("animal", "goat"), ("food", "hay"))),),
    ),
    _Plan(
        "Heat the oven to 180 for the bread, then ring the bell in the parlour.",
        _KITCHEN,
        (
            "Step 1: Call set_oven with degrees: '180' and dish: 'bread'",
            "Step 2: Call ring_bell with room: 'parlour'",
        ),
        (
            ToolCall("set_oven", (("degrees", "180"), ("dish", "bread"))),
            ToolCall("ring_bell", (("room", "parlour"),)),
        ),
    ),
)
_RESOURCE_SHOTS = (
    _Plan(
        "Play the words of the note 'low tide' as music.",
        _WORKSHOP,
        ("Step 1: Play the text as music",),
        (ToolCall("Score Player", (("", "low tide"),)),),
    ),
    _Plan(
        "Read the map harbour.png and write a poem about what is on it.",
        _WORKSHOP,
        ("Step 1: Write down what is on the map", "Step 2: Write a poem about the text"),
        (
            ToolCall("Map Reader", (("", "harbour.png"),)),
            ToolCall("Poem Writer", (("", "<node-0>"),)),
        ),
    ),
)


def steps_prompt(request: str, tools: Sequence[Tool], resources: bool) -> Prompt:
    """Return the prompt that asks for the steps of the request."""

    def question(request: str, tools: Sequence[Tool]) -> str:
        return f"{_listed(tools)}\nRequest: {request}"

    return Prompt(
        system=_STEPS_SYSTEM,
        shots=tuple(
            (question(shot.request, shot.tools), shot_steps(shot)) for shot in _shots(resources)
        ),
        user=question(request, tools),
        label="Steps:",
        stop=("\n",),
    )


def tools_prompt(
    request: str, tools: Sequence[Tool], resources: bool, steps: Sequence[str]
) -> Prompt:
    """Return the prompt that asks for the tool of each step."""

    def question(request: str, tools: Sequence[Tool], steps: Sequence[str]) -> str:
        return f"{_listed(tools)}\nRequest: {request}\nPlan so far: {steps_json(steps)}"

    return Prompt(
        system=_TOOLS_SYSTEM,
        shots=tuple(
            (
                question(shot.request, shot.tools, shot.steps),
                shot_tools(shot),
            )
            for shot in _shots(resources)
        ),
        user=question(request, tools, steps),
        label="Tools:",
        stop=("\n",),
    )


def arguments_prompt(
    request: str,
    tools: Sequence[Tool],
    resources: bool,
    steps: Sequence[str],
    chosen: Sequence[str],
) -> Prompt:
    """Return the prompt that asks for the arguments of each chosen tool.

    Only the chosen tools are described, or all tools if no chosen one is known.
    """

    def question(
        request: str, tools: Sequence[Tool], steps: Sequence[str], chosen: Sequence[str]
    ) -> str:
        names = {tool_name(name) for name in chosen}
        described = [tool for tool in tools if tool_name(tool.id) in names] or tools
        plan = _json({"task_steps": list(steps), "task_nodes": [{"task": name} for name in chosen]})
        return f"{_listed(described, parameters=True)}\nRequest: {request}\nPlan so far: {plan}"

    return Prompt(
        system=_RESOURCE_SYSTEM if resources else _NAMED_SYSTEM,
        shots=tuple(
            (
                question(shot.request, shot.tools, shot.steps, [call.tool for call in shot.calls]),
                shot_arguments(shot),
            )
            for shot in _shots(resources)
        ),
        user=question(request, tools, steps, chosen),
        label="Arguments:",
        stop=("\n",),
    )


def merge_prompt(
    part: Callable[[_Plan], str], resources: bool, request: str, candidates: Sequence[str]
) -> Prompt:
    """Return the prompt that asks to merge candidates into one part of a plan.

    Each candidate is that part of a plan as JSON.

    Equal ones are shown once, with their count.

    Args:
        part: Makes the stage's part of a worked example's plan: `shot_steps`, `shot_tools` or
            `shot_arguments`.
        resources: Whether the tools have resource dependencies.
        request: The request.
        candidates: The candidates.
    """
    shot = _shots(resources)[-1]
    right = part(shot)
    wrong = part(replace(shot, steps=shot.steps[:1], calls=shot.calls[:1]))
    return Prompt(
        system=_MERGE_SYSTEM,
        shots=((_versions(shot.request, [right, wrong, right]), right),),
        user=_versions(request, candidates),
        label="Merged:",
        stop=("\n",),
    )


def steps_json(steps: Sequence[str]) -> str:
    """Return the part of a plan that decomposition fills in."""
    return _json({"task_steps": list(steps)})


def tools_json(names: Sequence[str]) -> str:
    """Return the part of a plan that tool selection fills in."""
    return _json({"task_nodes": [{"task": name} for name in names]})


def calls_json(calls: Sequence[Any]) -> str:
    """Return the part of a plan that parameter prediction fills in."""
    return _json({"task_nodes": list(calls)})


def shot_steps(plan: _Plan) -> str:
    """Return the steps of a worked example."""
    return steps_json(plan.steps)


def shot_tools(plan: _Plan) -> str:
    """Return the tools of a worked example."""
    return tools_json([call.tool for call in plan.calls])


def shot_arguments(plan: _Plan) -> str:
    """Return the calls of a worked example."""
    return calls_json([call.to_json() for call in plan.calls])


def _shots(resources: bool) -> tuple[_Plan, ...]:
    return _RESOURCE_SHOTS if resources else _NAMED_SHOTS


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _versions(request: str, candidates: Sequence[str]) -> str:
    counted = Counter(candidates)
    listed = "\n".join(f"- {n} of {len(candidates)}: {text}" for text, n in counted.items())
    return f"Request: {request}\nVersions:\n{listed}"


def _listed(tools: Sequence[Tool], *, parameters: bool = False) -> str:
    lines = ["Tools:"]
    for tool in tools:
        signature = ", ".join(tool.parameters)
        if not tool.parameters and (tool.inputs or tool.outputs):
            signature = f"{', '.join(tool.inputs)} -> {', '.join(tool.outputs) or 'nothing'}"
        lines.append(f"- {tool.id}({signature}): {tool.description}")
        if parameters:
            lines += [f"  {name}: {text}" for name, text in tool.parameters.items() if text]
    return "\n".join(lines)
