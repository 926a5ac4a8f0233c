"""A recorded table as a file."""

import pytest

from tests.support.recorded import grid


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "table.csv"
    grid().write_csv(path)
    return path
