"""Which directories are found as runs."""

from __future__ import annotations

import pytest

from agenttts.cli.completion import complete_runs
from agenttts.errors import UserError
from agenttts.run.find import find_run
from agenttts.status.listed_runs import list_runs


def test_what_a_killed_launch_leaves_is_not_a_run(tmp_path, monkeypatch):
    left = tmp_path / "results/.small.1a2b3c4d"
    left.mkdir(parents=True)
    (left / "spec.yaml").write_text("name: small")
    with pytest.raises(UserError, match="has no runs"):
        find_run("smal", tmp_path / "results")
    assert list_runs(tmp_path / "results")["runs"] == []
    monkeypatch.chdir(tmp_path)
    assert complete_runs(None, "") == []
