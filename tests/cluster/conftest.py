"""Everything here runs on the real cluster (the fixtures are in the conftest.py above)."""

from __future__ import annotations

from functools import partial

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark every test of this directory as it is collected: groups and reruns are decided by
    markers later.
    """
    item.add_marker(pytest.mark.cluster)


@pytest.fixture
def slurm_cli(cli, cluster):
    """The command line, called in this process as in a login shell of the cluster."""
    return partial(cli, env=cluster.env)
