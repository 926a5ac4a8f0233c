"""The journal: everything the controller decided or learnt, one JSON object a line, in order.

Only the controller writes it. An event is on the disk before anything follows from it, so that a controller killed at
any line goes on by reading the journal again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import AwareDatetime

from agenttts.dispatch.attempts import Loss
from agenttts.errors import MissingRequirement, UserError
from agenttts.files.documents import parse_json, typed
from agenttts.files.trouble import FilesUnavailable
from agenttts.run.rows import row_from_json
from agenttts.space import Allocation

log = logging.getLogger(__name__)

NEVER_SUBMITTED = "never submitted"
PREEMPTED = "PREEMPTED"
TIMEOUT = "TIMEOUT"
# Reasons for which a job is lost without anything having failed.
_NO_FAILURE = (NEVER_SUBMITTED, PREEMPTED, TIMEOUT)


class DamagedJournal(UserError):
    """The journal holds what no version writes, or is missing though the run has trials."""


@dataclass(frozen=True)
class PlannedTrial:
    """A trial as it was proposed. ``cost`` is in budget units."""

    trial: str
    iteration: int
    allocation: Allocation
    source: str
    reason: str
    cost: float


@dataclass
class TrialProgress:
    """How far a trial has come. ``batch`` is the token of its last submission, ``row`` its end.

    ``submissions`` counts its jobs, without those that never began, those that reached their time limit, and those that
    lost their place to other jobs (``preemptions``); ``lost_at`` is when the last was lost to a failure (ISO 8601), None
    where another was submitted. ``earlier_attempts`` were made before the trial was tried again by the user's wish: limits
    do not count them.
    """

    planned: PlannedTrial
    submissions: int = 0
    batch: str | None = None
    position: int = 0
    job_id: str | None = None
    row: dict[str, Any] | None = None
    preemptions: int = 0
    lost_at: str | None = None
    earlier_attempts: int = 0


@dataclass
class RunState:
    """The run as the journal tells it."""

    trials: dict[str, TrialProgress] = field(default_factory=dict)
    batches: dict[str, list[str]] = field(default_factory=dict)
    told: int = 0
    """Iterations whose results the searcher has been told, i.e. that are over."""
    guidelines: list[str] = field(default_factory=list)
    recommended: list[dict[str, Any]] | None = None
    """The allocation the searcher recommends so far, as records; None before any trial scored, and in old journals."""
    finished: str | None = None
    """How the run ended ('done' or why it failed); None while it is not over."""
    started_at: str | None = None
    strays: dict[str, str] = field(default_factory=dict)
    """Jobs of the run that no trial knew of and that were ended: what each was, by its id."""
    avoided: list[str] = field(default_factory=list)
    """Nodes that failed trials, which waiting jobs avoid too unless ``avoid_failed`` says why not."""
    avoid_failed: str | None = None
    losses: list[Loss] = field(default_factory=list)
    """Jobs that a failure ended on a node that is known."""
    unanswered_at: str | None = None
    """When a submission was last taken for one that never was (ISO 8601)."""

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take one event in. Raises `ValueError`, `KeyError` or `TypeError` for what no version writes."""
        kind = _EVENTS.get(event["event"])
        if kind is None:
            # A newer version may write more; what this one knows means the same without it.
            log.warning("the journal holds an event that this version does not know: '%s'", event["event"])  # fmt: skip
            return
        typed(kind, event).into(self)

    def note_loss(self, trials: Sequence[str], event: _Lost | _Finished) -> None:
        """Where a failure ended the jobs of trials; the event has no node where that is not known, or nobody's fault."""
        if not event.node:
            return
        moment = event.time.isoformat() if event.time else ""
        for trial in trials:
            job = self.trials[trial].job_id or ""
            self.losses.append(Loss(trial, job, event.node, event.node_fault, moment))

    def reopen(self) -> None:
        """Trials that `cancel` cut off are to be run after all; what the searcher has been told of stays as it is."""
        for trial, progress in self.trials.items():
            cut_off = progress.row is not None and progress.row.get("state") == "CANCELLED"
            if cut_off and progress.planned.iteration >= self.told:
                self.trials[trial] = TrialProgress(
                    progress.planned, earlier_attempts=progress.earlier_attempts
                )

    def unfinished(self) -> list[TrialProgress]:
        """Trials that have not ended, in order."""
        return [t for t in self.trials.values() if t.row is None]


@dataclass(frozen=True)
class _Started:
    time: str

    def into(self, state: RunState) -> None:
        state.started_at = state.started_at or self.time
        state.finished = None
        state.reopen()


