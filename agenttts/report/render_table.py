"""The report for a terminal, rendered with Rich."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from agenttts.report.comparable import comparison_warnings
from agenttts.report.contents import Grid, RunContents, comparison, run_contents
from agenttts.report.summary import Report
from agenttts.tables.console import PlainConsole

_BARS = "▁▂▃▄▅▆▇█"
_LONGEST_SPARKLINE = 60
_PLAIN_WIDTH = 120
_LEAST_TEXT = 12
"""The least width of a column of texts, e.g. of allocations."""


def print_tables(report: Report) -> None:
    """Print the report on standard output."""
    # Into a pipe Rich would wrap at 80 columns, which is too narrow for an allocation of long model
    # names.
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    _print(report, PlainConsole(highlight=False, width=None if known else _PLAIN_WIDTH))


def tables_text(report: Report, width: int = _PLAIN_WIDTH) -> str:
    """Return the report as plain text, ``width`` columns wide."""
    stream = io.StringIO()
    _print(report, PlainConsole(file=stream, width=width, highlight=False, color_system=None))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def sparkline(values: Sequence[float]) -> str:
    """Return values as a row of bars, scaled from the lowest to the highest.

    If there are too many values for the row, each bar is the last value of an equal part of them.
    """
    if len(values) > _LONGEST_SPARKLINE:
        step = len(values) / _LONGEST_SPARKLINE
        values = [values[round((i + 1) * step) - 1] for i in range(_LONGEST_SPARKLINE)]
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in values)


def _print(report: Report, console: Console) -> None:
    if len(report.runs) > 1:
        console.print(*_grid(_fitted(comparison(report), console.width)), sep="\n")
        for warning in comparison_warnings(report.runs, report.titles):
            console.print(Text(f"warning: {warning}", style="yellow"))
    for run, title in zip(report.runs, report.titles, strict=True):
        for part in _parts(run_contents(run, title), run.trace["best_so_far"].to_list()):
            console.print(part)


def _parts(contents: RunContents, trace: Sequence[float]) -> Iterator[RenderableType]:
    # Text, not markup: names and errors may hold square brackets.
    yield Rule(Text(contents.title, style="bold"), align="left")
    yield Text("\n".join(contents.lines))
    if contents.best:
        yield from _grid(contents.best)
    for grid in contents.after:
        yield from _grid(grid)
    if contents.improvements:
        bounds = f"{trace[0]:.4f} {sparkline(trace)} {trace[-1]:.4f}"
        yield Text.assemble("\n", ("best so far, by trial  ", "bold"), bounds)
        yield from _grid(contents.improvements)
    for front in contents.fronts:
        yield from _grid(front)
    for grid in contents.costs:
        yield from _grid(grid)
    if contents.failures:
        yield from _grid(contents.failures)
    if contents.guidelines:
        yield Text("\nguidelines", style="bold")
        for guideline in contents.guidelines:
            yield Padding(Text(f"- {guideline}"), (0, 0, 0, 1))


def _fitted(grid: Grid, width: int) -> Grid:
    """Return a grid; its rows are columns if numbers leave no room for texts."""
    parts = dict(zip(grid.columns, zip(*grid.rows, strict=True), strict=True))
    longest = {
        name: max(cell_len(line) for cell in (name, *cells) for line in cell.splitlines())
        for name, cells in parts.items()
    }
    texts = [name for name in grid.columns if name not in grid.numbers]
    least = sum(longest[name] for name in grid.numbers) + _LEAST_TEXT * len(texts)
    if least + 2 * len(grid.columns) <= width:
        return grid
    first, *others = grid.columns
    rows = tuple((name, *parts[name]) for name in others)
    return Grid(grid.title, (first, *parts[first]), rows)


def _grid(grid: Grid) -> Iterator[RenderableType]:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 1))
    for name in grid.columns:
        right = name in grid.numbers
        table.add_column(
            Text(name), justify="right" if right else "left", no_wrap=right, overflow="fold"
        )
    for row in grid.rows:
        table.add_row(*(Text(cell) for cell in row))
    yield Text(f"\n{grid.title}", style="bold")
    yield table
