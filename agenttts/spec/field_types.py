"""Look up type annotations of sections by the path of a key in a document."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from types import UnionType
from typing import Any, Literal

from pydantic import BaseModel


def step(annotation: Any, part: str | int) -> Any:
    """Return the annotation of ``part``, one level below ``annotation``.

    It is ``Any`` if it is not known, and None if ``part`` leads nowhere.
    """
    if annotation is Any:
        return Any
    for option in options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            if part in option.model_fields:
                return option.model_fields[str(part)].annotation
            if isinstance(part, str) and not any(
                part in other.model_fields for other in models(annotation)
            ):
                if part in {o.__name__ for o in models(annotation)} or "[" in part:
                    continue
                return Any
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if origin is dict and isinstance(part, str) and "[" not in part:
            return arguments[1]
        if origin in (list, Sequence) and isinstance(part, int):
            return arguments[0]
    return None


def field_type(model: type[BaseModel], path: Sequence[str | int]) -> Any:
    """Return the annotation of the value at ``path``; ``Any`` if the model has none."""
    here: Any = model
    for part in path:
        here = step(here, part)
        if here is None:
            return Any
    return here


def options(annotation: Any) -> list[Any]:
    """Return the members of a union, or the annotation itself if it is not a union."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return [x for option in typing.get_args(annotation) for x in options(option)]
    return [annotation]


def models(annotation: Any) -> list[type[BaseModel]]:
    """Return the alternatives of an annotation that are sections."""
    return [o for o in options(annotation) if isinstance(o, type) and issubclass(o, BaseModel)]


def is_text_field(annotation: Any, value: Any) -> bool:
    """Return whether a field takes text but not ``value``.

    ``value`` is a number or truth value that YAML made of an unquoted scalar.
    """
    if annotation is Any or value is None:
        return False
    found = options(annotation)
    if not any(option is str or _is_text_literal(option) for option in found):
        return False
    if isinstance(value, bool):
        return not any(option is bool for option in found)
    return not any(option in (int, float) for option in found)


def _is_text_literal(option: Any) -> bool:
    return typing.get_origin(option) is Literal and all(
        isinstance(word, str) for word in typing.get_args(option)
    )
