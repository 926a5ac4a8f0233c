"""Runs of one task of the user's own, also after trials have imported its copies."""

from __future__ import annotations

import compileall
import sys

import pytest

from agenttts.run.directory import RunDirectory
from agenttts.run.task_identity import task_identity
from agenttts.tasks.user_tasks import freeze_source, frozen_name, load_class

SOURCE = "import agenttts.tasks\n\n\nclass Mine(agenttts.tasks.Task):\n    name = 'mine'\n"


@pytest.fixture
def launched(tmp_path):
    """A run with a copy of the task's source: ``launched("one", name)``."""

    def make(run: str, name: str) -> RunDirectory:
        directory = RunDirectory(tmp_path / run)
        directory.path.mkdir()
        freeze_source(name, directory.task_source)
        return directory

    return make


def test_a_file_that_trials_have_imported_is_the_same_task(tmp_path, launched, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # as in a trial
    file = tmp_path / "mine.py"
    file.write_text(SOURCE)
    name = f"{file}:Mine"
    one, two = launched("one", name), launched("two", name)
    before = task_identity(one, name)
    with pytest.raises(Exception, match="does not implement"):
        load_class(frozen_name(name, one.task_source))
    assert list(one.task_source.rglob("*.pyc")), "the import has compiled it"
    assert task_identity(one, name) == task_identity(two, name) == before
    (two.task_source / "mine.py").write_text(SOURCE + "    changed = True\n")
    assert task_identity(one, name) != task_identity(two, name)


def test_a_package_that_trials_have_imported_is_the_same_task(tmp_path, launched, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "own_tasks_of_two_runs" / "inner"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text(SOURCE)
    name = f"{package.parent.name}.inner:Mine"
    one, two = launched("one", name), launched("two", name)
    assert compileall.compile_dir(one.task_source, quiet=1)
    assert len(list(one.task_source.rglob("*.pyc"))) == 2
    assert task_identity(one, name) == task_identity(two, name)
