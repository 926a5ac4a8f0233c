"""Runs read from disk for the tests of figures."""

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

SECONDS = CostSeconds(queue=50.0, start=10.0, load=90.0, generate=300.0, idle=20.0, other=5.0)


def cost(gpus: int) -> RunCost:
    """What a run of one job used."""
    job = JobCost("j", ("1",), ("n",), gpus, 1, 3, 2, SECONDS, SECONDS.times(gpus), 1000)
    return RunCost([job], 100)


@pytest.fixture(name="cost")
def cost_fixture() -> Callable[[int], RunCost]:
    """`cost`, by the number of GPUs."""
    return cost


@pytest.fixture(name="trial")
def trial_fixture() -> Callable[..., TrialRow]:
    """`trial`, for rows of one's own."""
    return trial


def _read(folder: Path, *names: str, gpus: int = 1, **options: object) -> Report:
    paths = [write_run(folder, name, **options) for name in names or ("demo",)]  # type: ignore[arg-type]
    return build_report(
        paths,
        costs={path.name: cost(gpus) for path in paths},
        backgrounds={path.name: Background(outlook=small_outlook()) for path in paths},
    )


@pytest.fixture
def read_runs(tmp_path: Path) -> Callable[..., Report]:
    """Write runs and read their report: ``read_runs("one", "two", rows=[...])``."""
    return partial(_read, tmp_path)


@pytest.fixture
def read_run(read_runs: Callable[..., Report]) -> Callable[..., RunReport]:
    """Write a run and read it: ``read_run(rows=[...])``."""
    return lambda **options: read_runs(**options).runs[0]
