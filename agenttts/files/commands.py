"""Run programs that answer quickly; each has a time limit, and none raises."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LONGEST_QUOTE = 500


@dataclass(frozen=True)
class Answer:
    """What a program answered, or why there is no answer.

    Args:
        exit_code: Its exit status, negative for a signal; None if it did not end by itself.
        output: What it wrote to standard output.
        errors: What it wrote to standard error.
        problem: Why there is no answer, as a phrase to follow the program's name; None if the
            program ended.
    """

    exit_code: int | None = None
    output: bytes = b""
    errors: bytes = b""
    problem: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the program ended with exit status 0."""
        return self.exit_code == 0

    @property
    def text(self) -> str:
        """The standard output as UTF-8, whatever the locale; other bytes are replaced."""
        return self.output.decode("utf-8", "replace")

    def quoted(self) -> str:
        """The end of its standard error, else of its standard output, in one line."""
        text = self.errors.decode("utf-8", "replace") or self.text
        return " ".join(text.split())[-_LONGEST_QUOTE:]

    def failure(self) -> str | None:
        """Why it failed, as a phrase to follow the program's name; None if it did not."""
        if self.problem is not None or self.succeeded:
            return self.problem
        said = self.quoted()
        return f"failed with exit status {self.exit_code}" + (f": {said}" if said else "")


def ask(command: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> Answer:
    """Run a program that answers quickly, with nothing on its standard input.

    Args:
        command: The program and its arguments.
        seconds: The time limit; the program is killed then.
        env: Its whole environment; None for this process's.
    """
    try:
        done = subprocess.run(
            list(command),
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(problem=f"did not end within {seconds:g} s")
    except (OSError, ValueError) as error:  # ValueError: a null byte in an argument
        return Answer(problem=f"cannot be run: {getattr(error, 'strerror', None) or error}")
    return Answer(done.returncode, done.stdout, done.stderr)
