"""Strict YAML: validate a document against a pydantic model.

Every error names its file, line and key. Job specs and cluster profiles use this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from agenttts.errors import KeyPath, UserError, WrongValues, dotted, shortened, valid_names
from agenttts.spec.field_types import models, step
from agenttts.spec.section import Section
from agenttts.spec.source import Place, Source
from agenttts.spec.yaml_document import read_document, read_value

_KEY_PART = re.compile(r"\.([^.\[\]=]+)|\[(\d+)\]")
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
    return load_with_source(model, text, source, overrides)[0]


def load_with_source(
    model: type[ModelT], text: str, source: str, overrides: Sequence[str] = ()
) -> tuple[ModelT, Source]:
    """Parse YAML as `load_strict` does, and return the places of its keys too."""
    document, lines = read_document(model, text, source)
    places: dict[KeyPath, Place] = {path: (source, line) for path, line in lines.items()}
    given: set[KeyPath] = set()
    for override in overrides:
        path, new = _override(model, document, override, source)
        if path in given:
            raise UserError(
                f"--set {shortened(override)}: {dotted(path)} is set twice; give one of the two"
            )
        # Later overrides apply to the document of the earlier ones.
        dropped = next((p for p in given if p[: len(path)] == path), None)
        if dropped is not None:
            raise UserError(
                f"--set {shortened(override)}: it replaces {dotted(dropped)}, which another --set "
                f"gives; give that value in {dotted(path)}, or its --set after this one"
            )
        given.add(path)
        # The override replaces everything that was below it in the file.
        places = {at: place for at, place in places.items() if at[: len(path)] != path}
        places |= dict.fromkeys(new, (_place(override), None))
    found = Source(source, places)
    with found.located():
        return _validate(model, document), found


def read_options(model: type[ModelT], given: Mapping[str, object], owner: str) -> ModelT:
    """Return options as the section that their task, searcher or engine declares.

    Args:
        model: The section.
        given: The options by name.
        owner: What has the options, for messages: ``task 'kgqa'``.

    Raises:
        UserError: Options are wrong. The error is about all of them, each at its own name.
    """
    return _validate(model, dict(given), owner)


def _validate(model: type[ModelT], document: Any, owner: str = "") -> ModelT:
    """Validate a document; errors have the keys of their values, and no file."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        told = _of_the_branch_meant(model, document, error.errors())
        problems = [_described(model, document, problem, owner) for problem in told]
        raise problems[0] if len(problems) == 1 else WrongValues(problems) from None


def _override(
    model: type[BaseModel], document: dict[str, Any], override: str, source: str
) -> tuple[KeyPath, list[KeyPath]]:
    """Put the value of an override into the document.

    Returns:
        The path of the value, and all paths that the override added.
    """
    shown = shortened(override)
    key, separator, text = override.partition("=")
    path = _parts(document, key)
    if not separator or not path:
        raise UserError(
            f"--set {shown or chr(39) * 2}: valid is KEY.PATH=VALUE, e.g. --set "
            "search.budget=500 or "
            "--set stages.answer.models[0]=llama-3b"
        )
    try:
        value = read_value(model, path, text)
    except UserError as error:
        raise UserError(f"--set {shown}: the value is {error.message}") from None
    except RecursionError:
        raise UserError(f"--set {shown}: the path has too many parts") from None
    place: Any = document
    new: list[KeyPath] = []
    for number, part in enumerate(path):
        fits = isinstance(place, list) if isinstance(part, int) else isinstance(place, dict)
        if not fits or (isinstance(part, int) and part >= len(place)):
            what = dotted(path[:number]) or "the document"
            raise UserError(
                f"--set {shown}: '{shortened(what)}' in {source} holds {_nothing_at(part)}; "
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


def _parts(document: Any, key: str) -> list[str | int] | None:
    """Return the parts of a key path; None if it is not one.

    A name in the document may have dots or brackets of its own; the longest that fits is taken.
    """
    path: list[str | int] = []
    place, text, at = document, f".{key}", 0
    while at < len(text):
        keys = [f".{k}" for k in place if k != ""] if isinstance(place, Mapping) else []
        ends = [at + len(k) for k in keys if text.startswith(k, at)]
        end = max((end for end in ends if text[end : end + 1] in ("", ".", "[")), default=None)
        found = _KEY_PART.match(text, at)
        if end is not None:
            part: str | int = text[at + 1 : end]
        elif found is not None:
            part, end = found[1] or int(found[2]), found.end()
        else:
            return None
        path.append(part)
        at = end
        try:
            place = place[part]
        except (KeyError, IndexError, TypeError):
            place = None
    return path


def _place(override: str) -> str:
    """Return how an override was given; the command line has options for two keys."""
    key, _, value = override.partition("=")
    return f"--{key} {value}" if key in ("cluster", "name") else f"--set {shortened(override)}"


def _nothing_at(part: str | int) -> str:
    return f"no element {part}" if isinstance(part, int) else "no keys of its own"


def _valid_at(place: Any, what: str) -> str:
    """Return what may follow a path at ``place``, where the override has a wrong part."""
    shown = shortened(what)
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


def _described(model: type[BaseModel], document: Any, problem: Any, owner: str) -> UserError:
    path = _real_path(model, document, problem["loc"])
    cause = (problem.get("ctx") or {}).get("error")
    path = getattr(cause, "path", None) or path
    kind, value = problem["type"], problem.get("input")
    valid = _described_values(model, path)
    if kind == "extra_forbidden":
        own = owner and len(path) == 1
        unknown = f"{owner} has no option '{path[-1]}'" if own else "unknown key"
        what = f"{unknown}; {_valid_keys(model, path)}"
    elif kind == "missing":
        what = "this key is required but missing"
    elif cause is not None:
        what = _with_short_value(str(cause), value)
    elif valid:
        what = f"{_shown(value)} is not valid; valid: {valid}"
    elif kind == "too_short":
        what = f"must hold at least {problem['ctx']['min_length']}, not {_shown(value)}"
    else:
        message = problem["msg"]
        what = f"{message[:1].lower()}{message[1:]}, not {_shown(value)}"
        what = what.replace("input should be", "must be")
    message = what if path or owner else f"the document: {what}"
    # A validator of ours may have found a secret, and no error carries one.
    return UserError(message, at=path, value=value if cause is None else None)


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


def _valid_keys(model: type[BaseModel], path: KeyPath) -> str:
    """Return what is valid in place of the unknown key that ``path`` ends with."""
    here: Any = model
    for part in path[:-1]:
        here = step(here, part)
    sections = models(here)
    if len(sections) == 1 and issubclass(sections[0], Section):
        return sections[0].valid_keys(str(path[-1]))
    return valid_names(path[-1], sorted({name for s in sections for name in s.model_fields}))


def _described_values(model: type[BaseModel], path: KeyPath) -> str | None:
    """Return the description of the valid values at ``path``, if its field has one."""
    here: Any = model
    found = None
    for part in path:
        fields = (section.model_fields.get(str(part)) for section in models(here))
        found = next((field.description for field in fields if field), found)
        here = step(here, part)
    return found


def _with_short_value(message: str, value: Any) -> str:
    """Return the message of a validator, with its value cut if that is long."""
    for whole in {str(value), repr(value)}:
        message = message.replace(whole, shortened(whole))
    return message


def _shown(value: Any) -> str:
    return shortened(repr(value))
