"""Strict YAML: validate a document against a pydantic model.

Every error names its file, line and key. Job specs and cluster profiles use this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from agenttts.errors import UserError, valid_names
from agenttts.spec.field_types import KeyPath, models, step
from agenttts.spec.yaml_document import dotted, read_document, read_value

_KEY_PART = re.compile(r"([^.\[\]=]+)|\[(\d+)\]")
_KEY_PATH = re.compile(r"[^.\[\]=]+(\.[^.\[\]=]+|\[\d+\])*")
ModelT = TypeVar("ModelT", bound=BaseModel)


def load_strict(
    model: type[ModelT], text: str, source: str, overrides: Sequence[str] = ()
) -> ModelT:
    """Parse YAML ``text`` into ``model``.

    Args:
        model: The pydantic model.
        text: The YAML text.
        source: Name of the text for messages.
        overrides: Strings of the form ``a.b=value``, with each value in YAML.

    Raises:
        UserError: The text or an override is not valid.
    """
    document, lines = read_document(model, text, source)
    places: dict[KeyPath, str] = {path: f"{source}:{line}" for path, line in lines.items()}
    given: set[KeyPath] = set()
    for override in overrides:
        path, new = _override(model, document, override, source)
        if path in given:
            raise UserError(
                f"--set {_shortened(override)}: {dotted(path)} is set twice; give one of the two"
            )
        given.add(path)
        # The override replaces everything that was below it in the file.
        places = {at: place for at, place in places.items() if at[: len(path)] != path}
        places |= dict.fromkeys(new, f"--set {_shortened(override)}")
    return _validate(model, document, source, places)


def validate(model: type[ModelT], document: Any, source: str) -> ModelT:
    """Validate a document.

    Raises:
        UserError: Keys are wrong; the message names all of them.
    """
    return _validate(model, document, source, {})


def _validate(
    model: type[ModelT], document: Any, source: str, places: Mapping[KeyPath, str]
) -> ModelT:
    """Validate as `validate` does; ``places`` gives the place of each key."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        told = _of_the_branch_meant(model, document, error.errors())
        problems = [_describe(model, document, problem, source, places) for problem in told]
        # A union reports one problem for each alternative; equal messages are shown once.
        raise UserError("; ".join(dict.fromkeys(problems))) from None


def _override(
    model: type[BaseModel], document: dict[str, Any], override: str, source: str
) -> tuple[KeyPath, list[KeyPath]]:
    """Put the value of an override into the document.

    Returns:
        The path of the value, and all paths that the override added.
    """
    shown = _shortened(override)
    key, separator, text = override.partition("=")
    if not separator or not _KEY_PATH.fullmatch(key):
        raise UserError(
            f"--set {shown or chr(39) * 2}: valid is KEY.PATH=VALUE, e.g. --set "
            "search.budget=500 or "
            "--set stages.answer.models[0]=llama-3b"
        )
    path: list[str | int] = [
        int(index) if index else name for name, index in _KEY_PART.findall(key)
    ]
    try:
        value = read_value(model, path, text)
    except UserError as error:
        problem = str(error).partition(": ")[2]
        raise UserError(f"--set {shown}: the value is {problem}") from None
    except RecursionError:
        raise UserError(f"--set {shown}: the path has too many parts") from None
    place: Any = document
    new: list[KeyPath] = []
    for number, part in enumerate(path):
        fits = isinstance(place, list) if isinstance(part, int) else isinstance(place, dict)
        if not fits or (isinstance(part, int) and part >= len(place)):
            what = dotted(path[:number]) or "the document"
            raise UserError(
                f"--set {shown}: '{_shortened(what)}' in {source} holds {_nothing_at(part)}; "
                f"{_valid_at(place, what)}"
            )
        if number == len(path) - 1:
            place[part] = value
            new.append(tuple(path))
        elif isinstance(part, int):
            place = place[part]
        else:
            if part not in place:
                new.append(tuple(path[: number + 1]))
            place = place.setdefault(part, {})
    return tuple(path), new


def _nothing_at(part: str | int) -> str:
    return f"no element {part}" if isinstance(part, int) else "no keys of its own"


def _valid_at(place: Any, what: str) -> str:
    """Return what may follow a path at ``place``, where the override has a wrong part."""
    shown = _shortened(what)
    if isinstance(place, list) and place:
        return f"valid: {shown}[0] to {shown}[{len(place) - 1}]"
    if isinstance(place, Mapping) and place:
        return f"valid: {', '.join(str(key) for key in place)}"
    return f"set {shown} as a whole"


def _of_the_branch_meant(
    model: type[BaseModel], document: Any, problems: Sequence[Any]
) -> list[Any]:
    """Drop the problems of union alternatives that the value was not written for.

    An alternative may report only that the value has the wrong kind, such as a list in place of a
    mapping. That report is dropped if another alternative of the right kind reports on the
    contents.
    """
    paths = [_real_path(model, document, problem["loc"]) for problem in problems]
    return [
        problem
        for problem, path in zip(problems, paths, strict=True)
        if not (
            problem["type"].endswith("_type")
            and any(len(p) > len(path) and p[: len(path)] == path for p in paths)
        )
    ]


def _describe(
    model: type[BaseModel], document: Any, problem: Any, source: str, places: Mapping[KeyPath, str]
) -> str:
    path = _real_path(model, document, problem["loc"])
    cause = (problem.get("ctx") or {}).get("error")
    path = getattr(cause, "path", None) or path
    known = (places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in places)
    where = next(known, source)
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
    return f"{where}: {dotted(path) or 'the document'}: {what}"


def _real_path(model: type[BaseModel], document: Any, loc: Sequence[str | int]) -> KeyPath:
    """Return a location with only keys and positions.

    Pydantic puts the names of union alternatives into a location.
    """
    path: list[str | int] = []
    here: Any = model
    value = document
    for part in loc:
        below = step(here, part)
        if below is None and not (isinstance(value, dict) and part in value):
            continue
        path.append(part)
        here = Any if below is None else below
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            value = None  # it is missing, which may be what is wrong
    return tuple(path)


def _valid_keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    here: Any = model
    for part in path:
        here = step(here, part)
    return sorted({name for option in models(here) for name in option.model_fields})


def _shown(value: Any) -> str:
    return _shortened(repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
