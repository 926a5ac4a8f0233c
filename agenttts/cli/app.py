"""The command line ``agenttts-hpc``: its list of commands, and how it ends.

Commands parse, call other modules and print. Every import heavier than Typer is inside a command,
so that ``--help`` answers at once.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, NoReturn

import typer

from agenttts import __version__
from agenttts.cli.flags import FlagApp
from agenttts.cli.replay_command import replay
from agenttts.cli.result_commands import clean, compare, export, list_, logs, report, status
from agenttts.cli.run_commands import cancel, evaluate, extend, finish, launch, resume
from agenttts.cli.setup_commands import doctor, image_build, init, models
from agenttts.cli.terminal import any_terminal
from agenttts.errors import AgentTTSError, MissingRequirement, UserError, valid_names
from agenttts.files.native_threads import limit_native_threads

app = FlagApp(
    name="agenttts-hpc",
    help="Find the best split of a compute budget over the stages of an LLM pipeline, on a "
    "Slurm cluster.",
    pretty_exceptions_enable=False,
)
image_app = FlagApp(help="Container images of the trials.")
app.add_typer(image_app, name="image")
image_app.command("build")(image_build)
# In the order of the help.
for command in (
    *(launch, evaluate),
    *(status, list_, logs, report, export, compare),
    *(resume, extend, finish, cancel, clean),
    *(replay, doctor, init, models),
):
    app.command(command.__name__.rstrip("_"))(command)

# Click's base class of errors (ClickException). Typer may bundle its own copy of Click, so the
# class is found through a class that Typer exports.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line (default: this process's) and exit.

    An error of this project becomes one paragraph on standard error.
    """
    limit_native_threads()
    is_program = arguments is None
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    any_terminal(sys.stdout, sys.stderr)
    arguments = [argument for argument in given if argument != "--debug"]
    try:
        code = _command()(
            args=list(arguments) or ["--help"], prog_name="agenttts-hpc", standalone_mode=False
        )
    except AgentTTSError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except OSError as error:  # a problem of the machine, e.g. a full disk
        if debug:
            raise
        _fail(_machine_problem(error), MissingRequirement.exit_code)
    except _CommandLineError as error:
        _fail(_command_line_problem(error), UserError.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        _fail("interrupted; a launched run continues", code)
    if is_program:
        gc.freeze()  # else Python searches all modules for garbage once more, for 0.1 s
    sys.exit(code)


_INTERRUPTED = 128 + 2  # SIGINT


@cache
def _command() -> Any:
    """Return the command of `app`, which takes 45 ms to make (Typer 0.29, 2026-11)."""
    return typer.main.get_command(app)


def _fail(message: str, code: int) -> NoReturn:
    from agenttts.tables.console import without_controls

    text = without_controls(" ".join(message.split()))
    print(f"agenttts-hpc: {text}", file=sys.stderr)
    sys.exit(code)


def _machine_problem(error: OSError) -> str:
    """Return the message about an error of the operating system."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error} (--debug shows where this comes from)"


def _command_line_problem(error: Any) -> str:
    """Return what is wrong with the arguments, what is valid, and the help command."""
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    if context is None:
        return str(message)
    commands = getattr(context.command, "commands", None)
    options = [name for p in context.command.params for name in p.opts if name.startswith("--")]
    if (option := getattr(error, "option_name", None)) is not None:
        message = f"no option {option}; {valid_names(option, options)}"
    elif commands and not isinstance(error, typer.BadParameter):
        given = message.partition("'")[2].partition("'")[0]
        problem = f"no command '{given}'" if given else "a command is missing"
        message = f"{problem}; {valid_names(given, commands)}"
    return f"{message} (see '{context.command_path} --help')"


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options of every command (``--debug`` is read in `main`)."""
