"""Short questions to programs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from agenttts.files.commands import Answer, ask

pytestmark = pytest.mark.processes


def shell(script: str, seconds: float = 30, **more: object) -> Answer:
    return ask(["sh", "-c", script], seconds, **more)


def test_an_answer_is_read_whatever_the_locale(monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    answer = shell(r"printf 'd\303\251j\303\240 \377\n'; printf 'a warning' >&2")
    assert answer.succeeded
    assert answer.text == "déjà \ufffd\n"
    assert (answer.quoted(), answer.failure()) == ("a warning", None)


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ("exit 3", "failed with exit status 3"),
        ("echo no such job; exit 1", "failed with exit status 1: no such job"),
        ("echo out; printf 'slurm_load_jobs\\n error' >&2; exit 1", "failed with exit status 1: slurm_load_jobs error"),
        ("kill -9 $$", "failed with exit status -9"),
    ],
)  # fmt: skip
def test_a_failure_is_told_in_one_line(script, failure):
    answer = shell(script)
    assert not answer.succeeded
    assert answer.failure() == failure


def test_what_it_says_is_quoted_at_some_length():
    assert len(shell("seq 1 10000 >&2; exit 1").quoted()) == 500


def test_a_program_that_hangs_is_not_waited_for():
    started = time.monotonic()
    answer = shell("exec sleep 600", seconds=0.2)
    assert time.monotonic() - started < 60
    assert answer.failure() == "did not end within 0.2 s"
    assert answer.exit_code is None


@pytest.mark.parametrize(
    ("command", "failure"),
    [
        (["/no/such/program"], "cannot be run: No such file or directory"),
        ([str(Path(__file__).parent)], "cannot be run: Permission denied"),
        (["echo", "a\0b"], "cannot be run: embedded null byte"),
    ],
)
def test_a_program_that_cannot_be_run_is_an_answer_too(command, failure):
    assert ask(command, 5).failure() == failure


def test_nothing_is_on_its_standard_input_and_its_environment_is_the_given_one():
    script = "import os, sys; print(sys.stdin.read() == '', sorted(set(os.environ) - {'LC_CTYPE'}))"
    answer = ask([sys.executable, "-I", "-c", script], 60, env={"MINE": "1"})
    assert answer.text.split(maxsplit=1) == ["True", "['MINE']\n"]