@dataclass(frozen=True)
class _Proposed:
    trials: list[dict[str, Any]]
    guidelines: list[str] | None = None

    def into(self, state: RunState) -> None:
        for record in self.trials:
            planned = planned_trial(record)
            state.trials[planned.trial] = TrialProgress(planned)
        state.guidelines = list(self.guidelines or state.guidelines)


@dataclass(frozen=True)
class _Submitting:
    batch: str
    trials: list[str]

    def into(self, state: RunState) -> None:
        state.batches[self.batch] = self.trials
        for position, trial in enumerate(self.trials):
            progress = state.trials[trial]
            progress.batch, progress.position = self.batch, position
            progress.submissions += 1
            progress.job_id = progress.lost_at = None


@dataclass(frozen=True)
class _Submitted:
    jobs: dict[str, str]

    def into(self, state: RunState) -> None:
        for trial, job_id in self.jobs.items():
            state.trials[trial].job_id = job_id


@dataclass(frozen=True)
class _Lost:
    trials: list[str]
    reason: str
    node: str | None = None
    node_fault: bool = False
    time: AwareDatetime | None = None

    def into(self, state: RunState) -> None:
        moment = self.time.isoformat() if self.time else None
        state.note_loss(self.trials, self)
        for trial in self.trials:
            progress = state.trials[trial]
            progress.batch = progress.job_id = None
            # Only what began, and did not merely lose its place, counts against the trial's attempts.
            progress.submissions -= self.reason in _NO_FAILURE
            progress.preemptions += self.reason == PREEMPTED
            if self.reason not in _NO_FAILURE:
                progress.lost_at = moment
        if self.reason == NEVER_SUBMITTED:
            state.unanswered_at = moment


@dataclass(frozen=True)
class _Avoiding:
    nodes: list[str]
    failed: str | None = None

    def into(self, state: RunState) -> None:
        state.avoided = self.nodes
        state.avoid_failed = self.failed


@dataclass(frozen=True)
class _Strays:
    jobs: dict[str, str]

    def into(self, state: RunState) -> None:
        state.strays |= self.jobs


@dataclass(frozen=True)
class _Finished:
    trial: str
    row: dict[str, Any]
    node: str | None = None
    node_fault: bool = False
    time: AwareDatetime | None = None

    def into(self, state: RunState) -> None:
        row_from_json(self.row)
        state.note_loss([self.trial], self)
        state.trials[self.trial].row = self.row


@dataclass(frozen=True)
class _Told:
    iteration: int
    guidelines: list[str]
    recommended: list[dict[str, Any]] | None = None

    def into(self, state: RunState) -> None:
        state.told = self.iteration + 1
        state.guidelines = self.guidelines
        if self.recommended is not None:
            Allocation.from_records(self.recommended)
        state.recommended = self.recommended


@dataclass(frozen=True)
class _Retried:
    earlier: dict[str, int]
    """The trials to be tried again, and how many attempts of each do not count any more."""

    def into(self, state: RunState) -> None:
        for trial, attempts in self.earlier.items():
            state.trials[trial] = TrialProgress(
                state.trials[trial].planned, earlier_attempts=attempts
            )
        state.finished = None


@dataclass(frozen=True)
class _Rebuilt:
    def into(self, state: RunState) -> None:
        """Nothing: that the journal was made anew is for its readers."""


@dataclass(frozen=True)
class _Ended:
    outcome: str

    def into(self, state: RunState) -> None:
        state.finished = self.outcome


class _Event(Protocol):
    def into(self, state: RunState) -> None:
        """Change the state of the run by what the event says."""


_EVENTS: Mapping[str, type[_Event]] = {
    "started": _Started,
    "proposed": _Proposed,
    "submitting": _Submitting,
    "submitted": _Submitted,
    "lost": _Lost,
    "avoiding": _Avoiding,
    "strays": _Strays,
    "finished": _Finished,
    "told": _Told,
    "ended": _Ended,
    "retried": _Retried,
    "rebuilt": _Rebuilt,
}


