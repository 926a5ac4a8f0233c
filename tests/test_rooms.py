"""Imports point down the list of rooms, and what a login node runs needs no torch, vLLM or transformers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "agenttts"
# ARCHITECTURE.md's list, top first; rooms of one line do not know each other unless listed one above the other.
ROOMS = ["cli", "controller", "report", "search", "dispatch", "trial", "tasks", "inference", "sandbox", "tables", "spec", "space", "budget", "replies", "errors"]  # fmt: skip
NOTHING_TO_DO_WITH = {"search": {"dispatch", "trial", "inference"}, "report": {"search", "dispatch", "trial"}}  # fmt: skip


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found: set[str] = set()
    nodes = list(ast.walk(ast.parse(path.read_text())))
    guarded = [n for n in nodes if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    skipped = {id(n) for block in guarded for n in ast.walk(block)}
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "agenttts":
                found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("agenttts.")}
    return found & set(ROOMS)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = room(path)
    if here == "__init__":
        return
    assert here in ROOMS, f"{here} is not in ARCHITECTURE.md's list of rooms"
    above = set(ROOMS[: ROOMS.index(here)])
    wrong = imported_rooms(path) & (above | NOTHING_TO_DO_WITH.get(here, set()))
    assert not wrong, f"{path} imports {wrong}"


# numpy is the searchers' own; the rest is for images, or for methods that ask for it.
HEAVY = {"torch", "vllm", "transformers", "scipy", "optuna"}


def loaded_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name.split(".")[0] for name in done.stdout.split("\n")[-2].split()}


def test_help_loads_nothing_heavy():
    code = "import sys, agenttts.cli\nsys.argv=['agenttts-hpc','--help']\ntry: agenttts.cli.main()\nexcept SystemExit: pass"
    assert not loaded_after(code) & (HEAVY | {"numpy", "polars", "pydantic", "submitit", "yaml"})


@pytest.mark.parametrize("module", ["agenttts.controller.launch", "agenttts.controller.status", "agenttts.report", "agenttts.search", "agenttts.tasks"])  # fmt: skip
def test_a_login_node_needs_no_engine(module):
    assert not loaded_after(f"import {module}") & HEAVY
