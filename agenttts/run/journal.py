"""The journal: everything the controller decided or learnt, one JSON object a line, in order.

Only the controller writes it. An event is on the disk before anything follows from it, so that a
controller killed at any line goes on by reading the journal again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import AwareDatetime

from agenttts.dispatch.attempts import Loss
from agenttts.errors import UserError
from agenttts.files.documents import typed
from agenttts.files.json_lines import JsonLinesFile, read_json_lines
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

    ``submissions`` counts its jobs, without those that never began, those that reached their time
    limit, and those that lost their place to other jobs (``preemptions``); ``lost_at`` is when the
    last was lost to a failure (ISO 8601), None where another was submitted. ``earlier_attempts``
    were made before the trial was tried again by the user's wish: limits do not count them.
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
    """The allocation the searcher recommends so far, as records; None before any trial scored,
    and in old journals.
    """
    finished: str | None = None
    """How the run ended ('done' or why it failed); None while it is not over."""
    started_at: str | None = None
    strays: dict[str, str] = field(default_factory=dict)
    """Jobs of the run that no trial knew of and that were ended: what each was, by its id."""
    avoided: list[str] = field(default_factory=list)
    """Nodes that failed trials, which waiting jobs avoid too unless ``avoid_failed`` says why
    not.
    """
    avoid_failed: str | None = None
    losses: list[Loss] = field(default_factory=list)
    """Jobs that a failure ended on a node that is known."""
    unanswered_at: str | None = None
    """When a submission was last taken for one that never was (ISO 8601)."""

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take one event in.

        Raises `ValueError`, `KeyError` or `TypeError` for what no version writes.
        """
        kind = _EVENTS.get(event["event"])
        if kind is None:
            # A newer version may write more; what this one knows means the same without it.
            log.warning("the journal holds an event that this version does not know: '%s'", event["event"])  # fmt: skip
            return
        typed(kind, event).into(self)

    def note_loss(self, trials: Sequence[str], event: _Lost | _Finished) -> None:
        """Where a failure ended the jobs of trials; the event has no node where that is not
        known, or nobody's fault.
        """
        if not event.node:
            return
        moment = event.time.isoformat() if event.time else ""
        for trial in trials:
            job = self.trials[trial].job_id or ""
            self.losses.append(Loss(trial, job, event.node, event.node_fault, moment))

    def reopen(self) -> None:
        """Trials that `cancel` cut off are to be run after all; what the searcher has been told
        of stays as it is.
        """
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
            # Only what began, and did not merely lose its place, counts against the trial's
            # attempts.
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
        self.state = read_state(path)
        self._file = JsonLinesFile(
            path,
            what="journal",
            fix=f"make room there, then 'agenttts-hpc resume {path.parent}' goes on where the journal ends",
        )

    def append(self, event: str, **values: Any) -> None:
        """Write an event to the disk, then take it in.

        Raises `MissingRequirement` when it cannot be written whole: it has not happened then, and
        may be appended later.
        """
        record = {"event": event, "time": datetime.now(UTC).isoformat(), **values}
        self._file.append(record)
        self.state.apply(record)

    def propose(self, trials: Sequence[PlannedTrial], guidelines: Sequence[str] = ()) -> None:
        """Record a batch of proposals, and the guidelines it was made by: writing those changes
        the searcher too.
        """
        records = [planned_record(trial) for trial in trials]
        self.append("proposed", trials=records, guidelines=list(guidelines))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_state(path: Path) -> RunState:
    """The run as its journal tells it now, without writing to it: for status and report.

    Raises `DamagedJournal` with file and line for what no version writes, and for a journal that is
    missing or empty though the run has trials.
    """

    def refuse(number: int, problem: str) -> None:
        raise DamagedJournal(
            f"{path}:{number}: not a journal line; the file was changed by hand or its disk is failing: restore it "
            f"from a copy, or {_rebuild(path)}"
        )

    state, number = RunState(), 0
    for number, event in read_json_lines(path, refuse):
        try:
            state.apply(event)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedJournal(
                f"{path}:{number}: an event that cannot be understood ({type(error).__name__}: {error}); another version "
                "of agenttts-hpc wrote it, or the file was changed by hand: use the version that the run's run.json "
                f"names, restore the file from a copy, or {_rebuild(path)}"
            ) from None
    # Nothing is made of a trial before it is in the journal.
    if not number and any((path.parent / "trials").glob("t*")):
        raise DamagedJournal(
            f"{path}: the journal is missing or empty, though the run has trials; restore it from a copy, or {_rebuild(path)}"
        )
    return state


def readable_events(path: Path) -> list[dict[str, Any]]:
    """The events in every line of a journal that is JSON, whatever is between them; empty
    without a journal.
    """

    def leave_out(number: int, problem: str) -> None:
        """A damaged line: what it said is taken from elsewhere, or lost."""

    try:
        found = [event for _, event in read_json_lines(path, leave_out, unfinished=True)]
    except OSError:
        return []
    return [e for e in found if isinstance(e, dict) and isinstance(e.get("event"), str)]


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
    """Inverse of `planned_record`; raises `ValueError`, `KeyError` or `TypeError` for what is
    none.
    """
    allocation = Allocation.from_records(record["allocation"])
    return typed(PlannedTrial, {**record, "allocation": allocation})
