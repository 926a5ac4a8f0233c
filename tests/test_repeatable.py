"""The plugin `tests.support.repeatable`: seeds, Hypothesis profiles, reruns, groups; in pytest
sessions of their own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.repeatable import (
    PROFILE_VARIABLE,
    PROFILES,
    RERUN_MARKERS,
    load_profile,
    max_examples,
)

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project whose only plugin of its own is the one under test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv(PROFILE_VARIABLE, raising=False)
    pytester.makeconftest('pytest_plugins = ["tests.support.repeatable"]')
    markers = "".join(
        f"\n    {name}: of the tests below" for name in (*RERUN_MARKERS, "own_cluster")
    )
    pytester.makeini(f"[pytest]\naddopts = --strict-markers\nmarkers = {markers}\n")
    return pytester


def lines(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.strip()]


def printed(result: pytest.RunResult, word: str) -> list[list[str]]:
    """The words after ``word`` of each line that begins with it, sorted."""
    return sorted(line.split()[1:] for line in result.outlines if line.startswith(f"{word} "))


# Tests that fail the first time only, two that always fail or are ordinary, and tests that say
# where they run and draw.
SUITE = """
import os, pathlib, random, numpy, pytest

def once(name):
    first = not pathlib.Path(name).exists()
    pathlib.Path(name).touch()
    assert not first

@pytest.mark.processes
def test_processes(): once("processes")
@pytest.mark.cluster
def test_cluster(): once("cluster")
@pytest.mark.llm
def test_llm(): once("llm")
@pytest.mark.processes
def test_always(): assert False
def test_ordinary(): once("ordinary")

@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("group", [
    pytest.param("cluster", marks=pytest.mark.cluster),
    pytest.param("engines", marks=pytest.mark.llm),
    pytest.param("both", marks=[pytest.mark.llm, pytest.mark.cluster]),
    pytest.param("own", marks=[pytest.mark.cluster, pytest.mark.own_cluster]),
    "none",
])
def test_draw(group, number, dice):
    print("drew", group, number, dice.random(), random.random(), numpy.random.rand())
    print("ran", group, os.environ.get("PYTEST_XDIST_WORKER"))
