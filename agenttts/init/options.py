"""The forms in which published data sets list the options of a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

Form = Literal["texts", "columns", "objects"]
"""A list of texts; ``{text: [...], label: [...]}`` as in ARC; or a list of ``{text, label}``."""
FORMS = "a list of texts, {text: [...], label: [...]}, or a list of {text, label}"


@dataclass(frozen=True)
class Options:
    """The options of one question; without labels in a list of texts."""

    form: Form
    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()


def options_of(value: Any) -> Options | None:
    """Return the options that a field holds; None if it holds anything else."""
    if _texts(value):
        return Options("texts", tuple(value))
    if isinstance(value, dict):
        texts, labels = value.get("text"), value.get("label")
        if _texts(texts) and _texts(labels) and len(texts) == len(labels):
            return Options("columns", tuple(texts), tuple(labels))
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        texts, labels = ([item.get(key) for item in value] for key in ("text", "label"))
        if _texts(texts) and _texts(labels):
            return Options("objects", tuple(texts), tuple(labels))
    return None


def all_options(values: Sequence[Any]) -> list[Options] | None:
    """Return the options of all records; None if a prompt cannot show them in one way."""
    found = [options_of(value) for value in values]
    known = [options for options in found if options is not None]
    alike = len(known) == len(found) and len({options.form for options in known}) == 1
    return known if alike else None


def _texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(x, str) for x in value)
