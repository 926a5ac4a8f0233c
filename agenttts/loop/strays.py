"""Jobs of a run that no trial knows of.

They come from submissions without an answer, or they outlived their job's process.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from agenttts.dispatch.base import OUTLIVED, Scheduler
from agenttts.run.journal import Journal

log = logging.getLogger(__name__)


def end_strays(
    journal: Journal, scheduler: Scheduler, tokens: Iterable[str], known: Collection[str]
) -> dict[str, str]:
    """End jobs of the run that are not among the known ones.

    They are recorded in the journal first, so that `status` shows them.

    Args:
        journal: The run's journal.
        scheduler: The scheduler of the run's trials.
        tokens: The prefixes by which the run's jobs are found.
        known: Ids of the jobs that trials know of.

    Returns:
        What each ended job was, by its id.
    """
    strays: dict[str, str] = {}
    for token in tokens:
        strays |= scheduler.strays(token, known)
    if strays:
        named = "; ".join(f"{job}: {what}" for job, what in strays.items() if what != OUTLIVED)
        if named:
            log.warning("jobs of this run that belong to no trial are cancelled: %s", named)
        journal.append("strays", jobs=strays)
        scheduler.cancel(strays)
    return strays
