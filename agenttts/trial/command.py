"""The command line of ``python -m agenttts.trial``, which evaluates trials."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MODULE = ("-m", "agenttts.trial")


@dataclass(frozen=True)
class AskedQuestion:
    """The file of a question that the program is to answer.

    Its contents are described in `agenttts.trial.questions`.
    """

    file: Path


@dataclass(frozen=True)
class TrialCommand:
    """The trials to evaluate side by side.

    Args:
        specs: The trials' spec files.
        notes: The directory that gets notes of the current phase; None: the first trial's.
        stays: Whether the program stays for further trials and for questions, which standard input
            names.
    """

    specs: tuple[Path, ...]
    notes: Path | None = None
    stays: bool = False

    def arguments(self) -> tuple[str, ...]:
        """Return the arguments of the program."""
        notes = () if self.notes is None else ("--notes", str(self.notes))
        stays = ("--stay",) if self.stays else ()
        return (*notes, *stays, *map(str, self.specs))

    @staticmethod
    def line(specs: Sequence[Path]) -> bytes:
        """Return the line of standard input that names further trials."""
        return json.dumps([str(spec) for spec in specs]).encode() + b"\n"

    @staticmethod
    def question_line(question: AskedQuestion) -> bytes:
        """Return the line of standard input that names a question."""
        return json.dumps({"question": str(question.file)}).encode() + b"\n"

    @staticmethod
    def read_line(line: bytes) -> tuple[Path, ...] | AskedQuestion:
        """Inverse of `line` and `question_line`."""
        document = json.loads(line)
        if isinstance(document, dict):
            return AskedQuestion(Path(document["question"]))
        return tuple(Path(spec) for spec in document)

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> TrialCommand:
        """Inverse of `arguments`; ends the program with exit code 2 if they are not valid."""
        parser = argparse.ArgumentParser("python -m agenttts.trial")
        parser.add_argument("--notes", type=Path)
        parser.add_argument("--stay", action="store_true")
        parser.add_argument("specs", type=Path, nargs="+")
        found = parser.parse_args(arguments)
        return cls(tuple(found.specs), found.notes, found.stay)
