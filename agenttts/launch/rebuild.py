"""Make a new journal for a run whose journal is damaged or lost.

The journal is made from the trials' own files. The sources, in order of trust, are the files in a
trial's directory, its row of ``trials.parquet``, and the readable lines of the old journal. Trials
without a result are planned again. The old journal is kept beside the new one.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agenttts.dispatch.attempts import read_attempts
from agenttts.errors import UserError, cli_command
from agenttts.files.atomic import atomic_write_bytes
from agenttts.files.json_lines import json_line
from agenttts.loop.collect import finished_row
from agenttts.run.directory import RunDirectory
from agenttts.run.events import EXTENSION_EVENTS, PROFILE_EVENTS, apply_event
from agenttts.run.journal import DamagedJournal, read_state, readable_events
from agenttts.run.progress import PlannedTrial, TrialProgress, planned_record, planned_trial
from agenttts.run.record import write_record
from agenttts.run.rows import row_to_json
from agenttts.run.schedulers import trial_scheduler
from agenttts.run.state import RunState
from agenttts.space import Allocation
from agenttts.tables.schema import AFTER_SEARCH, TrialRow, TrialState, read_trials, trial_rows
from agenttts.trial.part import read_part
from agenttts.trial.result import read_result
from agenttts.trial.spec import SPEC_FILE, TrialSpec

KEPT_SUFFIX = ".damaged"
UNKNOWN_SOURCE = "recovered"


@dataclass(frozen=True)
class Rebuilt:
    """What a new journal holds, and what is lost.

    Trials are given by name.

    Args:
        old: Where the damaged journal is kept; None if there was none.
        from_results: Trials whose results are in their own directories.
        from_table: Trials known only by their row in trials.parquet.
        again: Trials without a result, which run again.
        lost: Trials whose allocation is not known. Their remaining files are set aside.
        notes: Other differences from the old journal, a sentence each.
    """

    old: str | None
    from_results: list[str] = field(default_factory=list)
    from_table: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def rebuild_journal(run: RunDirectory) -> Rebuilt:
    """Replace the run's damaged journal.

    No controller of the run may be running. Known jobs of the run are cancelled, because the
    new journal does not have them.

    Raises:
        UserError: The journal is sound, or nothing is known of any trial.
    """
    try:
        read_state(run.journal_file)
    except DamagedJournal:
        pass
    else:
        raise UserError(
            f"{run.journal_file} is not damaged; '{cli_command('resume', run.path)}' continues "
            "the run without --from-tables"
        )
    space, record = run.spec().space(), run.record()
    remains = _Remains.of(run)
    planned: dict[str, PlannedTrial] = {}
    rows: dict[str, TrialRow] = {}
    rebuilt = Rebuilt(_kept_name(run.journal_file), notes=remains.notes)
    iteration = 0
    for trial in remains.trials(run):
        row = remains.rows.get(trial)
        known = remains.planned.get(trial)
        spec = _spec(run.trial(trial))
        allocation = (
            (spec.allocation if spec else None)
            or (row.allocation if row else None)
            or (known.allocation if known else None)
        )
        if allocation is None:
            rebuilt.lost.append(trial)
            continue
        iteration = row.iteration if row else known.iteration if known else iteration
        planned[trial] = PlannedTrial(
            trial,
            iteration,
            allocation,
            row.source if row else known.source if known else UNKNOWN_SOURCE,
            known.reason if known else "",
            space.cost(allocation),
            _numbers(spec) if spec else known.examples if known else None,
        )
        output = read_result(run.trial(trial))
        if output is not None:
            progress = TrialProgress(planned[trial])
            rows[trial] = finished_row(run.name, progress, output, run.trial(trial))
            rebuilt.from_results.append(trial)
        elif row is not None and row.state is not TrialState.CANCELLED:
            rows[trial] = replace(row, run=run.name)
            rebuilt.from_table.append(trial)
        else:
            rebuilt.again.append(trial)
    if not planned:
        raise UserError(
            f"{run.path}: no trial has usable files, so a journal cannot be made; "
            f"restore {run.journal_file.name} from a copy, or launch the spec under another --name"
        )
    remains.cancel_jobs(run, rows)
    for trial in rebuilt.lost:
        directory = run.trial(trial)
        if directory.exists():
            directory.rename(directory.with_name(f".{trial}{KEPT_SUFFIX}-{secrets.token_hex(3)}"))
    remains.add_extensions(record.extended_at)
    parts = {trial: read_part(run.trial(trial)).stages for trial in rebuilt.again}
    content = b"".join(json_line(event) for event in _events(planned, rows, parts, remains))
    if rebuilt.old is not None:
        atomic_write_bytes(run.path / rebuilt.old, run.journal_file.read_bytes())
    # Jobs with tokens of the old journal must not be taken for jobs of the new one.
    tokens = (*record.earlier_tokens, record.token)
    changes = {"token": secrets.token_hex(4), "earlier_tokens": tokens}
    write_record(run.record_file, record.model_copy(update=changes))
    atomic_write_bytes(run.journal_file, content)
    return rebuilt


@dataclass
class _Remains:
    """What is left besides the trials' directories: table rows and journal lines."""

    rows: dict[str, TrialRow] = field(default_factory=dict)
    planned: dict[str, PlannedTrial] = field(default_factory=dict)
    told: dict[int, dict[str, Any]] = field(default_factory=dict)
    guidelines: list[str] = field(default_factory=list)
    """Those in the lines that were read so far; an event has only what is new."""
    jobs: dict[str, str] = field(default_factory=dict)
    batches_that_stay: set[str] = field(default_factory=set)
    workers: set[str] = field(default_factory=set)
    """Jobs that stay when their trials have ended, and may run still."""
    notes: list[str] = field(default_factory=list)
    profile_events: list[dict[str, Any]] = field(default_factory=list)
    """Changes of the run's profile."""
    extension_events: list[dict[str, Any]] = field(default_factory=list)
    """Extensions of the search."""

    @classmethod
    def of(cls, run: RunDirectory) -> _Remains:
        found = cls()
        try:
            table = trial_rows(read_trials(run.trials_file)) if run.trials_file.exists() else []
            found.rows = {row.trial: row for row in table}
        except (UserError, ValueError) as error:
            found.notes.append(f"the table of trials was not used ({error})")
        for event in readable_events(run.journal_file):
            try:
                found._take(event)
            except (KeyError, TypeError, ValueError, AttributeError):
                continue  # a damaged line: its content is taken from elsewhere, or lost
        if not found.told:
            found.notes.append(
                "the guidelines of the search are lost; the search writes new guidelines"
            )
        return found

    def _take(self, event: dict[str, Any]) -> None:
        written = (str(text) for text in event.get("guidelines") or ())
        self.guidelines = list(dict.fromkeys([*self.guidelines, *written]))
        if event["event"] in PROFILE_EVENTS:
            apply_event(event, RunState())  # raises if it is damaged
            self.profile_events.append(event)
        elif event["event"] in EXTENSION_EVENTS:
            apply_event(event, RunState())
            self.extension_events.append({**event, "trials": int(event["trials"])})
        elif event["event"] == "proposed":
            for record in event["trials"]:
                planned = planned_trial(record)
                self.planned[planned.trial] = planned
        elif event["event"] == "told":
            self.told[int(event["iteration"])] = self._conclusions(event)
        elif event["event"] == "told_results":
            for iteration in range(int(event["told"])):
                self.told.setdefault(iteration, self._conclusions(event))
        elif event["event"] == "submitting" and event.get("stays"):
            self.batches_that_stay.add(str(event["batch"]))
        elif event["event"] == "submitted":
            jobs = {str(trial): str(job) for trial, job in event["jobs"].items()}
            self.jobs |= jobs
            if event["batch"] in self.batches_that_stay:
                self.workers |= set(jobs.values())

    def _conclusions(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the searcher concluded from results, as in a journal's event."""
        recommended = event.get("recommended")
        return {
            "guidelines": self.guidelines,
            "recommended": recommended and Allocation.from_records(recommended).to_records(),
            "confidence": event.get("confidence"),
        }

    def trials(self, run: RunDirectory) -> list[str]:
        """Return the names of all trials of which there are traces, in order."""
        folders = {
            path.name for path in (run.path / "trials").glob("t*") if path.name[1:].isdigit()
        }
        names = {
            name
            for name in folders | set(self.rows) | set(self.planned)
            if name[:1] == "t" and name[1:].isdigit()
        }
        return sorted(names, key=lambda name: int(name[1:]))

    def add_extensions(self, numbers: Sequence[int]) -> None:
        """Add the extensions of which only the record knows.

        Without them the earlier closing trials would count as those of the search's end.

        Args:
            numbers: The number of the next trial at each extension.
        """
        begun = [event for event in self.extension_events if event["event"] == "extended"]
        found = {event.get("trials") for event in begun}
        for number in numbers:
            if number not in found:
                nothing: dict[str, Any] = {"sections": {}, "record": {}, "changes": {}}
                time = datetime.now(UTC).isoformat()
                self.extension_events += [
                    {"event": "extended", "time": time, **nothing, "trials": number},
                    {"event": "extension_written", "time": time, "trials": number},
                ]
        self.extension_events.sort(key=lambda event: int(event["trials"]))

    def cancel_jobs(self, run: RunDirectory, rows: Mapping[str, TrialRow]) -> None:
        """Cancel the jobs of trials that have not ended, and those that stay."""
        jobs = {trial: job for trial, job in self.jobs.items() if trial not in rows}
        for trial in self.trials(run):
            attempts = read_attempts(run.trial(trial))
            if trial not in rows and attempts and attempts[-1].finished is None:
                jobs[trial] = attempts[-1].job_id
        found = sorted({*self.workers, *(job for job in jobs.values() if job)})
        if found:
            trial_scheduler(run, run.profile()).cancel(found)


def _events(
    planned: Mapping[str, PlannedTrial],
    rows: Mapping[str, TrialRow],
    parts: Mapping[str, int],
    remains: _Remains,
) -> list[dict[str, Any]]:
    """Return the events of the new journal.

    Every iteration has its proposal, and the ends of its trials as far as they have ended; of
    others it is known which leading stages are drawn. The searcher is told of it if another
    iteration follows. The next controller tells of the last iteration and computes the
    recommendation again.
    """
    time = datetime.now(UTC).isoformat()
    events: list[dict[str, Any]] = [{"event": "rebuilt", "time": time}]
    events += remains.profile_events
    iterations = sorted({trial.iteration for trial in planned.values()})
    searched = [t.iteration for t in planned.values() if t.source not in AFTER_SEARCH]
    written: set[str] = set()
    so_far = True  # whether all trials of the iterations so far have ended
    extensions = list(remains.extension_events)
    for iteration in iterations:
        number = min(int(t.trial[1:]) for t in planned.values() if t.iteration == iteration)
        events += _taken(extensions, number)
        members = [trial for trial in planned.values() if trial.iteration == iteration]
        records = [planned_record(trial) for trial in members]
        events.append({"event": "proposed", "time": time, "trials": records, "guidelines": []})
        events += [
            {"event": "finished", "time": time, "trial": t.trial, "row": row_to_json(rows[t.trial])}
            for t in members
            if t.trial in rows
        ]
        drawn = {t.trial: parts[t.trial] for t in members if parts.get(t.trial)}
        if drawn:
            events.append({"event": "handed_over", "time": time, "trials": drawn})
        so_far = so_far and all(t.trial in rows for t in members)
        if iteration in searched and iteration < max(searched) and so_far:
            said = remains.told.get(iteration, {"guidelines": [], "recommended": None})
            new = [text for text in said["guidelines"] if text not in written]
            written.update(new)
            told = {"event": "told", "time": time, "iteration": iteration}
            events.append({**told, **said, "guidelines": new})
    events += extensions
    return json.loads(json.dumps(events))  # type: ignore[no-any-return]


def _taken(extensions: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Take the extensions before a trial's number from the list; return them."""
    taken = []
    while extensions and extensions[0]["trials"] <= number:
        taken.append(extensions.pop(0))
    return taken


def _spec(directory: Path) -> TrialSpec | None:
    """Return a trial's own spec; None without one."""
    try:
        return TrialSpec.read(directory / SPEC_FILE)
    except UserError:
        return None


def _numbers(spec: TrialSpec) -> tuple[int, ...] | None:
    return None if spec.example_numbers is None else tuple(spec.example_numbers)


def _kept_name(journal: Path) -> str | None:
    """Return the first free name for the old journal; None without a journal."""
    if not journal.is_file():
        return None
    number = 1
    while journal.with_name(f"{journal.name}{KEPT_SUFFIX}-{number}").exists():
        number += 1
    return f"{journal.name}{KEPT_SUFFIX}-{number}"
