"""Terminals that are not UTF-8: every command says the same in other characters, and documents
stay whole.
"""

from __future__ import annotations

import io
import json
import sys

import pytest

from agenttts.cli.terminal import any_terminal, json_text

COMMANDS = [
    ("launch", "small.yaml", "--dry-run"),
    ("launch", "small.yaml", "--dry-run", "--json"),
    ("launch", "small.yaml", "--wait"),
    ("status", "small"),
    ("status", "small", "--json"),
    ("status", "small", "--watch"),
    *(("report", "small", "--format", form) for form in ("table", "json", "csv", "html")),
    ("resume", "small", "--wait"),
    ("cancel", "small"),
    ("doctor", "--cluster", "in_process"),
    ("status", "naïve→"),
]


def test_every_command_on_an_ascii_terminal(cli, scripted_spec):
    scripted_spec(search__iterations=0, task__examples=2)
    for command in COMMANDS:
        done = cli(*command, encoding="ascii")
        wrong = "naïve→" in command
        assert done.returncode == 2 * wrong, (command, done.stderr)
        assert "codec" not in done.stderr
        if command[0] != "report" or "table" in command:
            assert done.stdout.isascii()
        if "json" in command or "--json" in command:
            assert json.loads(done.stdout)
        elif command[:2] == ("status", "small"):
            assert "recommended: " in done.stdout
            assert " -> " in done.stdout
        if wrong:
            assert "na\\xefve->" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-16", "utf-8"])
def test_a_document_keeps_every_character(encoding, monkeypatch):
    document = {"a": "é → 漢 😀", "half a pair": "\udcff"}
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    any_terminal(stream)
    monkeypatch.setattr(sys, "stdout", stream)
    print(json_text(document))
    text = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert json.loads(text) == document


@pytest.mark.processes
def test_a_program_of_its_own_under_another_locale(shell, scripted_spec):
    scripted_spec(search__iterations=0, task__examples=2)
    for env in (
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ):
        done = shell("launch", "small.yaml", "--wait", env=env)
        assert done.returncode == 0, done.stderr
        done = shell("status", "small", env=env)
        assert (done.returncode, done.stderr) == (0, "")
        assert " -> " in done.stdout
