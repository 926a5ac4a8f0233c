"""The first line of a docstring is short enough to read it in a list."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "agenttts"
LONGEST_SUMMARY = 80


def long_summaries(source: str) -> list[str]:
    """The summary lines of a file's docstrings that are too long."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    summaries = [(ast.get_docstring(node) or "").partition("\n")[0] for node in nodes]
    return [summary for summary in summaries if len(summary) > LONGEST_SUMMARY]


def test_summary_lines_are_short():
    names = {str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py")}
    assert len(names) > 100, "the package is found"
    found = {name: long_summaries(path.read_text("utf-8")) for name, path in names.items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        '"""{}"""',
        '"""{}\n\nDetails.\n"""',
        'class A:\n    """{}"""',
        'class A:\n    def f(self):\n        """{}\n\n        Details.\n        """',
        'async def f():\n    """{}"""',
    ],
)
def test_a_long_summary_line_is_found(source):
    assert long_summaries(source.format("a" * 80)) == []
    assert long_summaries(source.format("a" * 81)) == ["a" * 81]


def test_other_lines_are_not_summaries():
    assert long_summaries(f'"""Short.\n\n{"a" * 99}\n"""\n\n\nX = "{"a" * 99}"\n') == []
