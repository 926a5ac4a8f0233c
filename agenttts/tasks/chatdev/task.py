"""Software development: write a program, review it, run and repair it.

The phases are ChatDev's, the requirements SRDD's. As in the paper:

- Coding writes the files.
- Static testing reviews and changes them.
- Dynamic testing runs the program and changes it according to the result.

A stage's k samples are k programs. The best by a check goes on: it starts, nothing is left to fill
in, it is Python at all. Ties go to the first, so that more samples help only where the first fails.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

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
from agenttts.tasks.options import SplitOptions

_SHOWN_ERROR = 800
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")

Program = dict[str, Any]
"""A program as a JSON object.

``files`` maps names to texts and is empty if the reply had no code. After execution ``run`` is the
result of starting the program (``started``, ``report``). A fused output also has ``consistency``.
"""


class _Programming(ExecutingStage):
    """The common part of the three stages: a sample is a program."""

    @abstractmethod
    def earlier(self, outputs: Mapping[str, Any]) -> dict[str, str]:
        """Return the files that the stage's samples change."""

    def parse(self, text: str, example: Example) -> Program:
        """Return the files of the reply, see `agenttts.tasks.chatdev.programs.read_files`."""
        return {"files": read_files(text)}

    def execute(
        self, value: Program, example: Example, outputs: Mapping[str, Any], toolbox: Toolbox
    ) -> Program:
        """Put the sample's files over the earlier ones and run the program.

        A reply that shows no file leaves the program as it was.
        """
        files = join(self.earlier(outputs), value["files"])
        main = main_file(files)
        if main is None:
            return {"files": files, "run": {"started": False, "report": "There is no program."}}
        if not parses(files):  # the interpreter's message, without a process
            return {"files": files, "run": {"started": False, "report": _syntax_report(files)}}
        outcome = toolbox.run(files, main)
        return {"files": files, "run": {"started": outcome.started, "report": _report(outcome)}}

    def fuse(self, candidates: Sequence[Program], example: Example) -> Program:
        """Return the best of k programs.

        A program that starts comes before one that does not, then complete before incomplete, then
        Python before none.
        """
        if not candidates:
            return {"files": {}}
        return max(candidates, key=_rank)

    def postprocess_fused(self, output: Program, example: Example, toolbox: Toolbox) -> Program:
        """Add ``consistency``, the cosine similarity of requirement and code.

        Negative values become 0.
        """
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
    """Reviews the program and changes it."""

    name = "static_testing"
    temperature = 0.7
    description = "Review the program without running it and correct it."

    def earlier(self, outputs: Mapping[str, Any]) -> dict[str, str]:
        return dict(outputs[Coding.name]["files"])

    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        return review_prompt(example.data["requirement"], self.earlier(outputs))


class DynamicTesting(_Programming):
    """Changes the program after it has been run."""

    name = "dynamic_testing"
    temperature = 0.7
    description = "Correct the program from the errors it shows when it is run."

    def earlier(self, outputs: Mapping[str, Any]) -> dict[str, str]:
        return dict(outputs[StaticTesting.name]["files"])

    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        report = outputs[StaticTesting.name].get("run", {}).get("report", "It was not run.")
        return repair_prompt(example.data["requirement"], self.earlier(outputs), report)


class ChatDevOptions(SplitOptions):
    """The options of `chatdev`."""

    embedding_model: Annotated[
        str | None, Field(description="the directory of a sentence embedding model")
    ] = None
    """A directory; unset: the model installed where trials run."""
    run_seconds: Annotated[
        float, Field(gt=0, le=60, description="seconds, above 0 and at most 60")
    ] = 3.0
    """Seconds that a program may run before it counts as started."""
    run_memory_mb: Annotated[int, Field(ge=128, description="a whole number of 128 or more")] = 512
    """Memory of a program, in MB."""

    @field_validator("embedding_model")
    @classmethod
    def _check_directory(cls, value: str | None) -> str | None:
        if value is not None and not Path(value).expanduser().is_dir():
            raise ValueError(
                f"{value!r} is not valid; valid: the directory of a sentence embedding model"
            )
        return value


class ChatDev(Task):
    """Coding, static testing and dynamic testing."""

    name = "chatdev"
    description = (
        "Develop a small program from a requirement: write it, review it, run it and repair it."
    )
    stages = (Coding(), StaticTesting(), DynamicTesting())
    main_metric = "dynamic_testing.consistency"
    options_model = ChatDevOptions

    def load(self, config: TaskConfig) -> list[Example]:
        options: ChatDevOptions = self.read_options(config.options)
        return load_requirements(
            config.data,
            split=config.split,
            examples=config.examples,
            seed=config.seed,
            report=config.report,
            search_examples=options.search_examples,
            hub_split=options.hub_split,
            records_key=options.records_key,
        )

    def toolbox_settings(self, options: Any) -> ToolboxSettings:
        given: ChatDevOptions = self.read_options(options)
        return ToolboxSettings(
            runs_code=True,
            embeds=True,
            limits=Limits(seconds=given.run_seconds, memory_mb=given.run_memory_mb),
            embedding_model=given.embedding_model,
        )


def _rank(program: Program) -> tuple[bool, ...]:
    files = program["files"]
    started = program.get("run", {}).get("started", False)
    return started, is_complete(files), parses(files), bool(files)


def _report(outcome: Outcome) -> str:
    """Return the result of a start in the words of the repair prompt.

    The same program gives the same words, so there are no addresses and no times.
    """
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
                return (
                    f"It did not start:\n{name}, line {error.lineno}: "
                    f"{type(error).__name__}: {error.msg}"
                )
            except (ValueError, RecursionError, MemoryError) as error:
                return f"It did not start:\n{name}: {type(error).__name__}: {error}"
    return "It did not start."