"""


def check_reruns(result: pytest.RunResult) -> None:
    """Each marked test was rerun once; the count is the last line before pytest's own, and how the
    first try failed is above it.
    """
    result.assert_outcomes(passed=18, failed=2)
    failed = re.findall(r"^FAILED \S+::(\w+)", result.stdout.str(), re.MULTILINE)
    assert sorted(failed) == ["test_always", "test_ordinary"]
    *_, counted, last = lines(result)
    assert counted == "reruns: 4"
    assert re.search(r"2 failed, 18 passed, 4 rerun in", last)
    _, *reasons = re.split(r"^_+ why (\S+) was rerun \(call\) _+$", result.stdout.str(), flags=re.M)
    told = {name.partition("@")[0].rpartition("::")[2]: reason for name, reason in zip(reasons[::2], reasons[1::2], strict=True)}  # fmt: skip
    assert sorted(told) == ["test_always", *(f"test_{name}" for name in sorted(RERUN_MARKERS))]
    assert all("AssertionError" in reason for reason in told.values())


@pytest.mark.processes
def test_with_and_without_workers(suite):
    """One session of each kind: processes that start are what takes time here."""
    suite.makepyfile(SUITE)
    alone = suite.runpytest_inprocess("-rA")
    check_reruns(alone)
    for name in (*RERUN_MARKERS, "ordinary"):
        (suite.path / name).unlink()
    workers = suite.runpytest_subprocess("-rA", "-n", "2", "--dist", "loadgroup")
    check_reruns(workers)

    drawn = printed(alone, "drew")
    assert drawn == printed(workers, "drew"), "the seeds depend on the tests alone"
    assert len({number for line in drawn for number in line[2:]}) == 15 * 3, "each its own"

    places = {group: {worker for name, worker in printed(workers, "ran") if name == group}
              for group in ("cluster", "engines", "both", "own")}  # fmt: skip
    assert all(len(where) == 1 for where in places.values()), "a group runs on one worker"
    assert places["cluster"] != places["engines"]


class Collected:
    """The tests in the order in which a worker has them under ``--dist loadgroup``."""

    def pytest_configure(self, config):
        config.option.loadgroup = True  # what xdist tells a worker

    def pytest_collection_finish(self, session):
        self.items = session.items


def test_workers_begin_with_shared_groups_and_keep_modules_whole(suite):
    suite.makepyfile(test_a="def test_one(): pass\n" * 9, test_b=SUITE, test_c="def test_c(): pass")
    collected = Collected()
    suite.inline_run("--collect-only", plugins=[collected])
    groups = {item.nodeid: item.nodeid.partition("@")[2] for item in collected.items}
    assert [*dict.fromkeys(groups.values())] == [
        *("cluster", "engines", "cluster-models", "cluster-test_b"),
        *("test_a", "", "test_b", "test_c"),
    ]
    assert [name for name, group in groups.items() if not group] == [
        f"test_b.py::test_{name}" for name in ("processes", "always")
    ]


def test_a_session_without_reruns_says_so(suite):
    suite.makepyfile("def test_good(): pass")
    result = suite.runpytest_inprocess()
    assert lines(result)[-2] == "reruns: 0"
    assert "1 passed" in lines(result)[-1]


def test_a_test_alone_draws_what_it_draws_among_others(suite):
    suite.makepyfile(SUITE)
    every = suite.runpytest_inprocess("-rA", "-k", "test_draw")
    one = suite.runpytest_inprocess("-rA", "-k", "test_draw and none-1")
    [drawn] = printed(one, "drew")
    assert drawn in printed(every, "drew")


PROPERTY = """
from hypothesis import given, settings, strategies as st
from tests.support.repeatable import max_examples
seen = []
@given(st.integers())
def test_default(number):
    seen.append(number)
@settings(max_examples=max_examples(2))
@given(st.integers())
def test_twice(number):
    seen.append(number)
def test_count():
    print("saw", len(seen), *seen)
"""


def test_property_tests_see_the_same_examples_in_every_run(suite):
    suite.makepyfile(PROPERTY)
    [first], [second] = (printed(suite.runpytest_inprocess("-rP"), "saw") for _ in range(2))
    assert first == second
    assert first[0] == str(3 * PROFILES["ci"].max_examples)


def test_the_thorough_profile_takes_more_examples_and_new_ones(monkeypatch):
    usual = settings.get_current_profile_name()
    monkeypatch.setenv(PROFILE_VARIABLE, "thorough")
    try:
        load_profile()
        assert settings.default.max_examples >= 10 * PROFILES["ci"].max_examples
        assert not settings.default.derandomize
        assert max_examples(0.5) == settings.default.max_examples / 2
    finally:
        settings.load_profile(usual)


def test_an_unknown_profile_is_refused(monkeypatch):
    monkeypatch.setenv(PROFILE_VARIABLE, "through")
    with pytest.raises(
        pytest.UsageError,
        match=f"{PROFILE_VARIABLE} is 'through', which is not a profile; valid: ci, thorough",
    ):
        load_profile()


def test_a_test_may_take_a_multiple_of_the_budget():
    assert max_examples(2) == 2 * max_examples(1)
    assert max_examples(0.0001) == 1


def test_native_code_is_told_of_its_one_thread_before_it_is_imported():
    """OpenBLAS takes the number when numpy is first imported, which ``tests/conftest.py`` does."""
    limits = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    unset = {name: value for name, value in os.environ.items() if name not in limits}
    code = "import tests, json, os, sys; print(json.dumps([dict(os.environ), list(sys.modules)]))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=unset, capture_output=True, text=True, check=True)  # fmt: skip
    environment, imported = json.loads(ran.stdout)
    assert limits.items() <= environment.items()
    assert not {"numpy", "polars", "torch"} & set(imported)
