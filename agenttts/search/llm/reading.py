"""Read replies: JSON as models write it. Never raises.

The JSON may have fences, prose around it or trailing commas, or be cut short.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agenttts.replies import repair_json
from agenttts.space import SearchSpace
from agenttts.spec.stage_names import folded

_LONGEST_REPLY = 60_000
_MOST_ALLOCATIONS = 200
_LONGEST_LINE, _CUT = 300, " [...]"
# JSON escapes can stand for these; terminals obey the first, and no file can hold the second.
_CONTROL_OR_SURROGATE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DECODER, _OPENING = json.JSONDecoder(), re.compile(r"[{\[]")
_FENCE = re.compile(r"```[a-zA-Z]*\s*\n?(.*?)(?:```|\Z)", re.S)
# Within its line: over blank lines, the search would begin again at each of them.
_ITEM = re.compile(r"^[^\S\n]*(?:[-*•]|\d{1,2}[.)])\s+(.+)$", re.M)
# 1,000 and the like, with one separator before each three digits.
_GROUPED = r"\d{1,3}(?:[,_'’\u00a0\u202f]\d{3})+(?!\d)"
_PAIR = re.compile(
    r"^\s*(?P<model>.+?)\s*(?:[×*:@,]|\bx\b|x(?=\s*\d))\s*"
    rf"(?P<samples>{_GROUPED}|\d+)\s*$",
    re.I,
)
_COUNT = re.compile(rf"(?P<grouped>-?{_GROUPED})|-?\d+(?:\.\d{{1,2}})?(?:e\+?\d{{1,2}})?", re.I)
# After a count: it is a part of a number that can be read in several ways.
_GOES_ON = re.compile(r"[.,_'’\s]?\d|\s?k\b", re.I)
_DECIMAL = re.compile(r"-?\d{0,9}\.?\d{1,17}(?:e-?\d{1,2})?\s*%?", re.I)
# The same, but not a part of a name like F1, acc@1 or top-1.
_ALONE = re.compile(r"(?<![\w@.-])" + _DECIMAL.pattern, re.I)
_PREDICTED = ("predictedscore", "predicted", "prediction", "expectedscore", "expected", "score")
# Parts of a reply that are not proposals, whatever they look like.
_TEXTS = ("analysis", "guidelines")
# Calls of tools have their arguments as JSON or as a text of JSON.
_ARGUMENTS = ("arguments", "parameters", "input")


@dataclass(frozen=True)
class RawChoice:
    """What a reply says of one stage; None where it has nothing usable."""

    model: str | None
    samples: float | None


@dataclass(frozen=True)
class RawAllocation:
    """One proposed allocation as in the reply, its reason and predicted score."""

    choices: Mapping[str, RawChoice]
    reason: str = ""
    predicted: float | None = None


def read_allocations(text: str, space: SearchSpace) -> list[RawAllocation]:
    """Return the allocations in a reply, in its order; empty if there are none."""
    found: list[RawAllocation] = []
    for value in json_values(text, several=True):
        for record in _records(value, space):
            if len(found) < _MOST_ALLOCATIONS:
                found.append(record)
        if found:
            break
    return found


def read_guidelines(text: str, most: int = 8, *, named: bool = False) -> list[str]:
    """Return the guidelines in a reply: sentences of one line each.

    The list is empty if the reply has none. With ``named`` only a list called guidelines counts.
    """
    for value in json_values(text, several=named):
        if named:
            whole = value if isinstance(value, list) else [value]
            parts = (item for part in whole if isinstance(part, dict) for item in part.items())
            for _, part in (item for item in parts if folded(item[0]) == "guidelines"):
                return _sentences(part)[:most]
            continue
        sentences = _sentences(value)
        if sentences:
            return sentences[:most]
    if named:
        return []
    # Not JSON: take the lines that look like items of a list.
    items = _ITEM.findall(text[:_LONGEST_REPLY])
    return [line for line in map(_line, items) if line][:most]


def json_values(text: str, *, several: bool = False) -> Iterator[Any]:
    """Yield the JSON values in a text, the likeliest first.

    Of several fences the last comes first: a reply ends with its answer, after drafts of it. With
    ``several``, values that follow each other are one list.
    """
    said = text[:_LONGEST_REPLY]
    pieces = [*reversed(_FENCE.findall(said)), said]
    for piece in pieces:
        value = _loads(piece.strip())
        if isinstance(value, (dict, list)):
            yield value
    for piece in pieces if several else ():
        if len(values := _sequence(piece)) > 1:
            yield values
    for piece in pieces:
        start = min((i for i in (piece.find("{"), piece.find("[")) if i >= 0), default=-1)
        if start >= 0:
            value = repair_json(piece[start:])
            if isinstance(value, (dict, list)):
                yield value


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _sequence(text: str) -> list[Any]:
    """Return the JSON values that follow each other, up to one that is not valid."""
    values: list[Any] = []
    found = _OPENING.search(text)
    while found is not None:
        try:
            value, end = _DECODER.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            break
        values.append(value)
        found = _OPENING.search(text, end)
    return values


def _records(value: Any, space: SearchSpace, level: int = 0) -> Iterator[RawAllocation]:
    """Yield everything in a JSON value that has the shape of an allocation."""
    if level > 6:
        return
    if isinstance(value, dict):
        record = _record(value, space)
        if record is not None:
            yield record
            return
        for key, inner in value.items():
            if isinstance(inner, str) and folded(key) in _ARGUMENTS:
                inner = _loads(inner)
            if isinstance(inner, (dict, list)) and folded(key) not in _TEXTS:
                yield from _records(inner, space, level + 1)
    elif isinstance(value, list):
        record = _listed(value, space)
        if record is not None:
            yield record
            return
        for inner in value:
            if isinstance(inner, (dict, list)):
                yield from _records(inner, space, level + 1)


def _record(value: Mapping[Any, Any], space: SearchSpace) -> RawAllocation | None:
    """Return an allocation from ``{STAGE: {model, samples}}``.

    The list or mapping of stages may be one level down.
    """
    by_name = {folded(key): part for key, part in value.items()}
    choices: dict[str, RawChoice] = {}
    for stage in space.stages:
        name = folded(stage.name)
        if name in by_name:
            choices[stage.name] = _choice(by_name[name])
        elif f"{name}model" in by_name or f"{name}samples" in by_name:
            choices[stage.name] = RawChoice(
                _text(by_name.get(f"{name}model")), read_count(by_name.get(f"{name}samples"))
            )
    if any(c.model is not None or c.samples is not None for c in choices.values()):
        return RawAllocation(choices, _reason(by_name), _predicted(by_name))
    for key in ("allocation", "stages", "choices"):
        inner = by_name.get(key)
        found = (
            _listed(inner, space)
            if isinstance(inner, list)
            else _record(inner, space)
            if isinstance(inner, dict)
            else None
        )
        if found is not None:
            predicted = _predicted(by_name) if found.predicted is None else found.predicted
            return RawAllocation(found.choices, found.reason or _reason(by_name), predicted)
    return None


def _listed(value: list[Any], space: SearchSpace) -> RawAllocation | None:
    """Return an allocation from ``[{stage, model, samples}, ...]``."""
    names = {folded(stage.name): stage.name for stage in space.stages}
    choices: dict[str, RawChoice] = {}
    for part in value:
        if not isinstance(part, dict):
            return None
        by_name = {folded(key): inner for key, inner in part.items()}
        name = names.get(folded(by_name.get("stage", "")))
        if name is None or name in choices:
            return None
        choices[name] = _choice(part)
    return RawAllocation(choices) if choices else None


def _choice(value: Any) -> RawChoice:
    if isinstance(value, dict):
        by_name = {folded(key): part for key, part in value.items()}
        model = by_name.get("model", by_name.get("name"))
        names = ("samples", "numsamples", "n", "k", "count")
        samples = next((by_name[name] for name in names if name in by_name), None)
        return RawChoice(_text(model), read_count(samples))
    if isinstance(value, list) and len(value) == 2:
        return RawChoice(_text(value[0]), read_count(value[1]))
    if isinstance(value, str):
        pair = _PAIR.match(value[:200])
        if pair:
            return RawChoice(_text(pair["model"]), read_count(pair["samples"]))
        return RawChoice(_text(value), None)
    return RawChoice(None, read_count(value))


def _sentences(value: Any) -> list[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if "guideline" in str(key).lower() or len(value) == 1:
                return _sentences(inner)
        texts = [f"{key}: {inner}" for key, inner in value.items() if isinstance(inner, str)]
        return [line for line in map(_line, texts) if line]
    if isinstance(value, list):
        lines = []
        for inner in value:
            if isinstance(inner, dict):
                inner = " ".join(str(part) for part in inner.values() if isinstance(part, str))
            if isinstance(inner, str) and _line(inner):
                lines.append(_line(inner))
        return lines
    return [_line(value)] if isinstance(value, str) and _line(value) else []


def _line(text: str) -> str:
    """Return a text as one line without mark-up; what is cut off a long one is marked."""
    line = _one_line(text.replace("*", " ")).strip(" -")
    if len(line) <= _LONGEST_LINE:
        return line
    kept = line[: _LONGEST_LINE - len(_CUT)]
    return f"{kept.rpartition(' ')[0] or kept}{_CUT}"


def _reason(by_name: Mapping[str, Any]) -> str:
    for key in ("reason", "rationale", "why", "explanation"):
        if isinstance(by_name.get(key), str):
            return _line(by_name[key])[:200]
    return ""


def _predicted(by_name: Mapping[str, Any]) -> float | None:
    found = (read_score(by_name[key]) for key in _PREDICTED if key in by_name)
    return next((score for score in found if score is not None), None)


def read_score(value: Any) -> float | None:
    """Return a score as models write it: a number, a text with one, or a percentage."""
    if isinstance(value, str):
        match = _ALONE.search(value[:200]) or _DECIMAL.search(value[:200])
        if match is None:
            return None
        text, share = match.group().rstrip("%").strip(), match.group().endswith("%")
        value = float(text) / (100.0 if share else 1.0)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9:
        return float(value)
    return None


def read_count(value: Any) -> float | None:
    """Return a count as a number that a float holds exactly; else None.

    A text is read only if its first number can be read in one way: ``1,000`` but not ``1.000``.
    """
    if isinstance(value, str):
        text = value[:200]
        match = _COUNT.search(text)
        if match is None or _GOES_ON.match(text, match.end()):
            return None
        value = float(re.sub(r"[^-\d]", "", match.group()) if match["grouped"] else match.group())
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e9 else 1e9 if value == value and value > 0 else None
    return None


def _text(value: Any) -> str | None:
    return _one_line(value)[:100] or None if isinstance(value, str) else None


def _one_line(text: str) -> str:
    return " ".join(_CONTROL_OR_SURROGATE.sub(" ", text).split())
