"""The command line in the tests' own process: `tests.support.command_line`."""

from __future__ import annotations

import os

from tests.support.command_line import call


def test_a_call_changes_only_the_variables_it_is_given_and_undoes_that(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    before = dict(os.environ)
    names = []
    putenv = os.putenv
    monkeypatch.setattr(os, "putenv", lambda name, value: (names.append(name), putenv(name, value)))
    assert call("--version", cwd=tmp_path, env={"MADE": "1"}).returncode == 0
    assert {os.fsdecode(name) for name in names} == {"MADE", "COLUMNS"}
    assert dict(os.environ) == before
