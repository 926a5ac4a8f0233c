"""Reading the parts of a JSON plan out of whatever a model wrote. Nothing here raises, whatever the text.

What is valid JSON is taken as it is, the first that fits; text that is nearly JSON (single quotes, a comment, cut off at
the token limit) is mended by the ``json-repair`` package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agenttts.tasks.surrogates import clean_text
from agenttts.tasks.taskbench_forms import argument_pairs

_STEP_LISTS = ("task_steps", "steps", "tool_steps", "plan")
_STEP_TEXTS = ("step", "task", "description", "desc", "step_name", "id")
_CALL_LISTS = ("task_nodes", "tool_nodes", "nodes", "tools", "tasks")
_CALL_NAMES = ("task", "tool", "name", "id", "tool_name", "api")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_NUMBERED = re.compile(r"^\s*(?:step\s+\d+\s*[:.)-]|\d+\s*[:.)]|[-*•]\s)\s*\S", re.I)
_BRACKET = re.compile(r"[{\[]")
_MOST_STARTS = 50
"""Places in a text at which JSON is looked for: enough for any reply, and a bound on the work for noise."""


def parse_steps(text: str) -> list[str]:
    """The steps of a plan: of its JSON, else the numbered or bulleted lines; empty when there are none."""
    found = _first(text, _steps)
    if found:
        return found
    return [clean_text(line.strip()) for line in text.splitlines() if _NUMBERED.match(line)]


def parse_tools(text: str, known: Sequence[str]) -> list[str]:
    """The names of a plan's tools in order: of its JSON, else the ``known`` ones that the text mentions."""
    found = _first(text, _tools)
    if found:
        return found
    places = {name: re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in known if name}
    named = {name: place.start() for name, place in places.items() if place}
    return sorted(named, key=lambda name: named[name])


def parse_calls(text: str, resources: bool) -> list[dict[str, Any]]:
    """The calls of a plan as ``{task, arguments}``, the arguments in the one form that the tools have.

    That is ``{name, value}`` for named arguments and, for ``resources``, a text: the value or ``<node-j>``.
    """
    return _first(text, lambda value: _calls(value, resources))


def _first(text: str, read: Callable[[Any], list[Any]]) -> list[Any]:
    """What ``read`` makes of the first JSON value that it finds something in."""
    try:
        for value in (*_valid_json(text), *_mended_json(text)):
            if found := read(value):
                return found
    except RecursionError:  # thousands of brackets: no plan
        return []
    return []


def _valid_json(text: str) -> Iterator[Any]:
    """The objects and lists that stand in the text as valid JSON, outermost first."""
    decoder = json.JSONDecoder()
    position = 0
    for _ in range(_MOST_STARTS):
        match = _BRACKET.search(text, position)
        if match is None:
            return
        try:
            value, position = decoder.raw_decode(text, match.start())
        except ValueError:
            position = match.end()
            continue
        yield value


def _mended_json(text: str) -> Iterator[Any]:
    """The text from its first bracket on, mended."""
    start = _BRACKET.search(text)
    if start is None:
        return
    import json_repair

    try:
        value = json_repair.loads(text[start.start() :], skip_json_loads=True)
    except (
        Exception
    ):  # the package promises nothing about arbitrary text, parsing does: it never raises
        return
    yield value
    if isinstance(value, list):  # of several values in a row, any may be the plan
        yield from value


def _steps(value: Any) -> list[str]:
    listed = _listed(value, _STEP_LISTS)
    texts = [_text_in(item, _STEP_TEXTS) for item in listed]
    return [text for text in texts if text]


def _tools(value: Any) -> list[str]:
    names = [_text_in(item, _CALL_NAMES) for item in _listed(value, _CALL_LISTS)]
    return [name for name in names if name]


def _calls(value: Any, resources: bool) -> list[dict[str, Any]]:
    if isinstance(value, dict) and not any(key in value for key in _CALL_LISTS):
        value = [value]
    calls = []
    for item in _listed(value, _CALL_LISTS):
        name = _text_in(item, _CALL_NAMES)
        if name and isinstance(item, dict):
            given: Any = next((item[key] for key in _ARGUMENTS if key in item), [])
            calls.append({"task": name, "arguments": _arguments(given, resources)})
    return calls


def _listed(value: Any, keys: Sequence[str]) -> list[Any]:
    """The list under the first of ``keys`` there is, also inside ``result``; a list stands for itself."""
    if isinstance(value, dict):
        if isinstance(value.get("result"), dict):
            value = value["result"]
        value = next((value[key] for key in keys if isinstance(value.get(key), list)), [])
    return value if isinstance(value, list) else []


def _text_in(item: Any, keys: Sequence[str]) -> str:
    """An item that is a text, or an object with one."""
    if isinstance(item, dict):
        item = next((item[key] for key in keys if isinstance(item.get(key), str)), "")
    return clean_text(item.strip()) if isinstance(item, str) else ""


def _arguments(given: Any, resources: bool) -> list[Any]:
    pairs = argument_pairs(given, resources)
    if resources:
        return [value for _, value in pairs]
    return [{"name": name, "value": value} for name, value in pairs]
