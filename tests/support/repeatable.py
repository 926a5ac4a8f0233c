"""A pytest plugin that keeps the suite repeatable, activated by ``tests/conftest.py``.

- Every test starts with seeded generators: Python's and numpy's global ones, and its own, the
  fixture ``dice``. The seed is derived from the test's node id, so it does not depend on the order
  of tests or on the number of workers.
- Hypothesis takes its budget from a profile, chosen by ``AGENTTTS_HYPOTHESIS_PROFILE`` (default
  ``ci``).
- Only tests marked ``processes``, ``cluster`` or ``llm`` may be run a second time after a failure.
  The number of reruns is printed at the end of the session, and why each of them was needed.
- Under pytest-xdist with ``--dist loadgroup``, the tests that share a test cluster run on one
  worker (those with real models have one of their own, and so has a module that starts a cluster of
  its own, marker ``own_cluster``), and so do those that load a real engine here (marker ``llm``;
  modules that load PyTorch join them, ``xdist_group("engines")``).
  These begin first, as they last longest. Of the others, those of one module run on one worker,
  which makes the module's fixtures and imports once; those that wait for processes of their own
  (marker ``processes``) run each on any.
"""

from __future__ import annotations

import os
import random
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import settings

PROFILE_VARIABLE = "AGENTTTS_HYPOTHESIS_PROFILE"
PROFILES = {
    # The same examples in every run: a commit that changes nothing relevant cannot fail.
    "ci": settings(max_examples=50, derandomize=True, deadline=None),
    # New examples in every run; failing ones are kept in .hypothesis and tried first the next time.
    "thorough": settings(max_examples=1000, derandomize=False, deadline=None, print_blob=True),
}

RERUN_MARKERS = ("processes", "cluster", "llm")
# By a test's markers, the first whose markers it has all: real models on the cluster take as long
# as all else there, so they have a cluster of their own.
GROUPS = {("cluster", "llm"): "cluster-models", ("cluster",): "cluster", ("llm",): "engines"}

_NODE_ID = pytest.StashKey[str]()
_GROUP = pytest.StashKey["str | None"]()


def load_profile() -> None:
    """Make the chosen profile the default of every property test; called before test modules are
    imported.

    Raises:
        pytest.UsageError: ``AGENTTTS_HYPOTHESIS_PROFILE`` names no profile.
    """
    for name, profile in PROFILES.items():
        settings.register_profile(name, profile)
    chosen = os.environ.get(PROFILE_VARIABLE, "ci")
    if chosen not in PROFILES:
        raise pytest.UsageError(
            f"{PROFILE_VARIABLE} is {chosen!r}, which is not a profile; valid: {', '.join(PROFILES)}"
        )
    settings.load_profile(chosen)


load_profile()


def max_examples(times: float) -> int:
    """``max_examples`` for a test that takes more or fewer of them than others: a multiple of
    the profile's.
    """
    return max(1, round(times * settings.default.max_examples))


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    import numpy as np

    node_id = request.node.stash[_NODE_ID]
    random.seed(node_id)
    np.random.seed(zlib.crc32(node_id.encode()))


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """A generator of the test's own, seeded with its node id."""
    return random.Random(f"dice of {request.node.stash[_NODE_ID]}")


def pytest_configure(config: pytest.Config) -> None:
    """Let xdist begin with the first groups; by itself it begins with those of most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.hookimpl(wrapper=True)  # begins before xdist appends groups to node ids, and ends after it
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    can_rerun = config.pluginmanager.hasplugin("rerunfailures")
    can_group = config.pluginmanager.hasplugin("xdist")
    for item in items:
        item.stash[_NODE_ID] = item.nodeid
        marks = {mark.name: mark for mark in reversed([*item.iter_markers()])}
        if can_rerun and not marks.keys().isdisjoint(RERUN_MARKERS):
            item.add_marker(pytest.mark.flaky(reruns=1))
        item.stash[_GROUP] = group = _group(item, marks)
        if can_group and group and "xdist_group" not in marks:
            item.add_marker(pytest.mark.xdist_group(group))
    yield
    if config.getoption("loadgroup", False):
        # Groups of one module, and tests without a group, follow in the order of the tests.
        modules = {None, *map(_module, items)}
        sizes = Counter(item.stash[_GROUP] for item in items)
        first = {group: -size for group, size in sizes.items() if group not in modules}
        items.sort(key=lambda item: first.get(item.stash[_GROUP], 0))
        for item in items:
            _append_group(item)


def _group(item: pytest.Item, marks: Mapping[str, pytest.Mark]) -> str | None:
    """The tests that run on one worker with this one; None: it may run on any."""
    if "xdist_group" in marks:
        return str(marks["xdist_group"].args[0])
    if "own_cluster" in marks:
        return f"cluster-{item.path.stem}"
    named = (group for needed, group in GROUPS.items() if marks.keys() >= {*needed})
    return next(named, None if "processes" in marks else _module(item))


def _module(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0].removesuffix(".py").replace("/", ".")


def _append_group(item: pytest.Item) -> None:
    """Do what xdist 3.8 attempts: with pytest 9.2 its change of the node id has no effect (its
    issue 1386).
    """
    group = item.stash[_GROUP]
    if group and item.nodeid == item.stash[_NODE_ID]:
        item._id = type(item.id).parse(f"{item.nodeid}@{group}")


@pytest.hookimpl(wrapper=True, tryfirst=True)  # after all other parts of the summary
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    yield
    # Under xdist this runs in the controller alone, to which the workers report every rerun.
    rerun = terminalreporter.stats.get("rerun", [])
    for report in rerun:
        terminalreporter.write_sep("_", f"why {report.nodeid} was rerun ({report.when})")
        terminalreporter.write_line(report.longreprtext)
    terminalreporter.write_line(f"reruns: {len(rerun)}")
