"""The forms of a call's arguments, in published plans and in models' plans."""

from __future__ import annotations

import json
from typing import Any

from agenttts.files.unicode import clean_text, clean_value


def argument_pairs(given: Any, resources: bool) -> list[tuple[str, str]]:
    """Return arguments as (name, value) pairs; never raises.

    The name is empty for resources, and for arguments without a name. ``given`` is a list of
    ``{name, value}`` objects, of values, or of ``{NAME: value}`` objects, or one object of all
    names and values. It may also be the JSON text of one of these. Null is not an
    argument. For a resource that is an object only the ``value`` counts, because some published
    plans name the type beside it.
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
    # A resource is identified by its value: not all plans name it, and the names differ.
    return [
        ("" if resources else clean_text(str(name)).strip(), clean_text(value_text(value)))
        for name, value in pairs
    ]


def decoded(given: Any) -> Any:
    """Return the list or object of a JSON text; any other value as it is."""
    if isinstance(given, str) and given.lstrip()[:1] in ("[", "{"):
        try:
            return clean_value(json.loads(given))
        except (ValueError, RecursionError):  # a text that only begins like JSON
            return given
    return given


def value_text(value: Any) -> str:
    """Return an argument's value as text.

    Lists of texts are joined, and other values are written as JSON.
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value).strip()
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
