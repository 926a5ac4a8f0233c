"""The locks: installed side by side, so that what two of them name they name at one version."""

from __future__ import annotations

import re
import tomllib
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ("locks/login.txt", "locks/dev.txt", "containers/cpu-requirements.txt")


def folded(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: str) -> dict[str, str]:
    lines = (ROOT / lock).read_text().splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {folded(name): version for name, version in found}


@pytest.mark.parametrize(("one", "other"), [*combinations(LOCKS, 2)])
def test_what_two_locks_share_has_one_version(one, other):
    first, second = pins(one), pins(other)
    shared = first.keys() & second.keys()
    assert shared
    assert {n: first[n] for n in shared} == {n: second[n] for n in shared}


def test_the_tools_of_development_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [re.split(r"[>=<]", each)[0] for each in project["dependency-groups"]["dev"]]
    assert {folded(name) for name in wanted} <= pins("locks/dev.txt").keys()
    hub = project["project"]["optional-dependencies"]["hub"]
    assert set(hub) <= set(project["dependency-groups"]["dev"]), "the tests of hub data sets run"


def test_the_image_is_made_with_the_uv_of_the_lock():
    definition = (ROOT / "containers" / "cpu.def").read_text()
    assert re.findall(r"\buv==(\S+)", definition) == [pins("locks/dev.txt")["uv"]]


def test_the_versions_of_python_are_said_alike_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [
        re.fullmatch(r"Programming Language :: Python :: (.+)", c) for c in project["classifiers"]
    ]
    versions = [match[1] for match in found if match]
    assert project["requires-python"] == f">={versions[0]}"
    said = f"{', '.join(versions[:-1])} or {versions[-1]}"
    for page in ("docs/first-run.md", "locks/README.md"):
        assert said in (ROOT / page).read_text(), page
