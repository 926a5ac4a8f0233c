"""Frozen examples: when a file is read again, and what is found then."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttts.errors import RunFailed
from agenttts.run import examples
from agenttts.run.directory import RunDirectory
from agenttts.run.examples import ExamplesGuard, write_examples
from agenttts.run.progress import PlannedTrial, TrialProgress
from agenttts.space import Allocation
from agenttts.tasks.base import Example

DUE = TrialProgress(PlannedTrial("t0000", 0, Allocation(()), "initial", "", 1.0))
DONE = TrialProgress(DUE.planned, row={"state": "COMPLETED"})


@pytest.fixture
def frozen(tmp_path):
    """A file of examples, and its guard."""
    directory = RunDirectory(tmp_path)
    path = directory.examples_file
    digest = write_examples(path, [Example(str(n), {"n": n}) for n in range(3)])
    return path, ExamplesGuard(directory, {path.name: digest})


def count_reads(monkeypatch):
    reads = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path) or read(path))
    return reads


def test_an_unchanged_file_is_read_once(frozen, monkeypatch):
    path, guard = frozen
    monkeypatch.setattr(examples, "_SETTLED_S", 0.0)
    reads = count_reads(monkeypatch)
    for _ in range(5):
        guard.check([DUE])
    assert len(reads) == 1
    path.write_bytes(path.read_bytes().replace(b"2", b"3"))
    with pytest.raises(RunFailed, match="have changed since the launch"):
        guard.check([DUE])
    with pytest.raises(RunFailed, match="have changed since the launch"):
        guard.check([DUE])


def test_a_file_that_has_just_changed_is_read_again(frozen, monkeypatch):
    _, guard = frozen
    reads = count_reads(monkeypatch)
    guard.check([DUE])
    guard.check([DUE])
    assert len(reads) == 2


def test_a_file_that_is_gone_is_named(frozen, monkeypatch):
    path, guard = frozen
    monkeypatch.setattr(examples, "_SETTLED_S", 0.0)
    guard.check([DUE])
    path.unlink()
    with pytest.raises(RunFailed, match="cannot be read: No such file"):
        guard.check([DUE])
    guard.check([DONE])  # nothing is scored on it any more
