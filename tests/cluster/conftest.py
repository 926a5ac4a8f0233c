"""Everything here runs on the real cluster (the fixtures are in the conftest.py above)."""

from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark every test of this directory as it is collected: groups and reruns are decided by
    markers later.
    """
    item.add_marker(pytest.mark.cluster)


@pytest.fixture
def slurm_cli(shell, cluster):
    """The command line in a login shell of the cluster."""
    return lambda *arguments, **more: shell(*arguments, env=cluster.env, **more)
