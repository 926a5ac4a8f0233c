"""The values that differ between two documents, and how a user reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from agenttts.errors import KeyPath, dotted

Differences = dict[str, list[Any]]
"""The old and the new value of each changed key, by the key's path (``trial.partition``)."""


def differences(old: Any, new: Any) -> Differences:
    """Return what differs between two documents.

    A key that one of them does not have has the value None there.
    """
    return {dotted(path): values for path, values in changed_values(old, new).items()}


def changed_values(old: Any, new: Any) -> dict[KeyPath, list[Any]]:
    """Return `differences` by the keys that lead to each of them; a key may hold dots."""
    return dict(_walk(old, new, ()))


def difference_lines(changed: Differences) -> list[str]:
    """Return one line a key: ``trial.partition: gpuu -> gpu``."""
    return [f"{key}: {shown(old)} -> {shown(new)}" for key, (old, new) in changed.items()]


def shown(value: Any) -> str:
    """Return a value as users read it: as in YAML, or ``not set``."""
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _walk(old: Any, new: Any, path: KeyPath) -> Iterator[tuple[KeyPath, list[Any]]]:
    if _is_section(old, new) or _is_section(new, old):
        before, after = old or {}, new or {}
        for key in dict.fromkeys([*before, *after]):
            yield from _walk(before.get(key), after.get(key), (*path, str(key)))
    elif old != new:
        yield path, [old, new]


def _is_section(value: Any, other: Any) -> bool:
    return isinstance(value, Mapping) and (other is None or isinstance(other, Mapping))
