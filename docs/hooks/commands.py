"""The page of the commands, from the command line's own definition."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from agenttts import errors
from agenttts.cli.app import app
from docs.hooks import sections


def page() -> str:
    """Return the page of all commands with their arguments and options."""
    root = typer.main.get_command(app)
    parts = [
        "# Commands",
        "RUN is the name of a run in the results directory, or its path. Errors go to standard error, as one "
        "paragraph. With `--json` a command prints one JSON document and nothing else ([schemas](../schemas/README.md)).",
        "| exit code | meaning |\n|---|---|\n" + "\n".join(_exit_codes()),
        "## Options of every command",
        _parameters(root),
    ]
    for words, command in _commands(root):
        name = " ".join(["agenttts-hpc", *words])
        usage = " ".join(["[OPTIONS]", *_arguments(command)])
        parts += [
            f"## {' '.join(words)}",
            f"```\n{name} {usage}\n```",
            _help(command),
            _parameters(command),
        ]
    return "\n\n".join(part for part in parts if part)


def _commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        elif not command.hidden:
            yield (*words, name), command


def _arguments(command: Any) -> Iterator[str]:
    for one in command.params:
        if one.param_type_name == "argument":
            name = one.metavar or one.name.upper()
            yield name if one.required or name.startswith("[") else f"[{name}]"


def _help(command: Any) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))


def _parameters(command: Any) -> str:
    rows = [_row(one) for one in command.params if not getattr(one, "hidden", False)]
    if not rows:
        return ""
    return "\n".join(["| argument or option | default | what |", "|---|---|---|", *rows])


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name.upper()
    else:
        name = ", ".join(parameter.opts)
        if not parameter.is_flag:
            name += f" {parameter.metavar or _value(parameter)}"
    default = parameter.default
    if parameter.required:
        shown = "required"
    elif default in (None, False, (), []) or callable(default):
        shown = ""
    else:
        shown = f"`{getattr(default, 'value', default)}`"
    text = sections.markdown(getattr(parameter, "help", None) or "")
    if parameter.envvar:
        text += f" Environment: `{parameter.envvar}`."
    return f"| `{sections.escaped(name)}` | {shown} | {text} |"


def _value(parameter: Any) -> str:
    """Return what stands for the value of an option."""
    kind = parameter.type_descriptor.annotation
    if inspect.isclass(kind) and issubclass(kind, Enum):
        return "|".join(str(one.value) for one in kind)
    return {Path: "PATH", int: "N", float: "NUMBER"}.get(kind, "TEXT")


def _exit_codes() -> Iterator[str]:
    yield "| 0 | success |"
    for kind in (errors.UserError, errors.MissingRequirement, errors.RunFailed):
        summary = (kind.__doc__ or "").split("\n\n")[0]
        yield f"| {kind.exit_code} | {sections.markdown(summary)} |"
