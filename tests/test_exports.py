"""What is public can be imported from where the documentation says, and works from there."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import agenttts

# The public interface as the documentation names it, and where each name is defined.
PUBLIC = {
    "agenttts": agenttts.__all__,
    "agenttts.space": [
        "SearchSpace",
        "Stage",
        "Allocation",
        "Choice",
        "Model",
        "allocation_budget",
    ],
    "agenttts.search": ["create"],
    "agenttts.search.base": ["Searcher", "Proposal", "TrialResult"],
    "agenttts.tasks": ["Task", "create"],
    "agenttts.tasks.base": ["Example", "Fusion", "StageDefinition", "Task", "TaskConfig"],
    "agenttts.spec": ["JobSpec", "load_spec", "dump_spec"],
    "agenttts.report": ["build_report", "render"],
    "agenttts.tables.schema": ["read_trials", "read_examples", "TrialState"],
    "agenttts.errors": ["AgentTTSError", "UserError", "MissingRequirement", "RunFailed"],
    "agenttts.cli": ["main"],
}


def test_public_names_are_there_and_documented():
    problems = []
    for module, names in PUBLIC.items():
        imported = importlib.import_module(module)
        for name in names:
            if not hasattr(imported, name):
                problems.append(f"{module}.{name} does not exist")
            elif not name.startswith("__") and not getattr(imported, name).__doc__:
                problems.append(f"{module}.{name} has no docstring")
    assert problems == []


def test_what_a_module_exports_exists():
    modules = map(importlib.import_module, PUBLIC)
    assert [
        f"{module.__name__}.{name}"
        for module in modules
        for name in getattr(module, "__all__", [])
        if not hasattr(module, name)
    ] == []


def test_every_public_name_has_one_home_and_type_checkers_know_it():
    """The imports for type checkers, the table of homes and ``__all__`` say the same."""
    tree = ast.parse(Path(agenttts.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    checked = {
        (node.module, ast.unparse(alias)) for node in block.body for alias in node.names
    }  # fmt: skip
    homes = {(module, entry) for module, entries in agenttts._HOMES.items() for entry in entries}
    assert homes == checked
    names = [entry.rpartition(" ")[2] for _, entry in homes]
    assert sorted([*names, "__version__"]) == sorted(agenttts.__all__)
    assert set(agenttts.__all__) <= set(dir(agenttts))
    assert agenttts.create_task is importlib.import_module("agenttts.tasks").create


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        _ = agenttts.serch


def test_types_are_published():
    assert (Path(agenttts.__file__).parent / "py.typed").exists()


def test_the_version_is_one():
    from agenttts import __version__

    assert re.fullmatch(r"\d+\.\d+\.\d+([a-z]+\d+)?", __version__)


def test_the_documented_interface_works_together():
    """Space, budget and searcher, as a user's own script would use them."""
    from agenttts.search import create
    from agenttts.search.base import Searcher, TrialResult
    from agenttts.space import Allocation, Choice, Model, SearchSpace, Stage, allocation_budget

    models = (Model("small", 3e9), Model("large", 70e9))
    stages = (
        Stage("retrieval", models, 256, 64, tuple(range(1, 31))),
        Stage("answer", models, 256, 64, tuple(range(1, 31))),
    )
    space = SearchSpace(stages, 200.0)
    searcher = create("agenttts", space, 0)
    assert isinstance(searcher, Searcher)
    asked = searcher.ask(4)
    assert asked
    assert all(isinstance(allocation, Allocation) for allocation in asked)
    for allocation in asked:
        assert allocation_budget(space, allocation) == space.cost(allocation)
        assert space.cost(allocation) <= 200
    scores = [0.1 * n for n in range(len(asked))]
    searcher.tell([TrialResult(a, s, {}, space.cost(a), "x") for a, s in zip(asked, scores, strict=True)])  # fmt: skip
    assert searcher.best() == asked[-1]
    assert isinstance(asked[0].choices[0], Choice)


def test_a_task_of_a_user_s_own_is_found(tmp_path, monkeypatch):
    (tmp_path / "mypkg_for_exports.py").write_text(
        "from agenttts.tasks import Task\n"
        "from agenttts.tasks.retrieval.task import Answer, Retrieval\n"
        "class MyTask(Task):\n"
        "    name = 'mine'\n"
        "    description = 'One of mine.'\n"
        "    stages = (Retrieval(), Answer())\n"
        "    main_metric = 'answer.f1'\n"
        "    def load(self, config):\n"
        "        return []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from agenttts import tasks

    mine = tasks.create("mypkg_for_exports:MyTask")
    assert isinstance(mine, tasks.Task)
    assert mine.main_metric == "answer.f1"
