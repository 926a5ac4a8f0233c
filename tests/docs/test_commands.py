"""The commands that the documentation shows: the real command line takes them, and they run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from agenttts.cli.app import app
from agenttts.spec import load_spec
from tests.support import command_line
from tests.support.documentation import PAGES, ROOT, console, inline

ROOT_COMMAND = typer.main.get_command(app)
SHOWN = [(page, words) for page in PAGES for words in console(page) + inline(page) if words[0] == "agenttts-hpc"]  # fmt: skip
# The tutorial's are run in its own order (test_tutorial.py).
RUN = [
    (page, words[1:])
    for page in PAGES
    for words in console(page)
    if words[0] == "agenttts-hpc" and page.name != "own-task.md" and ROOT / "docs" in page.parents
]


def problem(words: list[str]) -> str:
    """What the command line says of a command; "" if it takes it. Nothing is run."""
    command, rest = ROOT_COMMAND, [word for word in words if word != "--debug"]
    while hasattr(command, "commands"):
        if rest[:1] == ["--help"]:
            return ""
        if not rest or rest[0] not in command.commands:
            return f"no command {' '.join(words)}"
        command, rest = command.commands[rest[0]], rest[1:]
    try:
        command.make_context(words[0], list(rest))
    except typer.Exit:  # --help
        return ""
    except typer.BadParameter.__mro__[2] as error:
        return str(error)
    return ""


def test_the_command_line_takes_every_command():
    assert len(SHOWN) > 60
    wrong = {
        f"{page.relative_to(ROOT)}: {' '.join(words)}": found
        for page, words in SHOWN
        if len(words) > 2 and (found := problem(words[1:]))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    "words",
    ["launch a.yaml --wiat", "lunch a.yaml", "launch", "report a --format pdf", "logs a t1 --lines many"],
)  # fmt: skip
def test_a_command_that_is_not_valid_is_found(words):
    assert problem(words.split())


SPEC = {
    "task": {"name": "retrieval_qa", "data": "builtin:twohop", "examples": 8},
    "stages": {
        stage: {"models": ["small", "large"], "prompt_tokens": 64, "decode_tokens": 16, "samples": [1, 8]}
        for stage in ("retrieval", "answer")
    },
    "models": {
        "small": {"path": "./model.json", "params": 3e9, "engine": "scripted"},
        "large": {"path": "./model.json", "params": 7e9, "engine": "scripted"},
    },
    "search": {"budget": 60, "iterations": 1, "batch_size": 2},
}  # fmt: skip


def write_files(folder: Path) -> None:
    """A reader's own spec and profile, with scripted models on this machine."""
    for name in ("jobs", "slurm"):
        (folder / name).mkdir()
    (folder / "jobs" / "model.json").write_text(json.dumps({"default": "1"}))
    (folder / "jobs" / "mine.yaml").write_text(json.dumps({"name": "mine", **SPEC}))
    profile = {"kind": "in_process", "poll_seconds": 0.05}
    (folder / "slurm" / "mycluster.yaml").write_text(json.dumps(profile))


# Not here: Apptainer, and nodes. Figures are drawn in tests/report, and take seconds.
LEFT_OUT = ("image", "--submit", "html", "--figures")


def test_the_commands_run(cli, tmp_path):
    """In the order of the pages, on finished runs of scripted models."""
    write_files(tmp_path)
    for name in ("demo", "other"):
        started = ("launch", "jobs/mine.yaml", "--cluster", "mycluster", "--name", name)
        done = cli(*started, env={"AGENTTTS_REPORT_FIGURES": "0"})
        assert done.returncode == 0, done.stderr
    commands = [words for _, words in RUN if not set(words) & {*LEFT_OUT, "init"}]
    assert len(commands) > 12
    for words in commands:
        done = cli(*words, env={"AGENTTTS_REPORT_FIGURES": "0"})
        assert done.returncode == 0, f"{words}: {done.stderr}"
    assert (tmp_path / "results" / "mine").is_dir()
    assert (tmp_path / "both.csv").is_file()


def test_the_first_files_are_written(tmp_path, monkeypatch):
    """In a directory of their own, because ``init`` replaces no file of `write_files`."""
    monkeypatch.setattr("agenttts.dispatch.slurm.survey.here", lambda: False)
    commands = [words for _, words in RUN if words[0] == "init"]
    assert len(commands) == 2
    (tmp_path / "jobs").mkdir()
    (tmp_path / "data.jsonl").write_text(json.dumps({"question": "1+1?", "answer": 2}))
    for words in commands:
        done = command_line.call(*words, cwd=tmp_path)
        assert done.returncode == 0, f"{words}: {done.stderr}"
    assert load_spec(tmp_path / "jobs" / "mine.yaml").cluster == "mycluster"
    assert (tmp_path / "slurm" / "mycluster.yaml").is_file()
