"""Completion in a shell: commands, runs and profiles."""

from __future__ import annotations

import pytest

from agenttts.cli.completion import complete_profiles
from tests.support.command_line import call


@pytest.fixture
def complete(tmp_path):
    """What bash is given for a command line, whose last word is to be completed."""
    for run in ("results/wiki-1", "results/wiki-2", "elsewhere/other"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "spec.yaml").write_text("")
    (tmp_path / "results" / "notes").mkdir()

    def words(line: str) -> list[str]:
        env = {
            "_AGENTTTS_HPC_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        }
        done = call(cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return words


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("agenttts-hpc fin", ["finish"]),
        ("agenttts-hpc status wi", ["wiki-1", "wiki-2"]),
        ("agenttts-hpc report wiki-1 wiki-2", ["wiki-2"]),
        ("agenttts-hpc status none", []),
        ("agenttts-hpc status --results elsewhere o", ["other"]),
        ("agenttts-hpc launch mine.yaml --cluster in", ["in_process"]),
    ],
)
def test_what_is_completed(complete, line, found):
    assert complete(line) == found


def test_profiles_of_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "lab.yaml").write_text("kind: local")
    monkeypatch.chdir(tmp_path)
    assert complete_profiles("l") == ["lab", "local"]


def test_the_script_of_a_shell_is_shown(complete, cli, monkeypatch):
    # Typer asks for the shell above this process; there may be none.
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    done = cli("--show-completion")
    assert done.returncode == 0
    assert "_AGENTTTS_HPC_COMPLETE=complete_bash" in done.stdout
