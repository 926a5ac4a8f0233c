"""Runs on disk for the tests of reports."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from agenttts.tables.schema import TrialRow
from tests.support.written_runs import trial, write_run


@pytest.fixture(name="trial")
def trial_fixture() -> Callable[..., TrialRow]:
    """`trial`, for rows of one's own."""
    return trial


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`write_run` into the test's directory."""
    return partial(write_run, tmp_path)