class Journal:
    """Appends events to a file and to the `RunState` they make."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.state, self._length = _replay(path)
        # Unbuffered: what could not be written must not be written later.
        self._stream = path.open("ab", buffering=0)
        # A line that a crash cut short never happened: nothing has followed from it yet.
        self._stream.truncate(self._length)
        self._failed = False

    def append(self, event: str, **values: Any) -> None:
        """Write an event to the disk, then take it in.

        Raises `MissingRequirement` when it cannot be written whole: it has not happened then, and may be appended later.
        """
        record = {"event": event, "time": datetime.now(UTC).isoformat(), **values}
        line = journal_line(record)
        try:
            if self._failed:
                self._open_anew()
            written = 0
            while written < len(line):
                written += self._stream.write(line[written:])
            os.fsync(self._stream.fileno())
        except OSError as error:
            self._failed = True
            with suppress(OSError):  # a part of a line, with other lines behind it, would be damage
                self._stream.truncate(self._length)
            raise MissingRequirement(
                f"{self._path}: the journal cannot be written: {error.strerror}",
                fix=f"make room there, then 'agenttts-hpc resume {self._path.parent}' goes on where the journal ends",
            ) from error
        self._length += len(line)
        self.state.apply(record)

    def _open_anew(self) -> None:
        """After a failure: the old file handle may be stale, and a part of a line may be left behind the last event."""
        stream = self._path.open("r+b", buffering=0)  # never a new file
        if stream.seek(0, os.SEEK_END) < self._length:
            stream.close()
            raise FilesUnavailable(
                f"{self._path}: the file system has lost the end of the journal",
                fix=f"'agenttts-hpc resume {self._path.parent}' goes on where the journal ends now",
            )
        stream.truncate(self._length)
        stream.seek(self._length)
        with suppress(OSError):  # closing tells of what was lost, which is written again
            self._stream.close()
        self._stream = stream
        self._failed = False

    def propose(self, trials: Sequence[PlannedTrial], guidelines: Sequence[str] = ()) -> None:
        """Record a batch of proposals, and the guidelines it was made by: writing those changes the searcher too."""
        records = [planned_record(trial) for trial in trials]
        self.append("proposed", trials=records, guidelines=list(guidelines))

    def close(self) -> None:
        """Close the file. What an append has written is on the disk."""
        with suppress(OSError):
            self._stream.close()


def journal_line(event: Mapping[str, Any]) -> bytes:
    """An event as the journal's file has it. Texts that are no valid Unicode (of odd file names) are kept readable."""
    text = json.dumps(event, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def read_state(path: Path) -> RunState:
    """The run as its journal tells it now, without writing to it: for status and report. Raises `DamagedJournal`."""
    return _replay(path)[0]


def readable_events(path: Path) -> list[dict[str, Any]]:
    """The events in every line of a journal that is JSON, whatever is between them; empty without a journal."""
    try:
        content = path.read_bytes()
    except OSError:
        return []
    events = []
    for line in content.split(b"\n"):
        with suppress(ValueError):
            event = parse_json(line)
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                events.append(event)
    return events


def _replay(path: Path) -> tuple[RunState, int]:
    """The run as its journal tells it, and the file offset behind its last whole event.

    Raises `DamagedJournal` with file and line for what no version writes.
    """
    state, length = RunState(), 0
    for number, (event, end) in enumerate(_read(path), start=1):
        try:
            state.apply(event)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedJournal(
                f"{path}:{number}: an event that cannot be understood ({type(error).__name__}: {error}); another version "
                "of agenttts-hpc wrote it, or the file was changed by hand: use the version that the run's origin.json "
                f"names, restore the file from a copy, or {_rebuild(path)}"
            ) from None
        length = end
    # Nothing is made of a trial before it is in the journal.
    if not length and any((path.parent / "trials").glob("t*")):
        raise DamagedJournal(
            f"{path}: the journal is missing or empty, though the run has trials; restore it from a copy, or {_rebuild(path)}"
        )
    return state, length


def _read(path: Path) -> list[tuple[dict[str, Any], int]]:
    """Events with the file offset behind each; the last line may be cut short: it then lacks its end."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    events: list[tuple[dict[str, Any], int]] = []
    offset = 0
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            event = parse_json(line)
        except ValueError:
            raise DamagedJournal(
                f"{path}:{number}: not a journal line; the file was changed by hand or its disk is failing: restore it "
                f"from a copy, or {_rebuild(path)}"
            ) from None
        offset += len(line) + 1
        events.append((event, offset))
    return events


def _rebuild(path: Path) -> str:
    return f"'agenttts-hpc resume {path.parent} --from-tables' makes a new one from the trials' own files"


def planned_record(planned: PlannedTrial) -> dict[str, Any]:
    """A planned trial as the journal keeps it."""
    return {
        "trial": planned.trial,
        "iteration": planned.iteration,
        "allocation": planned.allocation.to_records(),
        "source": planned.source,
        "reason": planned.reason,
        "cost": planned.cost,
    }


def planned_trial(record: Mapping[str, Any]) -> PlannedTrial:
    """Inverse of `planned_record`; raises `ValueError`, `KeyError` or `TypeError` for what is none."""
    allocation = Allocation.from_records(record["allocation"])
    return typed(PlannedTrial, {**record, "allocation": allocation})
