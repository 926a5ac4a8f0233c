"""Print for people.

Lines are wrapped by the terminal and not here (``soft_wrap``), so that paths and commands can be
copied. Only tables are fitted to the terminal's width. The console does not interpret mark-up,
because names of models and messages may contain brackets and colons. Styles are given by `Text`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agenttts.tables.console import PlainConsole, without_controls


def new_console() -> Console:
    """Return a console as wide as the terminal.

    If standard output is not a terminal and COLUMNS is not set, the console has 120 columns. Rich's
    default of 80 is too narrow for long model names.
    """
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return PlainConsole(width=width, markup=False, emoji=False, highlight=False)


console = new_console()


def say(part: str | Text | Table = "") -> None:
    """Print a line, which the terminal wraps, or a table, which fits its width."""
    console.print(part, soft_wrap=not isinstance(part, Table))


def new_table(*columns: str, **settings: Any) -> Table:
    """Return an empty table that breaks long words instead of cutting them."""
    table = Table(**settings)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def score_text(score: float | None) -> str:
    """Return a score with four digits; ``-`` for none."""
    return "-" if score is None else f"{score:.4f}"


def units_text(budget: float) -> str:
    """Return a number of budget units, rounded."""
    return f"{budget:.0f}" if budget >= 100 else f"{budget:.3g}"


def line(text: str) -> None:
    """Print a line while a command waits."""
    say(text)


def log_line(text: str) -> None:
    """Print a line of a log without control characters."""
    print(without_controls(text))


def silence(text: str) -> None:
    """Print nothing. It replaces `line` if only a JSON document may be printed."""
