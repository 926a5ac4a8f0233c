"""The test suite is one package: tests share code through `tests.support` alone, and leave
``sys.path`` as it is.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from tests.support.waiting import until

TESTS = Path(__file__).parent


def files() -> list[Path]:
    return sorted(TESTS.rglob("*.py"))


def violations(source: str) -> list[str]:
    """The lines of a test file that import test files or a conftest, or that use ``sys.path``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = _imported(node)
            found += [
                f"line {node.lineno} imports {name}, a test file or a conftest"
                for name in names
                if any(part == "conftest" or part.startswith("test_") for part in name.split("."))
            ]
            if "sys.path" in names:
                found.append(f"line {node.lineno} imports sys.path")
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
            found.append(f"line {node.lineno} uses sys.path")
    return found


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The dotted names that an import statement may mean; ``from a import b`` may import the
    module a.b.
    """
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    module = f"{node.module}." if node.module else ""
    return [module + alias.name for alias in node.names]


def test_shared_code_is_in_tests_support_only():
    found = {str(path.relative_to(TESTS)): violations(path.read_text("utf-8")) for path in files()}
    assert "test_suite.py" in found
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from test_run import outcome",
        "from .test_run import outcome",
        "from . import test_run",
        "from tests.loop import test_run",
        "import tests.loop.test_run as run",
        "def f():\n    from tests.conftest import CACHE",
        "from ..conftest import CACHE",
        "import conftest",
        "import sys\nsys.path.insert(0, '.')",
        "import sys\nsys.path[:0] = ['.']",
        "from sys import path",
    ],
)
def test_a_violation_is_found(source):
    assert len(violations(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from tests.support.runs import outcome",
        "import pytest, sys\nsys.modules",
        "code = 'import sys; sys.path.insert(0, 1)'",
        "import os\nos.path.join('a', 'b')",
    ],
)
def test_what_is_allowed_is_not_found(source):
    assert violations(source) == []


def numbers_looked_for(source: str) -> list[str]:
    """The lines of a test file that assert that digits alone are not in something.

    Texts hold numbers that no test chooses: the directory of the session, process ids, ports.
    """
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        and isinstance(node.ops[0], ast.NotIn)
        and isinstance(node.left, ast.Constant)
        and isinstance(node.left.value, str)
        and not re.search("[^0-9]", node.left.value or "-")
    ]


def test_no_test_fails_where_a_path_or_a_pid_holds_its_number():
    found = {str(path.relative_to(TESTS)): numbers_looked_for(path.read_text()) for path in files()}
    assert {name: lines for name, lines in found.items() if lines} == {}
    assert numbers_looked_for("assert '82' not in text") == ["line 1: '82' not in text"]
    assert numbers_looked_for("assert 't82' not in text and 82 not in ids") == []


def test_every_directory_of_tests_is_a_package():
    folders = {TESTS, *(path.parent for path in files())}
    assert [
        str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()
    ] == []


def test_pytest_gets_no_path_of_its_own():
    """Neither ``pythonpath`` nor another import mode: the repository root alone is put on
    ``sys.path``.
    """
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())
    options = project["tool"]["pytest"]["ini_options"]
    assert "pythonpath" not in options
    assert "import-mode" not in options["addopts"]


def test_waiting_returns_the_value_and_says_what_did_not_happen():
    values = iter([0, "", 7])
    assert until(lambda: next(values), pause=0.01) == 7
    with pytest.raises(AssertionError, match=r"not within 0\.1 s: the end of the job .*value: 0"):
        until(lambda: 0, "the end of the job", seconds=0.1)
    with pytest.raises(AssertionError, match="queue is empty"):
        until(lambda: "queue is empty" == "", seconds=0.1)
