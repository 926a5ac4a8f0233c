"""The command line of the program that evaluates trials, ``python -m agenttts.trial``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MODULE = ("-m", "agenttts.trial")


@dataclass(frozen=True)
class TrialCommand:
    """The trials to evaluate side by side.

    Args:
        specs: The trials' spec files.
        notes: The directory that gets notes of the current phase; None: the first trial's.
    """

    specs: tuple[Path, ...]
    notes: Path | None = None

    def arguments(self) -> tuple[str, ...]:
        """Return the arguments of the program."""
        notes = () if self.notes is None else ("--notes", str(self.notes))
        return (*notes, *map(str, self.specs))

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> TrialCommand:
        """Inverse of `arguments`; ends the program with exit code 2 if they are not valid."""
        parser = argparse.ArgumentParser("python -m agenttts.trial")
        parser.add_argument("--notes", type=Path)
        parser.add_argument("specs", type=Path, nargs="+")
        found = parser.parse_args(arguments)
        return cls(tuple(found.specs), found.notes)
