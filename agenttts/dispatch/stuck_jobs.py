"""How long a job may wait for what will not come by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from agenttts.dispatch.queue_reader import QueueRow
from agenttts.dispatch.queue_reasons import Waiting, waiting_for


class StuckJobs:
    """Tells which jobs have waited in vain for ``patience_seconds``, as far as it has been asked about them.

    What it remembers is in memory alone: a new controller is patient anew.
    """

    def __init__(
        self, patience_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience = patience_seconds
        self._clock = clock
        self._since: dict[str, float] = {}

    def overdue(self, rows: Mapping[str, QueueRow | None]) -> list[str]:
        """Of the jobs in ``rows``, those that have waited too long for what will not come."""
        now = self._clock()
        stuck = [job for job, row in rows.items() if row is not None and _is_stuck(row)]
        for job in rows.keys() - set(stuck):
            self._since.pop(job, None)
        return [job for job in stuck if now - self._since.setdefault(job, now) >= self._patience]


def _is_stuck(row: QueueRow) -> bool:
    return row.state == "PENDING" and waiting_for(row.reason).waiting is Waiting.NEVER
