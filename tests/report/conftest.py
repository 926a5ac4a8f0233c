"""Runs on disk, and read from there, for the tests of reports."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from agenttts.report import build_report
from agenttts.report.background import Background
from agenttts.report.summary import Report, RunReport
from agenttts.tables.cost import CostSeconds, JobCost, RunCost
from agenttts.tables.schema import TrialRow
from tests.support.outlooks import small_outlook
from tests.support.written_runs import trial, write_run


@pytest.fixture(name="trial")
def trial_fixture() -> Callable[..., TrialRow]:
    """`trial`, for rows of one's own."""
    return trial


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`write_run` into the test's directory."""
    return partial(write_run, tmp_path)


@pytest.fixture
def read_runs(make_run: Callable[..., Path]) -> Callable[..., Report]:
    """Write runs and read their report, with costs and outlooks: ``read_runs("one", "two",
    rows=[...])``.
    """

    def read(*names: str, gpus: int = 1, **options: object) -> Report:
        paths = [make_run(name, **options) for name in names or ("demo",)]
        return build_report(
            paths,
            costs={path: _cost(gpus) for path in paths},
            backgrounds={path: Background(outlook=small_outlook()) for path in paths},
        )

    return read


@pytest.fixture
def read_run(read_runs: Callable[..., Report]) -> Callable[..., RunReport]:
    """Write a run and read it: ``read_run(rows=[...])``."""
    return lambda **options: read_runs(**options).runs[0]


def _cost(gpus: int) -> RunCost:
    """What a run of one job used."""
    seconds = CostSeconds(queue=50.0, start=10.0, load=90.0, generate=300.0, idle=20.0, other=5.0)
    job = JobCost("j", ("1",), ("n",), gpus, 1, 3, 2, seconds, seconds.times(gpus), 1000)
    return RunCost([job], 100)
