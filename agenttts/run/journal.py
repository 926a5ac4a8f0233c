"""The journal: every decision and result of the controller, in order.

Each line of the file is a JSON object, an event. Only the process with the run's lock writes it:
the controller, or a command while no controller runs. An event is on disk before anything follows
from it. So a controller that was killed can be replaced by one that reads the journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agenttts.errors import UserError, cli_command
from agenttts.files.json_lines import JsonLinesFile, read_json_lines, readable_json_lines
from agenttts.run.events import apply_event
from agenttts.run.progress import PlannedTrial, planned_record
from agenttts.run.state import RunState


class DamagedJournal(UserError):
    """A line is not valid, or the journal is missing although the run has trials."""


class Journal:
    """Appends events to a file and applies them to a `RunState`."""

    def __init__(self, path: Path) -> None:
        self.state = read_state(path)
        self._file = JsonLinesFile(
            path,
            what="journal",
            fix=(
                f"free space there, then '{cli_command('resume', path.parent)}' continues "
                "from the end of the journal"
            ),
        )

    def append(self, event: str, **values: Any) -> None:
        """Write an event to the disk, then apply it.

        Of ``guidelines`` only those are written that no earlier event has: all of them in every
        event would make the journal grow with the square of the number of trials.

        Raises:
            MissingRequirement: The event cannot be written. It has no effect, and may be appended
                again.
        """
        if "guidelines" in values:
            values["guidelines"] = self.state.new_guidelines(values["guidelines"])
        record = {"event": event, "time": datetime.now(UTC).isoformat(), **values}
        self._file.append(record)
        apply_event(record, self.state)

    def propose(self, trials: Sequence[PlannedTrial], guidelines: Sequence[str] = ()) -> None:
        """Record the proposals of an iteration, and the guidelines that led to them.

        So a restarted searcher need not write the guidelines again.
        """
        records = [planned_record(trial) for trial in trials]
        self.append("proposed", trials=records, guidelines=list(guidelines))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_state(path: Path) -> RunState:
    """Return the run's state according to its journal; the file is only read.

    Raises:
        DamagedJournal: A line is not JSON, or not an event that this version can apply. Or the
            journal is missing or empty although the run has trials.
    """

    def refuse(number: int, problem: str) -> None:
        raise DamagedJournal(
            f"{path}:{number}: not a valid line of a journal; the file was edited or its disk "
            f"is failing: restore it from a copy, or {_rebuild(path)}"
        )

    state, number = RunState(), 0
    for number, event in read_json_lines(path, refuse):
        try:
            apply_event(event, state)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedJournal(
                f"{path}:{number}: not a valid event ({type(error).__name__}: {error}); "
                "another version of agenttts-hpc wrote it, or the file was edited: use the version "
                f"that the run's run.json names, restore the file from a copy, or {_rebuild(path)}"
            ) from None
    # A trial is in the journal before any file of it exists.
    if not number and any((path.parent / "trials").glob("t*")):
        raise DamagedJournal(
            f"{path}: the journal is missing or empty, but the run has trials; "
            f"restore it from a copy, or {_rebuild(path)}"
        )
    return state


def readable_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a journal, without damaged lines.

    The list is empty if there is no journal.
    """
    try:
        found = readable_json_lines(path)
    except OSError:
        return []
    return [event for event in found if isinstance(event.get("event"), str)]


def _rebuild(path: Path) -> str:
    return (
        f"make a new one from the trials' files with "
        f"'{cli_command('resume', path.parent, '--from-tables')}'"
    )
