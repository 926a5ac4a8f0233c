"""Parts of YAML files with comments, which PyYAML cannot write."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence

import yaml

_WIDTH = 110


def scalar(value: str | int | float | bool) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return _dumped([value]).removeprefix("[").removesuffix("]")


def flow(value: Sequence[str] | Mapping[str, str] | str) -> str:
    """Return a list, mapping or text as YAML on one line."""
    if isinstance(value, str):
        return scalar(value)
    content: object = dict(value) if isinstance(value, Mapping) else list(value)
    return _dumped(content)


def block(key: str, lines: Sequence[str]) -> list[str]:
    """Return the lines of a key whose value is a text of several lines."""
    return [f"{key}: |-", *(f"  {line}" for line in lines)]


def comment(text: str, width: int = _WIDTH) -> list[str]:
    """Return the lines of a comment."""
    return [f"# {line}" for line in textwrap.wrap(text, width, break_on_hyphens=False)]


def _dumped(value: object) -> str:
    text: str = yaml.safe_dump(
        value, allow_unicode=True, width=10**9, default_flow_style=True, sort_keys=False
    )
    return text.strip()
