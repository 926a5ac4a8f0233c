"""The command line of ``python -m agenttts.trial``, which evaluates trials."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# A file of the user in the current directory, such as queue.py, must not hide a module of Python.
MODULE = ("-P", "-m", "agenttts.trial")


@dataclass(frozen=True)
class AskedQuestion:
    """The file of a question that the program is to answer.

    Its contents are described in `agenttts.trial.questions`.
    """

    file: Path


@dataclass(frozen=True)
class DueTrial:
    """A trial to evaluate; its text is the path, and ``:N`` if N stages are due.

    Args:
        spec: The trial's spec file, ``*.json``.
        upto: How many of its leading stages to draw; None: the trial is evaluated to its end.
    """

    spec: Path
    upto: int | None = None

    def __str__(self) -> str:
        return str(self.spec) if self.upto is None else f"{self.spec}:{self.upto}"

    @classmethod
    def of(cls, text: str) -> DueTrial:
        """Return the trial of a text."""
        path, _, upto = text.rpartition(":")
        return cls(Path(path), int(upto)) if path and upto.isdecimal() else cls(Path(text))


@dataclass(frozen=True)
class TrialCommand:
    """The trials to evaluate side by side.

    Args:
        trials: The trials.
        notes: The directory that gets notes of the current phase; None: the first trial's.
        stays: Whether the program stays for further trials and for questions, which standard input
            names.
    """

    trials: tuple[DueTrial, ...]
    notes: Path | None = None
    stays: bool = False

    def arguments(self) -> tuple[str, ...]:
        """Return the arguments of the program."""
        notes = () if self.notes is None else ("--notes", str(self.notes))
        stays = ("--stay",) if self.stays else ()
        return (*notes, *stays, *map(str, self.trials))

    @staticmethod
    def line(trials: Sequence[DueTrial]) -> bytes:
        """Return the line of standard input that names further trials."""
        return json.dumps([str(trial) for trial in trials]).encode() + b"\n"

    @staticmethod
    def question_line(question: AskedQuestion) -> bytes:
        """Return the line of standard input that names a question."""
        return json.dumps({"question": str(question.file)}).encode() + b"\n"

    @staticmethod
    def read_line(line: bytes) -> tuple[DueTrial, ...] | AskedQuestion:
        """Inverse of `line` and `question_line`."""
        document = json.loads(line)
        if isinstance(document, dict):
            return AskedQuestion(Path(document["question"]))
        return tuple(map(DueTrial.of, document))

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> TrialCommand:
        """Inverse of `arguments`; ends the program with exit code 2 if they are not valid."""
        parser = argparse.ArgumentParser("python -m agenttts.trial")
        parser.add_argument("--notes", type=Path)
        parser.add_argument("--stay", action="store_true")
        parser.add_argument("trials", metavar="SPEC[:STAGES]", type=DueTrial.of, nargs="+")
        found = parser.parse_args(arguments)
        return cls(tuple(found.trials), found.notes, found.stay)
