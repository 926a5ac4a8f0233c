"""Texts from elsewhere on a terminal: no escape sequence but Rich's own."""

from __future__ import annotations

import io

import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agenttts.tables.console import PlainConsole, without_controls

CONTROLS = "".join(map(chr, [*range(9), *range(11, 32), *range(127, 160)]))
SPACES = "".join(filter(str.isspace, CONTROLS))
"""Those at which a text may be broken into lines."""


def table(text: str) -> Table:
    made = Table("name", text)
    made.add_row(text, Text(text, style="bold"))
    return made


def shown(renderable: object) -> str:
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=40, _environ={})
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrapped", [str, Text, Panel, table, lambda t: Text(t, style="red")])
def test_a_text_with_control_characters_is_shown_as_without(wrapped):
    harmful = "".join(sorted(set(CONTROLS) - set(SPACES)))
    lines = shown(wrapped(f"a{harmful}[2J b" * 20)), shown(wrapped("a[2J b" * 20))
    assert lines[0].replace(" ", "") == lines[1].replace(" ", ""), "Rich may keep spaces at an end"
    assert not set(SPACES) & set(shown(wrapped(f"a{SPACES}b" * 20)))


def test_colours_of_our_own_lines_and_letters_stay():
    assert "\x1b[31ma\x1b[0m" in shown(Text("a", style="red"))
    text = "é\u00a0→ 漢 \U0001f600\t|\n"
    assert without_controls(text) == text
