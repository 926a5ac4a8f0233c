"""The forms in which plans, the published ones and those that models write, hold the arguments
of a call.
"""

from __future__ import annotations

import json
from typing import Any

from agenttts.tasks.loading.unicode import clean_text, clean_value


def argument_pairs(given: Any, resources: bool) -> list[tuple[str, str]]:
    """Arguments as (name, value) pairs, the name empty for resources and where there is none; never
    raises.

    ``given`` is a list of ``{name, value}`` objects, of values, or of ``{NAME: value}`` objects, or
    one object of all names and values; also as JSON text. Null is no argument. Of ``resources``, an
    object's ``value`` is all that counts: some published plans name the type beside it.
    """
    given = decoded(given)
    if isinstance(given, str):
        given = [given]
    pairs: list[tuple[str, Any]] = []
    if isinstance(given, dict):
        pairs += given.items()
    for argument in given if isinstance(given, list) else []:
        if not isinstance(argument, dict):
            pairs += [("", argument)] if argument is not None else []
        elif isinstance(argument.get("name"), str):
            pairs.append((argument["name"], argument.get("value", "")))
        elif resources and "value" in argument:
            pairs.append(("", argument["value"]))
        else:
            pairs += argument.items()
    # A resource is told by its value: not all plans name it, and not with the same names.
    return [
        ("" if resources else clean_text(str(name)).strip(), clean_text(value_text(value)))
        for name, value in pairs
    ]


def decoded(given: Any) -> Any:
    """A list or object that is written as JSON text; anything else as it is."""
    if isinstance(given, str) and given.lstrip()[:1] in ("[", "{"):
        try:
            return clean_value(json.loads(given))
        except (ValueError, RecursionError):  # a text that begins like one
            return given
    return given


def value_text(value: Any) -> str:
    """An argument's value as text; lists of texts are joined, other values written as JSON."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value).strip()
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
