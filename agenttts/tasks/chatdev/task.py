"""Software development: write a program, review it, run and repair it (ChatDev's phases, on SRDD's requirements).

As in the paper: coding writes the files, static testing reviews and modifies them, dynamic testing runs the program,
feeds what came of it back and modifies it. A stage's k samples are k programs; the best by a check goes on: it starts,
nothing is left to fill in, it is Python at all. Ties go to the first, so that more samples help only where the first fails.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agenttts.inference.base import Prompt
from agenttts.sandbox import Limits, Outcome
from agenttts.tasks.base import Example, ExecutingStage, Task, TaskConfig, Toolbox, ToolboxSettings
from agenttts.tasks.chatdev.data import load_requirements
from agenttts.tasks.chatdev.programs import (
    is_complete,
    join,
    main_file,
    parses,
    read_files,
    without_comments,
)
from agenttts.tasks.chatdev.prompts import coding_prompt, repair_prompt, review_prompt
from agenttts.tasks.options import SPLIT_RULES, Rule, check_options

_SHOWN_ERROR = 800
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")

Program = dict[str, Any]
"""``files`` (name to text; empty when the reply had no code) and, once executed, ``run`` (how the
start ended: ``started``, ``report``); of a fused output also ``consistency``."""


class _Programming(ExecutingStage):
    """What the three stages share: a sample is a program."""

    @abstractmethod
    def earlier(self, outputs: Mapping[str, Any]) -> dict[str, str]:
        """The files that the stage's samples change."""

    def parse(self, text: str, example: Example) -> Program:
        """The files of the reply, see `agenttts.tasks.chatdev.programs.read_files`."""
        return {"files": read_files(text)}

    def execute(
        self, value: Program, example: Example, outputs: Mapping[str, Any], toolbox: Toolbox
    ) -> Program:
        """Put the files over the earlier ones (a reply that shows no file leaves the program as it was) and run it."""
        files = join(self.earlier(outputs), value["files"])
        main = main_file(files)
        if main is None:
            return {"files": files, "run": {"started": False, "report": "There is no program."}}
        if not parses(files):  # needs no process, but the interpreter's message
            return {"files": files, "run": {"started": False, "report": _syntax_report(files)}}
        outcome = toolbox.run(files, main)
        return {"files": files, "run": {"started": outcome.started, "report": _report(outcome)}}

    def fuse(self, candidates: Sequence[Program], example: Example) -> Program:
        """The best of k: one that starts before one that does not, complete before incomplete, Python before none."""
        if not candidates:
            return {"files": {}}
        return max(candidates, key=_rank)

    def postprocess_fused(self, output: Program, example: Example, toolbox: Toolbox) -> Program:
        """Adds ``consistency``: the cosine of the meanings of requirement and code, negative ones as 0."""
        code = without_comments(output["files"])
        if not code:
            return {**output, "consistency": 0.0}
        asked, made = toolbox.embed([example.data["requirement"], code])
        cosine = sum(a * b for a, b in zip(asked, made, strict=True))
        return {**output, "consistency": min(1.0, max(0.0, cosine))}

    def metrics(self, output: Program, example: Example) -> dict[str, float]:
        files = output.get("files", {})
        return {
            "completeness": float(is_complete(files)),
            "executability": float(output.get("run", {}).get("started", False)),
            "consistency": float(output.get("consistency", 0.0)) if files else 0.0,
        }


class Coding(_Programming):
    """Writes the program."""

    name = "coding"
    temperature = 0.7
    description = "Write a whole program, in one or more files, that meets a requirement."

    def earlier(self, outputs: Mapping[str, Any]) -> dict[str, str]:
        return {}

    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        return coding_prompt(example.data["requirement"])


