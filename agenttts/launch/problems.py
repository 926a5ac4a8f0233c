"""What this machine lacks for a launch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agenttts.errors import MissingRequirement, Unavailable


@dataclass(frozen=True)
class Problem:
    """A reason to refuse a launch from this machine, and how to fix it."""

    what: str
    fix: str


class Problems:
    """What this machine lacks.

    A launch raises it at once. A dry run collects it in ``found``.
    """

    def __init__(self, *, dry_run: bool) -> None:
        self.found: list[Problem] = []
        self._dry_run = dry_run

    @contextmanager
    def here(self) -> Iterator[None]:
        """Run a check of what this machine has.

        Any other `UserError`, i.e. an input that is wrong on every machine, is always raised.
        """
        try:
            yield
        except (Unavailable, MissingRequirement) as error:
            if not self._dry_run:
                raise
            self.found.append(Problem(" ".join(error.what.split()), error.fix))
