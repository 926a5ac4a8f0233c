"""End a search early, with its finalists and its final test: ``finish``."""

from __future__ import annotations

from datetime import UTC, datetime

from agenttts.errors import UserError, cli_command
from agenttts.files.atomic import atomic_write_json
from agenttts.launch.launch import complete_changes, resume
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.rows import row_from_json
from agenttts.tables.schema import AFTER_SEARCH


def finish(run: RunDirectory) -> bool:
    """Ask the controller to propose no more trials; start it if it does not run.

    Trials that were proposed before still run and count. The request is a file, because only the
    controller writes the journal. It stays, so that it also holds for a new journal
    (``resume --from-tables``).

    Returns:
        Whether there was anything to end; False if the run is over.

    Raises:
        UserError: No trial of the search has a score, so that no allocation can be recommended.
    """
    complete_changes(run, "finish")  # an extension withdraws earlier requests
    state = read_state(run.journal_file)
    if state.finished == "done":
        return False
    rows = [row_from_json(trial.row) for trial in state.trials.values() if trial.row]
    if not any(row.score is not None and row.source not in AFTER_SEARCH for row in rows):
        raise UserError(
            f"{run.path}: no trial has a score yet, so there is no allocation to recommend; wait "
            f"for the first one ('{cli_command('status', run.path, '--watch')}'), or end the run "
            f"without a result ('{cli_command('cancel', run.path)}')"
        )
    if not run.finish_file.exists():
        atomic_write_json(run.finish_file, {"asked": datetime.now(UTC).isoformat()})
    resume(run)
    return True
