"""Try failed trials again: ``resume --retry-failed``."""

from __future__ import annotations

from agenttts.dispatch.attempts import read_attempts
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import Journal, read_state
from agenttts.run.rows import row_from_json
from agenttts.tables.schema import TrialState


def retry_failed(run: RunDirectory) -> list[str]:
    """Record that every trial which ended without a score is to be tried again.

    Their records stay, and so do all GPU-seconds in the table. Earlier attempts no longer count
    against the limits on attempts. No controller of the run may be running.

    Returns:
        The trials.
    """
    ended = {
        name: row_from_json(t.row)
        for name, t in read_state(run.journal_file).trials.items()
        if t.row
    }
    failed = [name for name, row in ended.items() if row.state is not TrialState.COMPLETED]
    if failed:
        journal = Journal(run.journal_file)
        try:
            journal.append("retried", earlier={t: len(read_attempts(run.trial(t))) for t in failed})
        finally:
            journal.close()
    return failed
