"""Terminals that are not UTF-8: every command says the same in other characters, and documents
stay whole.
"""

from __future__ import annotations

import io
import json
import re
import sys

import pytest

from agenttts.cli.terminal import any_terminal, json_text
from agenttts.loop import controller_job

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


def test_bars_of_scores_are_characters_that_an_ascii_terminal_has():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    any_terminal(stream)
    stream.write("▁▂▃▄▅▆▇█")
    stream.flush()
    assert stream.buffer.getvalue() == b"_.:-=+*#"  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-16", "utf-8"])
def test_a_document_keeps_every_character(encoding, monkeypatch):
    document = {"a": "é → 漢 😀", "half a pair": "\udcff"}
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    any_terminal(stream)
    monkeypatch.setattr(sys, "stdout", stream)
    print(json_text(document))
    text = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert json.loads(text) == document


HARMFUL = "red \x1b[31m, clear \x1b[2J\x9b2J, title \x1b]0;x\x07"
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.mark.parametrize(
    "command", [("status",), ("list",), ("logs",), ("report", "--format", "table")], ids=" ".join
)
def test_what_a_failed_run_says_does_nothing_to_the_terminal(cli, unstarted_run, command):
    run = unstarted_run(search__iterations=0, task__examples=2)
    controller_job.make_controller(run.read()).run()
    journal = run.journal_file.read_text()
    assert '"outcome": "done"' in journal
    run.journal_file.write_text(journal.replace('"done"', json.dumps(f"failed: {HARMFUL}")))
    name, *options = command
    done = cli(name, *(["small"] if name != "list" else []), *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "clear [2J2J, title ]0;x" in done.stdout
    assert not CONTROLS.search(done.stdout)


def test_an_error_that_quotes_a_text_does_nothing_to_the_terminal(cli, scripted_spec):
    done = cli("launch", scripted_spec(), "--set", f"search.budget={HARMFUL}")
    assert done.returncode == 2
    assert "clear [2J2J, title ]0;x" in done.stderr
    assert not CONTROLS.search(done.stderr)


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
