"""The page of the public Python names, and docstrings as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import agenttts

_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$", re.MULTILINE)
_ENTRY = re.compile(r"^(\S[^:\n]*): ", re.MULTILINE)


def page() -> str:
    """Return the page of what ``import agenttts`` offers."""
    parts = [
        "# Python",
        "The public names of the package, such as for a notebook. They are imported when they are first used, so that "
        "`import agenttts` is fast. Tables are Polars data frames ([columns](tables.md)).",
        '```python\nimport agenttts\n\ntrials = agenttts.read_trials("results/2wiki/trials.parquet")\n```',
    ]
    for name in agenttts.__all__:
        value = getattr(agenttts, name)
        if callable(value):
            parts += [f"## {name}", _signature(name, value), text_of(value), *_methods(value)]
    return "\n\n".join(part for part in parts if part)


def text_of(value: Any) -> str:
    """Return a docstring as Markdown: its sections as lists."""
    text = re.sub(r"``([^`]+)``", r"`\1`", inspect.cleandoc(value.__doc__ or ""))
    before, *rest = _SECTION.split(text)
    parts = [before.strip()]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        parts.append(f"**{title}**")
        parts.append(_entries(inspect.cleandoc(body)))
    return "\n\n".join(part for part in parts if part)


def _entries(body: str) -> str:
    """Return the entries ``name: text`` of a section as a list; else the text as it is."""
    if not _ENTRY.match(body):
        return body
    entries = re.split(r"\n(?=\S)", body)
    return "\n".join("- " + _ENTRY.sub(r"`\1`: ", " ".join(entry.split())) for entry in entries)


def _methods(value: Any) -> Iterator[str]:
    if not inspect.isclass(value) or issubclass(value, Exception):
        return
    for name, method in vars(value).items():
        plain = method.__func__ if isinstance(method, (classmethod, staticmethod)) else method
        if name.startswith("_") or not (
            plain.__doc__ and (inspect.isfunction(plain) or isinstance(plain, property))
        ):
            continue
        yield f"### {value.__name__}.{name}"
        if inspect.isfunction(plain):
            yield _signature(name, plain)
        yield text_of(plain)


def _signature(name: str, value: Any) -> str:
    try:
        shown = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(value)))
    except (TypeError, ValueError):  # an enumeration, an exception
        return ""
    return f"```python\n{name}{shown}\n```"
