"""What the state of a run says beside its trials."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple

import pytest

from agenttts.status import run_status as status_module
from agenttts.status.run_status import run_status

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("full", ["samples", "run", None])
def test_a_place_without_room_is_a_warning(unstarted_run, monkeypatch, tmp_path, full):
    store = tmp_path / "store"
    store.mkdir()
    run = unstarted_run(samples=str(store), search__iterations=0)
    place = {"samples": store, "run": run.path, None: None}[full]

    def usage(path):
        return Usage(9 * 10**9, 0, 1000 if path == place else 10**9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    warnings = run_status(run)["warnings"]
    wanted = [f"{place}: no space is left of 9.0 GB; "] if full else []
    assert [w[: len(start)] for w, start in zip(warnings, wanted, strict=True)] == wanted
    run.journal_file.write_text(json.dumps({"event": "ended", "outcome": "done"}) + "\n")
    assert run_status(run)["warnings"] == [], "nothing waits"


def test_a_place_that_cannot_be_looked_at_is_no_warning(unstarted_run, monkeypatch):
    run = unstarted_run(search__iterations=0)
    run.samples.rmdir()
    assert status_module._room_warnings(run) == []


def test_a_file_system_that_tells_no_sizes_is_no_warning(unstarted_run, monkeypatch):
    run = unstarted_run(search__iterations=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 0))
    assert run_status(run)["warnings"] == []
