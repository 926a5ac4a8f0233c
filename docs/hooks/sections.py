"""Tables of the keys of YAML files, from the models that read them."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_PLAIN = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Any: "any value",
}
_BOUNDS = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}


@dataclass(frozen=True)
class Key:
    """One key of a section."""

    name: str
    valid: str
    default: str
    description: str


@cache
def attribute_texts(kind: type) -> Mapping[str, str]:
    """Return the texts below the attributes of a class and of its bases, and of properties."""
    found: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        if part.__module__.partition(".")[0] not in ("agenttts", "tests", kind.__module__):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0]
        except (OSError, TypeError):  # made at run time
            continue
        assert isinstance(body, ast.ClassDef)
        for one, after in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(one, ast.FunctionDef):
                found[one.name] = ast.get_docstring(one) or ""
            if (
                isinstance(one, ast.AnnAssign)
                and isinstance(one.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[one.target.id] = inspect.cleandoc(after.value.value)
    return found


def keys(model: type[BaseModel]) -> list[Key]:
    """Return the keys of a section, in their order."""
    texts = attribute_texts(model)
    return [
        Key(name, valid(field), _default(field), markdown(texts.get(name, "")))
        for name, field in model.model_fields.items()
        if not field.exclude
    ]


def sections(model: type[BaseModel], at: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield a section and all within it, each with the path of its key."""
    yield at, model
    for name, field in model.model_fields.items():
        within = _models(field.annotation)
        for path, kind in within:
            place = ".".join(part for part in (at, name, path) if part)
            label = _kind(kind)
            yield from sections(kind, f"{place} ({label})" if label else place)


def table(model: type[BaseModel]) -> str:
    """Return the table of a section's keys in Markdown."""
    rows = [f"| `{k.name}` | {k.valid} | {k.default} | {k.description} |" for k in keys(model)]
    return "\n".join(["| key | value | default | what |", "|---|---|---|---|", *rows])


def valid(field: FieldInfo) -> str:
    """Return in words what a field takes; its own description, if it has one."""
    if field.description:
        return escaped(field.description)
    return escaped(_valid(field.annotation, field.metadata))


def markdown(text: str, none: str = "unset") -> str:
    """Return a docstring's text as one line of Markdown, for a cell of a table.

    Args:
        text: The docstring.
        none: What the file that the table is about has in place of None.
    """
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    text = re.sub(r"(^|[.\n] ?)None:", rf"\1{none.capitalize()}:", text)
    text = re.sub(r"\bNone\b", none, text)
    lines = re.sub(r"\s*\n\s*- ", "<br>• ", text)
    return escaped(" ".join(lines.split()))


def escaped(text: str) -> str:
    """Return a text that does not end a table's cell."""
    return text.replace("|", "\\|")


def _valid(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _valid(inner, [*metadata, *more])
    if origin in (Union, types.UnionType):
        parts = [_valid(part, metadata) for part in get_args(annotation) if part is not type(None)]
        return ", or ".join(dict.fromkeys(parts))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (list, tuple, Sequence) or (
        inspect.isclass(origin) and issubclass(origin, Sequence)
    ):
        return f"list ({_valid(get_args(annotation)[0])})"
    if origin is dict or (inspect.isclass(origin) and issubclass(origin, Mapping)):
        return f"mapping of names ({_valid(get_args(annotation)[1])})"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "keys, see below"
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return ", ".join(f"`{value.value}`" for value in annotation)
    return _PLAIN.get(annotation, "text") + _bounds(metadata)


def _bounds(metadata: Sequence[Any]) -> str:
    plain = [
        part for one in metadata for part in (one.metadata if isinstance(one, FieldInfo) else [one])
    ]
    found = [
        f"{words} {getattr(one, attribute):g}"
        for one in plain
        for kind, (attribute, words) in _BOUNDS.items()
        if isinstance(one, kind)
    ]
    return f" {' and '.join(found)}" if found else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_unset=True) or None
    if value is None or value == "":
        return "unset"
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n")
    return f"`{escaped(text.strip())}`"


def _models(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the sections that a value may be, with what stands before their keys."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield "", annotation
        return
    prefix = {dict: "NAME", list: "N"}.get(get_origin(annotation) or object, "")
    for part in get_args(annotation):
        for path, kind in _models(part):
            yield ".".join(one for one in (prefix, path) if one), kind


def _kind(model: type[BaseModel]) -> str:
    """Return ``kind: NAME`` for one of several alternatives that are told apart by it."""
    field = model.model_fields.get("kind")
    values = get_args(field.annotation) if field is not None else ()
    return f"kind: {values[0]}" if len(values) == 1 else ""
