"""A pytest plugin that looks for garbage only among the objects that tests make.

Collecting the tests makes 400,000 objects that live to the end of the session. Python's collector
went through them 27 times while they were made (4 of 16 CPU seconds in each worker of pytest-xdist)
and again in the tests (0.3 s each time). The libraries that tests import, such as torch, are as
many objects again, and most of what a test makes is gone before it is looked for: searches are
rare.
"""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest

# Python's own are 700, 10 and 10: new objects until the newest are searched, and how many searches
# of one generation there are until the next is searched, too.
_THRESHOLDS = 20_000, 20, 20


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without the collector, which ignores what is there from then on."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_THRESHOLDS)
        gc.enable()
