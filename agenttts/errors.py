"""The tree of the project's errors and their exit codes.

AgentTTSError                 base of all; carries the process exit code
├── UserError          (2)    the user's input is wrong: file, key, value and what is valid
│   ├── WrongValues    (2)    several wrong values of one document
│   └── Unavailable    (2)    the input names something absent: data file, model or image
├── MissingRequirement (3)    the machine lacks something: what, and the command that fixes it
└── RunFailed          (4)    a run, or some of its trials, failed

The command line prints the message as one paragraph and exits with ``exit_code``. Nothing else in
the package prints errors or calls ``sys.exit``.

An error about a value says where the value is in attributes, not in its message. The code that
finds the error knows the value by the name of its own argument. The code that took the value from a
file knows its keys and its line, and adds them (`located`, `agenttts.spec.source.Source`).
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

KeyPath = tuple[str | int, ...]
"""The keys and positions that lead to a value in a document."""

_LONGEST_SHOWN = 60
"""The most characters of a user's value in a message."""


class AgentTTSError(Exception):
    """Base of every error that a user may see.

    Args:
        message: What is wrong, what is valid and the fix, without the place.
        at: The keys that lead to the wrong value, from the section that the raising code was given.
            Empty: the section itself. None: the error is not about a value of a document.
        value: The wrong value, if it may be shown.
        file: The file, or the ``--set`` argument, that has the value.
        line: Its line in the file.
    """

    exit_code = 1

    def __init__(
        self,
        message: str = "",
        *,
        at: KeyPath | None = None,
        value: object = None,
        file: str | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.at = at
        self.value = value
        self.file = file
        self.line = line

    def __str__(self) -> str:
        return self._placed(self.message)

    def locate(self, prefix: KeyPath) -> None:
        """Put keys before those of ``at``; nothing if the error is not about a value."""
        if self.at is not None:
            self.at = (*prefix, *self.at)

    def find(self, place: Callable[[KeyPath], tuple[str, int | None]]) -> None:
        """Set the file and the line of the value, unless they are set.

        Args:
            place: Returns the file and the line of a key.
        """
        if self.file is None and self.at is not None:
            self.file, self.line = place(self.at)

    def _placed(self, text: str) -> str:
        file = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (file, dotted(self.at or ()), text) if part)


class UserError(AgentTTSError):
    """The user's input is wrong.

    The message names file, key and value, and says what is valid.
    """

    exit_code = 2


class WrongValues(UserError):
    """Several wrong values of one document.

    Args:
        problems: One error for each value.
    """

    def __init__(self, problems: Sequence[UserError]) -> None:
        super().__init__(str(problems[0]))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        # A union reports one problem for each alternative; equal messages are shown once.
        return "; ".join(dict.fromkeys(str(problem) for problem in self.problems))

    def locate(self, prefix: KeyPath) -> None:
        for problem in self.problems:
            problem.locate(prefix)

    def find(self, place: Callable[[KeyPath], tuple[str, int | None]]) -> None:
        for problem in self.problems:
            problem.find(place)


class Unavailable(UserError):
    """The input names something that is not on this machine.

    A launch fails with this error. A dry run lists it and goes on.

    Args:
        message: What is missing.
        fix: What to do about it.
        at: As in `AgentTTSError`.
    """

    def __init__(self, message: str, *, fix: str, at: KeyPath | None = None) -> None:
        super().__init__(f"{message.rstrip('.')}; {fix}", at=at)
        self._what = message.rstrip(".")
        self.fix = fix

    @property
    def what(self) -> str:
        """What is missing, with its place."""
        return self._placed(self._what)


class MissingRequirement(AgentTTSError):
    """The machine lacks something that the program needs.

    Args:
        message: What is missing.
        fix: The command or step that provides it.
        at: The value of the user that needs it, as in `AgentTTSError`.
    """

    exit_code = 3

    def __init__(self, message: str, *, fix: str, at: KeyPath | None = None) -> None:
        super().__init__(f"{message.rstrip('.')}. Fix: {fix}", at=at)
        self._what = message.rstrip(".")
        self.fix = fix

    @property
    def what(self) -> str:
        """What is missing, with its place."""
        return self._placed(self._what)


class RunFailed(AgentTTSError):
    """A run, or some of its trials, failed."""

    exit_code = 4


@contextmanager
def located(*prefix: str | int) -> Iterator[None]:
    """Put ``prefix`` before the keys of an error that is raised in this block.

    In ``with located("task"):`` an error at ``data`` becomes one at ``task.data``. An error that is
    not about a value stays as it is.
    """
    try:
        yield
    except AgentTTSError as error:
        error.locate(prefix)
        raise


def dotted(path: Sequence[str | int]) -> str:
    """Return a path as users write it: ``stages.answer.models[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def cli_command(*words: object) -> str:
    """Return a command of this program for a message, quoted as a shell reads it."""
    return shlex.join(["agenttts-hpc", *map(str, words)])


def counted(count: object, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 trial", "2 trials".

    Args:
        count: The number, or how it is written.
        noun: The noun of one.
        plural: The noun of several; empty: the noun with an s.
    """
    return f"{count} {noun if str(count) == '1' else plural or f'{noun}s'}"


def shortened(text: str) -> str:
    """Return a text that a user wrote for a message, cut if it is long."""
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


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
