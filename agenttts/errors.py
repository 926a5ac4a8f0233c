"""The tree of the project's errors and their exit codes.

AgentTTSError                 base of all; carries the process exit code
├── UserError          (2)    the user's input is wrong: file, key, value and what is valid
│   └── Unavailable    (2)    the input names something absent: data file, model or image
├── MissingRequirement (3)    the machine lacks something: what, and the command that fixes it
└── RunFailed          (4)    a run, or some of its trials, failed

The command line prints the message as one paragraph and exits with ``exit_code``. Nothing else in
the package prints errors or calls ``sys.exit``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AgentTTSError(Exception):
    """Base of every error that a user may see."""

    exit_code = 1


class UserError(AgentTTSError):
    """The user's input is wrong.

    The message names file, key and value, and says what is valid.
    """

    exit_code = 2


class Unavailable(UserError):
    """The input names something that is not on this machine.

    A launch fails with this error. A dry run lists it and goes on.

    Args:
        message: What is missing.
        fix: What to do about it.
    """

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(f"{message.rstrip('.')}; {fix}")
        self.what = message.rstrip(".")
        self.fix = fix


class MissingRequirement(AgentTTSError):
    """The machine lacks something that the program needs.

    Args:
        message: What is missing.
        fix: The command or step that provides it.
    """

    exit_code = 3

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(f"{message.rstrip('.')}. Fix: {fix}")
        self.what = message.rstrip(".")
        self.fix = fix


class RunFailed(AgentTTSError):
    """A run, or some of its trials, failed."""

    exit_code = 4


def valid_names(given: object, names: Iterable[str]) -> str:
    """Return the end of an "unknown X" message: the valid names and the nearest one.

    Example: ``valid: a, b, c; did you mean 'a'?``
    """
    ordered = list(names)
    tail = f"valid: {', '.join(ordered) or '(none)'}"
    near = nearest_name(given, ordered)
    return f"{tail}; did you mean '{near}'?" if near else tail


def nearest_name(given: object, names: Iterable[str]) -> str | None:
    """Return the name closest to a misspelt one, or None if no name is close."""
    by_folded = {str(name).lower(): str(name) for name in names}
    match = difflib.get_close_matches(str(given).lower(), by_folded, n=1, cutoff=0.5)
    return by_folded[match[0]] if match else None
