"""CONTRIBUTING.md: its code, applied to a copy of the project, passes the suites that it names."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(python|diff) ([\w./-]+)\n(.*?)^```$", re.M | re.S)
_SECTION = re.compile(r"^## (Add a\w* \w+)\n(.*?)(?=^## |\Z)", re.M | re.S)
SECTIONS = dict(_SECTION.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))


def apply(diff: str, text: str) -> str:
    """The text with the lines of a diff put in place of, or after, the lines that it names."""
    lines, place = text.split("\n"), 0
    for line in diff.splitlines():
        mark, content = line[:1], line[1:]
        if mark == "+":
            lines.insert(place, content)
            place += 1
            continue
        found = [number for number in range(place, len(lines)) if lines[number] == content]
        assert found, f"no such line: {content}"
        place = found[0]
        if mark == "-":
            del lines[place]
        else:
            place += 1
    return "\n".join(lines)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    # With the bytecode, which saves compiling all of it again; without files that other processes
    # are writing there at this moment (module.cpython-311.pyc.1234).
    unfinished = shutil.ignore_patterns("*.pyc.*")
    for folder in ("agenttts", "tests", "docs", "jobs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=unfinished)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_a_part_of_every_kind_is_described():
    assert list(SECTIONS) == [
        "Add a searcher",
        "Add a task",
        "Add an engine",
        "Add a scheduler",
    ]


def test_every_file_that_asks_slurm_is_named():
    asks = re.compile(r'\bSLURMD?_[A-Z]|"(scontrol|squeue|sacct|sinfo)"|slurm import survey')
    own = ROOT / "agenttts" / "dispatch" / "slurm"
    files = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "agenttts").rglob("*.py")
        if own not in file.parents and asks.search(file.read_text(encoding="utf-8"))
    }
    named = re.findall(r"^\| `([\w/.]+)`", SECTIONS["Add a scheduler"], re.M)
    assert files == set(named)


@pytest.mark.processes
@pytest.mark.parametrize("section", SECTIONS)
def test_what_it_says_passes_the_conformance_suite(section, project):
    text = SECTIONS[section]
    for language, name, content in _BLOCK.findall(text):
        file = project / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if language == "python":
            assert not file.exists(), "a new part is a new file"
            file.write_text(content)
        else:
            file.write_text(apply(content, file.read_text()))
    [command] = re.findall(r"Run `pytest ([^`]+)`", text)
    # The copy is what is imported, and none of this run's own settings reach it.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COVERAGE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *shlex.split(command)],
        cwd=project, env=env | {"PYTHONPATH": str(project)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 8
