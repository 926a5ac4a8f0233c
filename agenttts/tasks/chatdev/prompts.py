"""The prompts of software development.

The programs of the worked examples are in none of the data sets.
"""

from __future__ import annotations

from collections.abc import Mapping

from agenttts.inference.base import Prompt
from agenttts.tasks.chatdev.programs import show_files

_FORM = (
    "Reply with every file of the program: its name on a line of its own, then its whole text "
    "in a ```python block. "
    "The program starts in main.py."
)
_RULES = (
    "It is a program for the terminal and uses the Python standard library alone: no windows, "
    "no network. "
    "Write all of it out; leave no placeholder."
)
_CODING_SYSTEM = f"Write the program that is required. {_RULES} {_FORM}"
_REVIEW_SYSTEM = (
    "Review the program against the requirement: missing imports, functions that are not "
    "written out, unused or wrong "
    f"calls, parts of the requirement that are not there. Then correct it. {_RULES} {_FORM}"
)
_REPAIR_SYSTEM = (
    "The program was started, and what came of it is reported. Correct what the report shows; "
    "where it shows no error, "
    f"complete what the requirement still lacks. {_RULES} {_FORM}"
)

_REQUIREMENT = "Greeter asks for a name and greets the person of that name."
_DRAFT = {"main.py": 'def greet(name):\n    print(f"Hello, {nam}!")\n\n\ngreet(input("Name: "))\n'}
_RIGHT = {"main.py": 'def greet(name):\n    print(f"Hello, {name}!")\n\n\ngreet(input("Name: "))\n'}
_ERROR = "It ended with exit code 1:\nNameError: name 'nam' is not defined"

# Stops a completion that goes on to an example of its own making.
_STOP = ("\nRequirement:",)


def coding_prompt(requirement: str) -> Prompt:
    """Return the prompt to write the program."""
    return Prompt(
        system=_CODING_SYSTEM,
        shots=((_requirement(_REQUIREMENT), show_files(_RIGHT)),),
        user=_requirement(requirement),
        label="Program:\n",
        stop=_STOP,
    )


def review_prompt(requirement: str, files: Mapping[str, str]) -> Prompt:
    """Return the prompt to review the program without running it, and to correct it."""
    return Prompt(
        system=_REVIEW_SYSTEM,
        shots=((_with_program(_REQUIREMENT, _DRAFT), show_files(_RIGHT)),),
        user=_with_program(requirement, files),
        label="Corrected program:\n",
        stop=_STOP,
    )


def repair_prompt(requirement: str, files: Mapping[str, str], report: str) -> Prompt:
    """Return the prompt to correct the program after it was started.

    ``report`` says how the start ended.
    """
    return Prompt(
        system=_REPAIR_SYSTEM,
        shots=((_with_report(_REQUIREMENT, _DRAFT, _ERROR), show_files(_RIGHT)),),
        user=_with_report(requirement, files, report),
        label="Corrected program:\n",
        stop=_STOP,
    )


def _requirement(requirement: str) -> str:
    return f"Requirement: {requirement}"


def _with_program(requirement: str, files: Mapping[str, str]) -> str:
    return f"{_requirement(requirement)}\nProgram so far:\n{show_files(files) or '(none)'}"


def _with_report(requirement: str, files: Mapping[str, str], report: str) -> str:
    return f"{_with_program(requirement, files)}\nReport: {report}"
