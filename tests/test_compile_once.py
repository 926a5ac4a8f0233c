"""The plugin `tests.support.compile_once`."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

from tests.support.compile_once import modules_of, pytest_collection


@pytest.fixture
def project(tmp_path):
    """Modules in directories and in the root of the tests, and files that are none."""
    for name in ("tests/test_a.py", "tests/x/test_b.py", "tests/x/test_c.py", "tests/x/data.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_workers_divide_the_modules(project):
    parts = [modules_of(project, ["tests"], number, 2) for number in range(2)]
    assert parts == [["tests.test_a", "tests.x.test_c"], ["tests.x.test_b"]]


def test_a_selection_of_directories_is_what_is_imported(project):
    assert modules_of(project, [str(project / "tests/x"), "tests/x"], 0, 1) == [
        *("tests.x.test_b", "tests.x.test_c"),
    ]
    assert modules_of(project, ["tests/test_a.py", "tests/x/test_b.py::test_it"], 0, 1) == []


def test_a_module_that_cannot_be_imported_is_left_to_the_collection(project, monkeypatch):
    def imported(name):
        tried.append(name)
        if name.endswith("a"):
            raise SyntaxError(name)
        pytest.skip("torch is not installed", allow_module_level=True)

    tried: list[str] = []
    monkeypatch.setattr(importlib, "import_module", imported)
    config = SimpleNamespace(rootpath=project, args=["tests"])
    pytest_collection(SimpleNamespace(config=config))
    assert tried == [], "a session without workers imports as it collects"
    config.workerinput = {"workerid": "gw0", "workercount": 1}
    pytest_collection(SimpleNamespace(config=config))
    assert tried == ["tests.test_a", "tests.x.test_b", "tests.x.test_c"]
