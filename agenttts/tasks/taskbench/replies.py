"""Reading the parts of a JSON plan out of whatever a model wrote.

Nothing here raises, whatever the text.

Of several values in a text, one with a plan's keys comes first. What is valid JSON is taken as it
is; text that is nearly JSON (single quotes, a comment, cut off at the token limit) is repaired by
the ``json-repair`` package, and what is valid within such a text, an argument perhaps, is taken
last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agenttts.tasks.loading.unicode import clean_text
from agenttts.tasks.taskbench.forms import argument_pairs

_STEP_LISTS = ("task_steps", "steps", "tool_steps", "plan")
_STEP_TEXTS = ("step", "task", "description", "desc", "step_name", "id")
_CALL_LISTS = ("task_nodes", "tool_nodes", "nodes", "tools", "tasks")
_CALL_NAMES = ("task", "tool", "name", "id", "tool_name", "api")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_NUMBERED = re.compile(r"^\s*(?:step\s+\d+\s*[:.)-]|\d+\s*[:.)]|[-*•]\s)\s*\S", re.I)
_BRACKET = re.compile(r"[{\[]")
_TEXT_OR_BRACKET = re.compile(r'"(?:\\.|[^"\\])*(?:"|\Z)|[\[\]{}]', re.DOTALL)
_OPENS_JSON = re.compile(
    r"""\{(?=\s*(?:["'}/#]|\w+\s*:))|\[(?=\s*(?:["'\[{\]/#]|-?\d|true|false|null))"""
)
"""A bracket at which JSON may begin, unlike one of prose: "[see below"."""
_BETWEEN_CALLS = re.compile(r"[\s,;]*(?:(?:step\s*)?\d{1,3}[.):]+\s*|[-*•]\s+)?", re.I)
_MOST_STARTS = 50
"""Places in a text at which JSON is looked for: enough for any reply, and a bound on the work
for noise.
"""


def parse_steps(text: str) -> list[str]:
    """The steps of a plan: of its JSON, else the numbered or bulleted lines; empty when there
    are none.
    """
    found = _first(text, _steps, _STEP_LISTS)
    if found:
        return found
    return [clean_text(line.strip()) for line in text.splitlines() if _NUMBERED.match(line)]


def parse_tools(text: str, known: Sequence[str]) -> list[str]:
    """The names of a plan's tools in order: of its JSON, else the ``known`` ones that the text
    mentions.
    """
    found = _first(text, _tools, _CALL_LISTS)
    if found:
        return found
    places = {name: re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in known if name}
    named = {name: place.start() for name, place in places.items() if place}
    return sorted(named, key=lambda name: named[name])


def parse_calls(text: str, resources: bool) -> list[dict[str, Any]]:
    """The calls of a plan as ``{task, arguments}``, the arguments in the one form that the tools
    have.

    That is ``{name, value}`` for named arguments and, for ``resources``, a text: the value or
    ``<node-j>``.
    """
    return _first(text, lambda value: _calls(value, resources), _CALL_LISTS)


def _first(text: str, read: Callable[[Any], list[Any]], keys: Sequence[str]) -> list[Any]:
    """What ``read`` makes of the first JSON value that it finds something in, of those with one
    of ``keys`` first.
    """
    try:
        pieces = _valid_json(text)
        whole = [piece for piece in pieces if not piece.inside]
        # In prose before a plan whole values stand, too: 'For {"name": "city"} I use:
        # {"task_nodes": ...'.
        values = [*_lone_calls(text, whole), *(p.value for p in whole), *_mended_json(text)]
        values.sort(key=lambda value: not _has_list(value, keys))  # stable
        for value in (*values, *(piece.value for piece in pieces if piece.inside)):
            if found := read(value):
                return found
    except RecursionError:  # thousands of brackets: no plan
        return []
    return []


@dataclass(frozen=True)
class _Piece:
    """A JSON value of a text, at ``start`` to ``end``.

    ``inside``: a bracket before it is not closed, as in a plan that is damaged or cut off, so that
    it is a part of something.
    """

    value: Any
    start: int
    end: int
    inside: bool


def _valid_json(text: str) -> list[_Piece]:
    """The objects and lists that stand in the text as valid JSON, outermost first."""
    decoder = json.JSONDecoder()
    pieces: list[_Piece] = []
    position, starts, depth = 0, 0, 0
    while starts < _MOST_STARTS:
        # Outside of brackets is prose, where a quotation mark need not begin a text.
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
            except ValueError:
                depth += bool(depth or _OPENS_JSON.match(text, match.start()))
                continue
            pieces.append(_Piece(value, match.start(), position, depth > 0))
    return pieces


def _lone_calls(text: str, whole: Sequence[_Piece]) -> list[list[Any]]:
    """Objects that follow each other, as of one call a line, as lists; the last of them may be
    cut off.
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
        if len(values) > 1:
            lists.append(values)
    return lists


def _has_list(value: Any, keys: Sequence[str]) -> bool:
    """Whether a value is an object with a list under one of the keys."""
    return isinstance(value, dict) and bool(_listed(value, keys))


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
    """The list under the first of ``keys`` there is, also inside ``result``; a list stands for
    itself.
    """
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