class StaticTesting(_Programming):
    """Reviews the program and modifies it."""

    name = "static_testing"
    temperature = 0.7
    description = "Review the program without running it and correct it."

    def earlier(self, outputs: Mapping[str, Any]) -> dict[str, str]:
        return dict(outputs[Coding.name]["files"])

    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        return review_prompt(example.data["requirement"], self.earlier(outputs))


class DynamicTesting(_Programming):
    """Modifies the program after it has been run."""

    name = "dynamic_testing"
    temperature = 0.7
    description = "Correct the program from the errors it shows when it is run."

    def earlier(self, outputs: Mapping[str, Any]) -> dict[str, str]:
        return dict(outputs[StaticTesting.name]["files"])

    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        report = outputs[StaticTesting.name].get("run", {}).get("report", "It was not run.")
        return repair_prompt(example.data["requirement"], self.earlier(outputs), report)


class ChatDev(Task):
    """Coding, static testing, dynamic testing.

    Options: ``search_examples``, ``hub_split`` and ``records_key`` (see `agenttts.tasks.loading.source`),
    ``embedding_model`` (a directory; unset: the one installed where trials run), ``run_seconds`` (how long a program may run
    before it counts as started) and ``run_memory_mb``.
    """

    name = "chatdev"
    description = (
        "Develop a small program from a requirement: write it, review it, run it and repair it."
    )
    stages = (Coding(), StaticTesting(), DynamicTesting())
    main_metric = "dynamic_testing.consistency"

    def load(self, config: TaskConfig) -> list[Example]:
        check_options(self.name, config.options, _RULES)
        return load_requirements(
            config.data,
            split=config.split,
            examples=config.examples,
            seed=config.seed,
            report=config.report,
            **{name: value for name, value in config.options.items() if name in SPLIT_RULES},
        )

    def toolbox_settings(self, options: Mapping[str, Any]) -> ToolboxSettings:
        check_options(self.name, options, _RULES)
        return ToolboxSettings(
            runs_code=True,
            embeds=True,
            limits=Limits(
                seconds=float(options.get("run_seconds", 3)),
                memory_mb=options.get("run_memory_mb", 512),
            ),
            embedding_model=options.get("embedding_model"),
        )


_RULES = {
    **SPLIT_RULES,
    "embedding_model": Rule(
        "the directory of a sentence embedding model",
        lambda value: type(value) is str and Path(value).expanduser().is_dir(),
    ),
    "run_seconds": Rule(
        "seconds, above 0 and at most 60",
        lambda value: type(value) in (int, float) and 0 < value <= 60,
    ),
    "run_memory_mb": Rule(
        "a whole number of 128 or more", lambda value: type(value) is int and value >= 128
    ),
}


def _rank(program: Program) -> tuple[bool, ...]:
    files = program["files"]
    started = program.get("run", {}).get("started", False)
    return started, is_complete(files), parses(files), bool(files)


def _report(outcome: Outcome) -> str:
    """What came of a start, as the repair prompt says it. The same program gives the same words: no addresses, no times."""
    if outcome.stopped == "idle":
        return "It started without an error and waits for input."
    if outcome.stopped == "time":
        return "It started without an error and went on running."
    if outcome.stopped is not None:
        return f"It was stopped: it took too much of the machine ({outcome.stopped})."
    if outcome.exit_code == 0:
        return "It ran to its end without an error."
    error = _ADDRESS.sub("0x", outcome.stderr.strip())[-_SHOWN_ERROR:]
    return f"It ended with exit code {outcome.exit_code}:\n{error or '(no message)'}"


def _syntax_report(files: Mapping[str, str]) -> str:
    for name, code in files.items():
        if name.endswith(".py"):
            try:
                compile(code, name, "exec", dont_inherit=True)
            except SyntaxError as error:
                return f"It did not start:\n{name}, line {error.lineno}: {type(error).__name__}: {error.msg}"
            except (ValueError, RecursionError, MemoryError) as error:
                return f"It did not start:\n{name}: {type(error).__name__}: {error}"
    return "It did not start."
