"""Environment variables and ``~`` in paths that a user wrote."""

from __future__ import annotations

import os
import re
from pathlib import Path

from agenttts.errors import UserError

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def expanded(value: str, key: str) -> str:
    """``value`` with ``$NAME``, ``${NAME}`` and a leading ``~`` replaced.

    Args:
        value: A path, or something that may be one.
        key: Where it was written, for the message.

    Raises:
        UserError: A variable is not set, or ``~NAME`` names no user.
    """

    def replace(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise UserError(
                f"{key}: '{value}' uses the variable {name}, which is not set; export it, or write the path out"
            )
        return os.environ[name]

    path = _VARIABLE.sub(replace, value)
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        raise UserError(
            f"{key}: '{value}' names a home directory that is not known here; write the path out"
        ) from None
