"""The plugin `tests.support.workers`: a worker of pytest-xdist dies, and the suite goes on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[1]

# In a module, whose tests are one group: one that ends its worker, after it and before others. Of
# single tests, each a group: some that end their worker the first time only.
SUITE = """
import os, pathlib, pytest

def die():
    os.kill(os.getpid(), 9)

@pytest.mark.parametrize("number", range(9))
def test_before(number): pass

def test_fatal(): die()

@pytest.mark.parametrize("number", range(9))
def test_after(number): pass

@pytest.mark.processes
@pytest.mark.parametrize("number", range(9))
def test_single(number):
    mark = pathlib.Path(f"single{number}")
    if number % 4 == 0 and not mark.exists():
        mark.touch()
        die()
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with the plugin under test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    plugins = ["tests.support.repeatable", "tests.support.workers"]
    pytester.makeconftest(f"pytest_plugins = {plugins}")
    pytester.makeini("[pytest]\nmarkers = processes: of some tests below")
    return pytester


@pytest.mark.processes
def test_the_suite_goes_on_without_the_test_that_ended_a_worker(suite):
    suite.makepyfile(SUITE)
    result = suite.runpytest_subprocess("-n", "2", "--dist", "loadgroup", timeout=120)
    result.assert_outcomes(passed=27, failed=1)
    printed = result.stdout.str()
    assert re.search(r"worker 'gw\d' crashed while running '\S+::test_fatal@", printed)
    assert "reruns: 3" in printed


# The second worker has one more test, as if the file had been edited meanwhile.
EDITED = """
import os, pathlib, pytest

@pytest.mark.parametrize("number", range(3 + pathlib.Path("died").exists()))
def test_all(number):
    pathlib.Path("died").touch()
    os.kill(os.getpid(), 9)
"""


@pytest.mark.processes
def test_other_tests_than_at_first_end_the_session(suite):
    suite.makepyfile(EDITED)
    result = suite.runpytest_subprocess("-n", "1", "--dist", "loadgroup", timeout=120)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert "Different tests were collected between gw0 and gw1" in result.stdout.str()
