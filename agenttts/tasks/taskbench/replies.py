"""Read the parts of a JSON plan from a model's reply.

Nothing here raises, whatever the text. If a text has several values, those with a plan's keys come
first, the last of them before all: an earlier one may be a draft. Calls that stand alone, such as
one in each block, are one plan. The kinds of values are tried in this order:

- Valid JSON is taken as it is.
- Text that is nearly JSON (single quotes, a comment, cut off at the token limit) is repaired by the
  ``json-repair`` package.
- Valid JSON within such a text, such as an argument, is taken last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agenttts.files.unicode import clean_text
from agenttts.replies import repair_json
from agenttts.tasks.taskbench.forms import argument_pairs

_STEP_LISTS = ("task_steps", "steps", "tool_steps", "plan")
_STEP_TEXTS = ("step", "task", "description", "desc", "step_name", "id")
_CALL_LISTS = ("task_nodes", "tool_nodes", "nodes", "tools", "tasks")
_CALL_NAMES = ("task", "tool", "name", "id", "tool_name", "api")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
# Mark-up may surround the number: "**Step 1:** ...", "### Step 1: ...", "**1**. ...".
_NUMBERED = re.compile(
    r"^[\s#>*_]*(?:step\s+\d+[*_]*\s*[:.)-]|\d+[*_]*\s*[:.)]|[-*•]\s)\s*\S", re.I
)
_BRACKET = re.compile(r"[{\[]")
_TEXT_OR_BRACKET = re.compile(r'"(?:\\.|[^"\\])*(?:"|\Z)|[\[\]{}]', re.DOTALL)
_OPENS_JSON = re.compile(
    r"""\{(?=\s*(?:["'}/#]|\w+\s*:))|\[(?=\s*(?:["'\[{\]/#]|-?\d|true|false|null))"""
)
"""A bracket at which JSON may begin, unlike a bracket of prose: "[see below"."""
_BETWEEN_CALLS = re.compile(r"[\s,;]*(?:(?:step\s*)?\d{1,3}[.):]+\s*|[-*•]\s+)?", re.I)
_MOST_STARTS = 50
"""The most places in a text at which JSON is looked for.

It is enough for any reply, and limits the work on noise.
"""


def parse_steps(text: str) -> list[str]:
    """Return the steps of a plan; empty if there are none.

    They come from its JSON, else from the numbered or bulleted lines.
    """
    found = _first(text, _steps, _STEP_LISTS)
    if found:
        return found
    return [clean_text(line.strip()) for line in text.splitlines() if _NUMBERED.match(line)]


def parse_tools(text: str, known: Sequence[str]) -> list[str]:
    """Return the names of a plan's tools in order.

    They come from its JSON, else they are the ``known`` names that the text mentions.
    """
    found = _first(text, _tools, _CALL_LISTS)
    if found:
        return found
    places = {name: re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in known if name}
    named = {name: place.start() for name, place in places.items() if place}
    return sorted(named, key=lambda name: named[name])


def parse_calls(text: str, resources: bool) -> list[dict[str, Any]]:
    """Return the calls of a plan as ``{task, arguments}``.

    The arguments have the one form that the tools have: ``{name, value}`` for named arguments. For
    ``resources`` it is a text, the value or ``<node-j>``.
    """
    return _first(text, lambda value: _calls(value, resources), _CALL_LISTS)


def _first(text: str, read: Callable[[Any], list[Any]], keys: Sequence[str]) -> list[Any]:
    """Return the first non-empty result of ``read`` over the text's JSON values.

    Values with one of ``keys`` are tried first, the last one before the others.
    """
    try:
        pieces = _valid_json(text)
        whole = [piece for piece in pieces if not piece.inside]
        # Prose before a plan may hold whole values, too: 'For {"name": "city"} I use:
        # {"task_nodes": ...'.
        values = [p.value for p in reversed(whole) if _has_list(p.value, keys)]
        values += [*_lone_calls(text, whole), *(p.value for p in whole), *_mended_json(text)]
        values.sort(key=lambda value: not _has_list(value, keys))  # stable
        for value in (*values, *(piece.value for piece in pieces if piece.inside)):
            if found := read(value):
                return found
    except RecursionError:  # thousands of brackets are not a plan
        return []
    return []


@dataclass(frozen=True)
class _Piece:
    """A JSON value of a text, from ``start`` to ``end``.

    ``inside`` is true if a bracket before it is not closed, as in a plan that is damaged or cut
    off. The value is then a part of another one.
    """

    value: Any
    start: int
    end: int
    inside: bool


def _valid_json(text: str) -> list[_Piece]:
    """Return the objects and lists in the text that are valid JSON, outermost first."""
    decoder = json.JSONDecoder()
    pieces: list[_Piece] = []
    position, starts, depth = 0, 0, 0
    while starts < _MOST_STARTS:
        # Outside brackets is prose, where a quotation mark need not begin a text.
        match = (_TEXT_OR_BRACKET if depth else _BRACKET).search(text, position)
        if match is None:
            break
        position = match.end()
        if match[0] in "}]":
            depth -= 1
        elif match[0] in "{[":
            starts += 1
            try:
                value, position = decoder.raw_decode(text, match.start())
            except (ValueError, RecursionError):  # so does nesting by thousands
                depth += bool(depth or _OPENS_JSON.match(text, match.start()))
                continue
            pieces.append(_Piece(value, match.start(), position, depth > 0))
    return pieces


def _lone_calls(text: str, whole: Sequence[_Piece]) -> list[list[Any]]:
    """Return the longest first of the lists of objects that may be one plan.

    They are consecutive objects, such as one call on each line, and all calls with arguments,
    whatever is between them. The last object of a list may be cut off.
    """
    runs: list[list[_Piece]] = []
    for piece in whole:
        if not isinstance(piece.value, dict):
            continue
        if runs and _BETWEEN_CALLS.fullmatch(text, runs[-1][-1].end, piece.start):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    lists = []
    for run in runs:
        values = [piece.value for piece in run]
        gap = _BETWEEN_CALLS.match(text, run[-1].end)
        if gap and text[gap.end() : gap.end() + 1] == "{":
            values += [
                value for value in _mended_json(text[gap.end() :]) if isinstance(value, dict)
            ]
        lists.append(values)
    if calls := [piece for piece in whole if _is_call(piece.value)]:
        cut_off = [value for value in _mended_json(text[calls[-1].end :]) if _is_call(value)]
        lists.append([*(piece.value for piece in calls), *cut_off])
    lists.sort(key=len, reverse=True)  # stable
    return [values for values in lists if len(values) > 1]


def _is_call(value: Any) -> bool:
    """Return whether a value is an object with a tool and arguments."""
    call = _call(value)
    has_arguments = isinstance(call, dict) and any(key in call for key in _ARGUMENTS)
    return has_arguments and bool(_text_in(call, _CALL_NAMES))


def _call(item: Any) -> Any:
    """Return an item, or the call in an item such as ``{"function": {...}}``."""
    if not isinstance(item, dict) or any(key in item for key in _ARGUMENTS):
        return item
    names = [name for name in _CALL_NAMES if name != "id"]  # OpenAI's calls have one beside
    if _text_in(item, names):
        return item
    return next((inner for inner in item.values() if _is_call(inner)), item)


def _has_list(value: Any, keys: Sequence[str]) -> bool:
    """Return whether a value is an object with a list under one of the keys."""
    return isinstance(value, dict) and bool(_listed(value, keys))


def _mended_json(text: str) -> Iterator[Any]:
    """Repair the text from its first bracket on, and yield the resulting values."""
    start = _BRACKET.search(text)
    if start is None:
        return
    value = repair_json(text[start.start() :])
    yield value
    if isinstance(value, list):  # of several values in a row, any may be the plan
        yield from value


def _steps(value: Any) -> list[str]:
    listed = _listed(value, _STEP_LISTS)
    texts = [_text_in(item, _STEP_TEXTS) for item in listed]
    return [text for text in texts if text]


def _tools(value: Any) -> list[str]:
    names = [_text_in(_call(item), _CALL_NAMES) for item in _listed(value, _CALL_LISTS)]
    return [name for name in names if name]


def _calls(value: Any, resources: bool) -> list[dict[str, Any]]:
    value = _unwrapped(value, _CALL_LISTS)
    if isinstance(value, dict) and not _has_own_list(value, _CALL_LISTS):
        lists = (found for found in _outer_values(value) if isinstance(found, list))
        value = next((found for found in lists if any(map(_is_call, found))), [value])
    calls = []
    for item in map(_call, _listed(value, _CALL_LISTS)):
        name = _text_in(item, _CALL_NAMES)
        if name and isinstance(item, dict):
            given: Any = next((item[key] for key in _ARGUMENTS if key in item), [])
            calls.append({"task": name, "arguments": _arguments(given, resources)})
    return calls


def _listed(value: Any, keys: Sequence[str]) -> list[Any]:
    """Return the list under the first of ``keys`` that is there.

    It may be inside an outer key.

    A list is returned as it is.
    """
    value = _unwrapped(value, keys)
    if isinstance(value, dict):
        value = next((value[key] for key in keys if isinstance(value.get(key), list)), [])
    return value if isinstance(value, list) else []


def _unwrapped(value: Any, keys: Sequence[str]) -> Any:
    """Return the object that has a list under one of the keys.

    It may be in ``result``, ``plan`` or the like.

    If the value has one itself, or there is no such object, it is returned as it is.
    """
    if not isinstance(value, dict) or _has_own_list(value, keys):
        return value
    inner = (_unwrapped(found, keys) for found in _outer_values(value) if isinstance(found, dict))
    return next((found for found in inner if _has_own_list(found, keys)), value)


def _has_own_list(value: Mapping[str, Any], keys: Sequence[str]) -> bool:
    return any(isinstance(value.get(key), list) for key in keys)


def _outer_values(value: Mapping[str, Any]) -> Iterator[Any]:
    """Yield an object's values, without those that a tool is to get."""
    return (found for key, found in value.items() if key not in _ARGUMENTS)


def _text_in(item: Any, keys: Sequence[str]) -> str:
    """Return the text of an item that is a text or an object with one."""
    if isinstance(item, dict):
        item = next((item[key] for key in keys if isinstance(item.get(key), str)), "")
    return clean_text(item.strip()) if isinstance(item, str) else ""


def _arguments(given: Any, resources: bool) -> list[Any]:
    pairs = argument_pairs(given, resources)
    if resources:
        return [value for _, value in pairs]
    return [{"name": name, "value": value} for name, value in pairs]
