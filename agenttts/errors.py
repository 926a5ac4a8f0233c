"""The project's exceptions, drawn once.

AgentTTSError                 carries the process exit code ├── UserError          (2)    an input
of the user's is wrong: which file, key and value, and what is valid │   └── Unavailable    (2)
it may be right, but what it names is not here: a data file, a model, an image ├──
MissingRequirement (3)    the machine lacks something: what, and the command that fixes it └──
RunFailed          (4)    a run, or some of its trials, failed

The command line prints the message as one paragraph and exits with ``exit_code``; nothing else in
the package prints errors or calls ``sys.exit``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AgentTTSError(Exception):
    """Base of every error a user may see."""

    exit_code = 1


class UserError(AgentTTSError):
    """The user's input is wrong; the message names file, key and value and what is valid."""

    exit_code = 2


class Unavailable(UserError):
    """The input names something that is not on this machine; ``fix`` says what to do about it.

    To launch it is an error as any of the user's; a dry run lists it and goes on.
    """

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(f"{message.rstrip('.')}; {fix}")
        self.what = message.rstrip(".")
        self.fix = fix


class MissingRequirement(AgentTTSError):
    """The machine lacks something; ``fix`` is the command or step that provides it."""

    exit_code = 3

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(f"{message.rstrip('.')}. Fix: {fix}")
        self.what = message.rstrip(".")
        self.fix = fix


class RunFailed(AgentTTSError):
    """A run, or some of its trials, failed."""

    exit_code = 4


def valid_names(given: object, names: Iterable[str]) -> str:
    """'valid: a, b, c; did you mean "a"?': the tail of every "unknown X" message."""
    ordered = list(names)
    tail = f"valid: {', '.join(ordered) or '(none)'}"
    near = nearest_name(given, ordered)
    return f"{tail}; did you mean '{near}'?" if near else tail


def nearest_name(given: object, names: Iterable[str]) -> str | None:
    """The closest of ``names`` to a misspelt one, or None when nothing is close."""
    by_folded = {str(name).lower(): str(name) for name in names}
    match = difflib.get_close_matches(str(given).lower(), by_folded, n=1, cutoff=0.5)
    return by_folded[match[0]] if match else None
