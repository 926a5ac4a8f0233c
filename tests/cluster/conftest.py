"""Everything here runs on the real cluster (the fixtures are in the conftest.py above)."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture
def slurm_cli(shell, cluster):
    """The command line in a login shell of the cluster."""
    return lambda *arguments, **more: shell(*arguments, env=cluster.env, **more)
