"""A pytest plugin that lets the suite go on when a worker of pytest-xdist dies.

With xdist 3.8 and ``--dist loadgroup`` the session hangs then. The worker in the dead one's place
gets one group of tests and keeps the last of them until it gets more. If it had none left, it waits
for ever. Besides, it would first run the test in which the other one died.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from xdist.report import report_collection_diff
from xdist.scheduler import LoadGroupScheduling

_MOST_LEFT = 2
"""A worker with at most this many tests left gets more.

It starts a test only when it knows the next one, or knows that there is none.
"""


class Scheduling(LoadGroupScheduling):
    """Gives groups of tests to workers, of which some may die.

    The test in which one died has failed, unless it may be run again (pytest-rerunfailures). The
    other tests that it had are for the next worker.
    """

    def remove_node(self, node: Any) -> str | None:
        """Take a worker's tests back.

        Returns:
            The test in which it died; None if it had ended.
        """
        units = self.assigned_work.pop(node)
        left = [(group, test) for group, unit in units.items() for test in unit if not unit[test]]
        for group, test in left[1:]:
            self._put_back(group, test)
        return left[0][1] if left else None

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        """Note which tests a worker has.

        Raises:
            RuntimeError: It is in a dead one's place, and has others than the first ones had.
        """
        super().add_node_collection(node, collection)
        if node not in self.registered_collections:
            first = next(iter(self.registered_collections))
            raise RuntimeError(
                report_collection_diff(
                    self.collection or [], collection, first.gateway.id, node.gateway.id
                )
            )

    def mark_test_pending(self, item: str) -> None:  # type: ignore[override]
        """Let the test in which a worker died be run again."""
        self._put_back(self._split_scope(item), item)

    def _put_back(self, group: str, test: str) -> None:
        self.workqueue.setdefault(group, {})[test] = False
        self.workqueue.move_to_end(group, last=False)

    def _reschedule(self, node: Any) -> None:
        """Give a worker tests until it has enough, or tell it that there are no more."""
        if node not in self.registered_collections:  # it is in a dead one's place, and collects yet
            return
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) <= _MOST_LEFT:
            super()._reschedule(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Take the place of xdist's scheduler for ``--dist loadgroup``."""
    return Scheduling(config, log) if config.getvalue("dist") == "loadgroup" else None
