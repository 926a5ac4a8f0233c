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


@pytest.mark.processes
def test_the_suite_goes_on_without_the_test_that_ended_a_worker(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    plugins = ["tests.support.repeatable", "tests.support.workers"]
    pytester.makeconftest(f"pytest_plugins = {plugins}")
    pytester.makeini("[pytest]\nmarkers = processes: of some tests below")
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess("-n", "2", "--dist", "loadgroup", timeout=120)
    result.assert_outcomes(passed=27, failed=1)
    printed = result.stdout.str()
    assert re.search(r"worker 'gw\d' crashed while running '\S+::test_fatal@", printed)
    assert "reruns: 3" in printed
