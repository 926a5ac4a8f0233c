"""A private method that overrides one of a base class says so.

Then mypy reports it when the base class loses the method. Nothing else would: a private method that
no base class calls looks like one that its own class calls.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "agenttts"


def classes() -> dict[str, list[ast.ClassDef]]:
    """Return the classes of the package by their names."""
    found: dict[str, list[ast.ClassDef]] = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(node)
    return found


def methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}


def ancestors(node: ast.ClassDef, known: dict[str, list[ast.ClassDef]]) -> Iterator[ast.ClassDef]:
    for base in node.bases:
        name = ast.unparse(base).split("[")[0].split(".")[-1]
        for parent in known.get(name, []):
            yield parent
            yield from ancestors(parent, known)


def overrides() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield the private methods that override one of a base class in the package."""
    known = classes()
    for node in (node for nodes in known.values() for node in nodes):
        inherited = {name for parent in ancestors(node, known) for name in methods(parent)}
        for name, method in methods(node).items():
            if name in inherited and name.startswith("_") and not name.startswith("__"):
                yield f"{node.name}.{name}", method


def test_a_private_method_that_overrides_another_is_marked():
    found = dict(overrides())
    assert "_ThreadJob._job_id" in found
    unmarked = [
        name
        for name, method in found.items()
        if "override" not in [ast.unparse(decorator) for decorator in method.decorator_list]
    ]
    assert not unmarked, "give them @override of typing_extensions"
