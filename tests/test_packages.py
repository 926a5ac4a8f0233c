"""Imports point down the list of packages, and what a login node runs needs no torch, vLLM or
transformers.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "agenttts"
# ARCHITECTURE.md's list, top first.
LAYERS = ["cli", "status", "doctor", "init", "launch", "loop", "serving", "run", "replay", "report", "search", "images", "dispatch", "trial", "tasks", "inference", "sandbox", "tables", "spec", "space", "replies", "endpoint", "files", "named_classes", "errors"]  # fmt: skip
INDEPENDENT_OF = {
    "replay": {"report", "images", "dispatch", "trial", "tasks", "inference", "sandbox"},
    "report": {"search", "images", "dispatch", "trial", "tasks", "inference", "sandbox"},
    "search": {"images", "dispatch", "trial", "tasks", "inference", "sandbox"},
    "images": {"trial", "tasks", "inference", "sandbox", "tables"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports of a file, without those for types alone."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    guarded = [n for n in nodes if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    skipped = {id(n) for block in guarded for n in ast.walk(block)}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in skipped:
            yield node


def imported_layers(path: Path) -> set[str]:
    found: set[str] = set()
    for node in imports(path):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "agenttts":
                found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("agenttts.")}
    return found & set(LAYERS)


def imported_modules(path: Path, names: set[str]) -> set[str]:
    """The modules of ``names`` that a file imports, also inside functions."""
    found: set[str] = set()
    for node in imports(path):
        if isinstance(node, ast.ImportFrom):
            each = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in names else str(node.module) for name in each}
        else:
            found |= {alias.name for alias in node.names}
    return found & names


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circle(paths: list[Path]) -> list[str]:
    """Modules that import each other; empty without any."""
    files = {module_name(path): path for path in paths}
    sorter = TopologicalSorter(
        {name: imported_modules(path, set(files)) - {name} for name, path in files.items()}
    )
    try:
        sorter.prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def problem(path: Path) -> str | None:
    """What is wrong with a module's imports."""
    here, name = layer(path), path.relative_to(PACKAGE)
    if here == "__init__":
        return None
    if here not in LAYERS:
        return f"{name}: {here} is not in ARCHITECTURE.md's list of packages"
    above = set(LAYERS[: LAYERS.index(here)])
    wrong = imported_layers(path) & (above | INDEPENDENT_OF.get(here, set()))
    return f"{name} imports {', '.join(sorted(wrong))}" if wrong else None


def test_imports_point_down():
    assert len(modules()) > 100, "the package is found"
    assert [found for path in modules() if (found := problem(path))] == []


def test_no_modules_import_each_other():
    assert len(modules()) > 100
    assert circle(modules()) == []


def test_modules_that_import_each_other_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "agenttts")
    (tmp_path / "agenttts").mkdir()
    a, b = tmp_path / "agenttts" / "a.py", tmp_path / "agenttts" / "b.py"
    a.write_text("from agenttts.b import x\n")
    b.write_text("def f():\n    from agenttts import a\n")
    assert set(circle([a, b])) == {"agenttts.a", "agenttts.b"}
    b.write_text("if TYPE_CHECKING:\n    from agenttts import a\n")
    assert circle([a, b]) == []


def test_an_import_that_points_up_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "space.py").write_text("import agenttts.spec\nfrom agenttts.search import create\n")
    (tmp_path / "new.py").write_text("")
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "a.py").write_text("def f():\n    from agenttts import trial\n")
    assert [problem(path) for path in modules()] == [
        "new.py: new is not in ARCHITECTURE.md's list of packages",
        "search/a.py imports trial",
        "space.py imports search, spec",
    ]


# numpy is the searchers' own; the rest is for images, for methods that ask for it, or for figures.
HEAVY = {"torch", "vllm", "transformers", "scipy", "optuna", "altair", "vl_convert"}


HEAVY_FOR_HELP = HEAVY | {"numpy", "polars", "pydantic", "submitit", "yaml"}
# The job on a node: Polars would be a third of its start, reading specs and profiles another.
NODE_JOB = "agenttts.dispatch.node.job"
# It starts the process of an engine before it imports the rest.
TRIAL_PROGRAM = "agenttts.trial.__main__"
LOGIN_NODE = ["agenttts.launch.launch", "agenttts.status.run_status", "agenttts.report", "agenttts.search", "agenttts.tasks"]  # fmt: skip

# In one interpreter that has imported nothing: after each step, its name and the top-level modules
# loaded so far.
STEPS = """
import importlib, sys

def loaded(step):
    print(step, *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)

import agenttts.cli
sys.argv = ["agenttts-hpc", "--help"]
try:
    agenttts.cli.main()
except SystemExit:
    loaded("--help")
for module in MODULES:
    importlib.import_module(module)
    loaded(module)
"""


@pytest.mark.processes
def test_a_login_node_needs_no_engine_and_help_nothing_heavy_at_all():
    done = subprocess.run(
        [sys.executable, "-c", f"MODULES = {[TRIAL_PROGRAM, NODE_JOB, *LOGIN_NODE]}\n{STEPS}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Usage" in done.stdout
    loaded = {step: set(names) for step, *names in map(str.split, done.stderr.splitlines())}
    assert list(loaded) == ["--help", TRIAL_PROGRAM, NODE_JOB, *LOGIN_NODE]
    forbidden = {
        "--help": HEAVY_FOR_HELP,
        TRIAL_PROGRAM: HEAVY_FOR_HELP,
        NODE_JOB: HEAVY | {"polars", "yaml"},
    } | dict.fromkeys(LOGIN_NODE, HEAVY)
    assert {step: found for step in loaded if (found := loaded[step] & forbidden[step])} == {}


# A controller loads its own scheduler and searcher, and Rich only for a terminal.
NOT_OF_A_CONTROLLER = {"rich", "torch", "vllm", "transformers", "agenttts.dispatch.in_process", "agenttts.dispatch.local", "agenttts.dispatch.slurm.scheduler", "agenttts.inference.sampler", "agenttts.search.llm.agent", "agenttts.search.surrogate", "agenttts.trial.run"}  # fmt: skip


@pytest.mark.processes
def test_a_controller_starts_without_the_schedulers_and_searchers_that_it_may_not_have():
    code = "import sys, agenttts.loop.controller_job; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "agenttts.loop.search_loop" in loaded
    assert not loaded & NOT_OF_A_CONTROLLER


# What each program imports is left out of searches for garbage, and there are few until it has begun.
FROZEN = {
    "the controller": "from agenttts.dispatch.pickled import load_quickly; load_quickly(b'cagenttts.loop.controller_job\\nControllerJob\\n.')(Path('nosuch'))()",
    "the program of a trial": "from agenttts.trial.__main__ import main, partial, without_searches; main(['nosuch.json'], partial(without_searches, freeze=True))",
}  # fmt: skip


@pytest.mark.processes
@pytest.mark.parametrize("code", FROZEN.values(), ids=FROZEN)
def test_searches_for_garbage_leave_the_modules_out(tmp_path, code):
    at_exit = "print(gc.get_freeze_count(), gc.get_stats()[0]['collections'])"
    code = f"import atexit, gc, sys\nfrom pathlib import Path\natexit.register(lambda: {at_exit})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "nosuch" in done.stderr + done.stdout, "it has begun"
    frozen, searches = map(int, done.stdout.splitlines()[-1].split())
    assert frozen > 10_000
    assert searches < 100
