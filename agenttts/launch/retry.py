"""Try failed trials again: ``resume --retry-failed``."""

from __future__ import annotations

from contextlib import closing

from agenttts.dispatch.attempts import read_attempts
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import Journal
from agenttts.run.rows import row_from_json
from agenttts.tables.schema import TrialState


def retry_failed(run: RunDirectory) -> list[str]:
    """Record that every trial which ended without a score is to be tried again.

    Their records stay, and so do all GPU-seconds in the table. Earlier attempts no longer count
    against the limits on attempts. No controller of the run may be running.

    Returns:
        The trials.
    """
    with closing(Journal(run.journal_file)) as journal:
        failed = [
            name
            for name, trial in journal.state.trials.items()
            if trial.row and row_from_json(trial.row).state is not TrialState.COMPLETED
        ]
        if failed:
            journal.append("retried", earlier={t: len(read_attempts(run.trial(t))) for t in failed})
    return failed
