"""Strict YAML: a document validated against a pydantic model, every error with its file, line and key.

Serves job specs and cluster profiles alike.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from agenttts.errors import UserError, valid_names

# libyaml's parser, where PyYAML was built with it, reads a spec ten times as fast (2 ms for 20 ms, 2026-11).
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

KeyPath = tuple[str | int, ...]
ModelT = TypeVar("ModelT", bound=BaseModel)


def load_strict(
    model: type[ModelT], text: str, source: str, overrides: Sequence[str] = ()
) -> ModelT:
    """Parse YAML ``text`` (from ``source``, a name for messages) into ``model``.

    ``overrides`` are ``a.b=value`` strings, each value YAML itself. Raises `UserError`.
    """
    document, lines = _parse(text, source)
    for override in overrides:
        _override(document, override, source)
    return validate(model, document, source, lines)


def validate(
    model: type[ModelT], document: Any, source: str, lines: Mapping[KeyPath, int] | None = None
) -> ModelT:
    """Validate a document; the `UserError` names every wrong key."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        told = _of_the_branch_meant(model, error.errors())
        problems = [_describe(model, problem, source, lines or {}) for problem in told]
        # A union reports one problem per alternative: the same place is said once.
        raise UserError("; ".join(dict.fromkeys(problems))) from None


def _parse(text: str, source: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        document = loader.construct_document(node) if node else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"{where}: not valid YAML: {problem}") from None
    if not isinstance(document, dict):
        raise UserError(
            f"{source}: a mapping of keys is expected at the top, not {_kind(document)}"
        )
    lines: dict[KeyPath, int] = {}
    _record_lines(node, (), lines, source)
    return document, lines


def _record_lines(node: Any, path: KeyPath, lines: dict[KeyPath, int], source: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                where = _dotted((*path, key.value))
                raise UserError(f"{source}:{line}: {where} is given twice; keep one of the two")
            seen.add(key.value)
            lines[(*path, key.value)] = line
            _record_lines(value, (*path, key.value), lines, source)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            lines[(*path, position)] = value.start_mark.line + 1
            _record_lines(value, (*path, position), lines, source)


def _override(document: dict[str, Any], override: str, source: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"--set {override}: valid is KEY.PATH=VALUE, e.g. --set search.budget=500")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: the value is not valid YAML") from None
    *parents, last = key.split(".")
    place = document
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise UserError(f"--set {override}: '{parent}' in {source} holds no keys of its own")
    place[last] = value


def _of_the_branch_meant(model: type[BaseModel], problems: Sequence[Any]) -> list[Any]:
    """The problems without those of union alternatives that the value was not written for.

    An alternative that would have the value of another kind (a list, where a mapping is given) says nothing of use
    when one of its kind has something to say about what is in it.
    """
    paths = [_real_path(model, problem["loc"]) for problem in problems]
    return [
        problem
        for problem, path in zip(problems, paths, strict=True)
        if not (
            problem["type"].endswith("_type")
            and any(len(p) > len(path) and p[: len(path)] == path for p in paths)
        )
    ]


def _describe(
    model: type[BaseModel], problem: Any, source: str, lines: Mapping[KeyPath, int]
) -> str:
    path = _real_path(model, problem["loc"])
    cause = (problem.get("ctx") or {}).get("error")
    path = getattr(cause, "path", None) or path
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    where = f"{source}:{line}" if line else source
    kind, value = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        what = f"unknown key; {valid_names(path[-1], _valid_keys(model, path[:-1]))}"
    elif kind == "missing":
        what = "this key is required but missing"
    elif kind == "too_short":
        what = f"must hold at least {problem['ctx']['min_length']}, not {_shown(value)}"
    elif cause is not None:
        what = str(cause)
    else:
        message = problem["msg"]
        what = f"{message[:1].lower()}{message[1:]}, not {_shown(value)}"
        what = what.replace("input should be", "must be")
    return f"{where}: {_dotted(path) or 'the document'}: {what}"


def _real_path(model: type[BaseModel], loc: Sequence[str | int]) -> KeyPath:
    """pydantic puts the names of union alternatives into a location; keep only keys and positions."""
    path: list[str | int] = []
    here: Any = model
    for part in loc:
        step = _step(here, part)
        if step is None:
            continue
        path.append(part)
        here = step
    return tuple(path)


def _step(annotation: Any, part: str | int) -> Any:
    """The annotation one step down, ``Any`` where it is not known, None when ``part`` is no step."""
    if annotation is Any:
        return Any
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            if part in option.model_fields:
                return option.model_fields[str(part)].annotation
            if isinstance(part, str) and not any(
                part in other.model_fields for other in _models(annotation)
            ):
                if part in {o.__name__ for o in _models(annotation)} or "[" in part:
                    continue
                return Any
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if origin is dict and isinstance(part, str) and "[" not in part:
            return arguments[1]
        if origin is list and isinstance(part, int):
            return arguments[0]
    return None


def _options(annotation: Any) -> list[Any]:
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return [x for option in typing.get_args(annotation) for x in _options(option)]
    return [annotation]


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [o for o in _options(annotation) if isinstance(o, type) and issubclass(o, BaseModel)]


def _valid_keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    here: Any = model
    for part in path:
        here = _step(here, part)
    return sorted({name for option in _models(here) for name in option.model_fields})


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "nothing"}.get(
        type(value), type(value).__name__
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
