"""Jobs of a run that no trial knows of: those of submissions that got no answer, and what
outlived its job's process.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from agenttts.dispatch.base import Scheduler
from agenttts.run.journal import Journal

log = logging.getLogger(__name__)


def end_strays(
    journal: Journal, scheduler: Scheduler, tokens: Iterable[str], known: Collection[str]
) -> dict[str, str]:
    """End what lives of the run, by its ``tokens``, and is not among the ``known`` jobs; what each
    was, by its id.

    It is in the journal first, from where `status` tells of it.
    """
    strays: dict[str, str] = {}
    for token in tokens:
        strays |= scheduler.strays(token, known)
    if strays:
        named = "; ".join(f"{job}: {what}" for job, what in strays.items())
        log.warning("jobs of this run that no trial knows of are ended: %s", named)
        journal.append("strays", jobs=strays)
        scheduler.cancel(strays)
    return strays
