"""A pytest plugin with which the workers of pytest-xdist compile each test module once.

pytest rewrites the assertions of a test module when it is first imported, and keeps the bytecode:
11 CPU seconds for all modules. Workers import all of them at the same time and in the same order,
so after a fresh checkout each would compile all. With this plugin each imports a part of its own
first, and finds the others' compiled.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest


def modules_of(root: Path, paths: Iterable[str], number: int, count: int) -> list[str]:
    """Return the test modules in some directories that a worker imports first.

    Args:
        root: The directory from which modules are named.
        paths: Directories, absolute or below ``root``. Anything else is a selection of tests, of
            which there are few modules.
        number: The number of the worker, from 0.
        count: The number of workers.
    """
    files = sorted({file for path in paths for file in (root / path).rglob("test_*.py")})
    own = files[number::count]
    return [".".join(file.relative_to(root).with_suffix("").parts) for file in own]


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    worker = getattr(session.config, "workerinput", None)  # of a worker of xdist
    if worker is None:
        return
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    for module in modules_of(session.config.rootpath, session.config.args, number, count):
        # What cannot be imported, or is skipped for what is missing here, the collection reports.
        with suppress(Exception, pytest.skip.Exception):
            importlib.import_module(module)
