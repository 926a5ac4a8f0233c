"""The journal: everything the controller decided or learnt, one JSON object a line, in order.

Only the controller writes it. An event is on the disk before anything follows from it, so that a controller killed at
any line goes on by reading the journal again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agenttts.dispatch.attempts import Loss
from agenttts.errors import UserError
from agenttts.space import Allocation

log = logging.getLogger(__name__)

NEVER_SUBMITTED = "never submitted"
PREEMPTED = "PREEMPTED"
TIMEOUT = "TIMEOUT"
# Reasons for which a job is lost without anything having failed.
_NO_FAILURE = (NEVER_SUBMITTED, PREEMPTED, TIMEOUT)


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
    where another was submitted.
    """

    planned: PlannedTrial
    submissions: int = 0
    batch: str | None = None
    position: int = 0
    job_id: str | None = None
    row: dict[str, Any] | None = None
    preemptions: int = 0
    lost_at: str | None = None


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
        """Take one event in."""
        kind = event["event"]
        if kind == "started":
            self.started_at = self.started_at or event["time"]
            self.finished = None
            self._reopen()
        elif kind == "proposed":
            for record in event["trials"]:
                planned = _planned(record)
                self.trials[planned.trial] = TrialProgress(planned)
            self.guidelines = list(event.get("guidelines") or self.guidelines)
        elif kind == "submitting":
            self.batches[event["batch"]] = list(event["trials"])
            for position, trial in enumerate(event["trials"]):
                progress = self.trials[trial]
                progress.batch, progress.position = event["batch"], position
                progress.submissions += 1
                progress.job_id = progress.lost_at = None
        elif kind == "submitted":
            for trial, job_id in event["jobs"].items():
                self.trials[trial].job_id = job_id
        elif kind == "lost":
            self._note_loss(event, event["trials"])
            for trial in event["trials"]:
                progress = self.trials[trial]
                progress.batch = progress.job_id = None
                # Only what began, and did not merely lose its place, counts against the trial's attempts.
                progress.submissions -= event["reason"] in _NO_FAILURE
                progress.preemptions += event["reason"] == PREEMPTED
                if event["reason"] not in _NO_FAILURE:
                    progress.lost_at = event.get("time")
            if event["reason"] == NEVER_SUBMITTED:
                self.unanswered_at = event.get("time")
        elif kind == "avoiding":
            self.avoid_failed = event.get("failed")
            self.avoided = list(event["nodes"])
        elif kind == "strays":
            self.strays |= event["jobs"]
        elif kind == "finished":
            self._note_loss(event, [event["trial"]])
            self.trials[event["trial"]].row = event["row"]
        elif kind == "told":
            self.told = event["iteration"] + 1
            self.guidelines = list(event["guidelines"])
            self.recommended = event.get("recommended")
        elif kind == "ended":
            self.finished = event["outcome"]
        else:
            # A newer version may write more; what this one knows means the same without it.
            log.warning("the journal holds an event that this version does not know: '%s'", kind)

    def _note_loss(self, event: Mapping[str, Any], trials: Sequence[str]) -> None:
        """Where a failure ended the jobs of trials; the event has no node where that is not known, or nobody's fault."""
        if not event.get("node"):
            return
        fault, moment = bool(event.get("node_fault")), str(event["time"])
        for trial in trials:
            job = self.trials[trial].job_id or ""
            self.losses.append(Loss(trial, job, str(event["node"]), fault, moment))

    def _reopen(self) -> None:
        """Trials that `cancel` cut off are to be run after all; what the searcher has been told of stays as it is."""
        for trial, progress in self.trials.items():
            cut_off = progress.row is not None and progress.row.get("state") == "CANCELLED"
            if cut_off and progress.planned.iteration >= self.told:
                self.trials[trial] = TrialProgress(progress.planned)

    def unfinished(self) -> list[TrialProgress]:
        """Trials that have not ended, in order."""
        return [t for t in self.trials.values() if t.row is None]


class Journal:
    """Appends events to a file and to the `RunState` they make."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.state, length = _replay(path)
        self._stream = path.open("ab")
        # A line that a crash cut short never happened: nothing has followed from it yet.
        self._stream.truncate(length)
        self._stream.seek(length)

    def append(self, event: str, **values: Any) -> None:
        """Write an event to the disk, then take it in."""
        record = {"event": event, "time": datetime.now(UTC).isoformat(), **values}
        self._stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.state.apply(record)

    def propose(self, trials: Sequence[PlannedTrial], guidelines: Sequence[str] = ()) -> None:
        """Record a batch of proposals, and the guidelines it was made by: writing those changes the searcher too."""
        records = [_record(trial) for trial in trials]
        self.append("proposed", trials=records, guidelines=list(guidelines))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_state(path: Path) -> RunState:
    """The run as its journal tells it now, without writing to it: for status and report."""
    return _replay(path)[0]


def _replay(path: Path) -> tuple[RunState, int]:
    """The run as its journal tells it, and the file offset behind its last whole event.

    Raises `UserError` with file and line for what no version writes.
    """
    state, length = RunState(), 0
    for number, (event, end) in enumerate(_read(path), start=1):
        try:
            state.apply(event)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path}:{number}: an event that cannot be understood ({type(error).__name__}: {error}); another version "
                "of agenttts-hpc wrote it, or the file was changed by hand: use the version that the run's origin.json "
                "names, or restore the file from a copy"
            ) from None
        length = end
    return state, length


def _read(path: Path) -> list[tuple[dict[str, Any], int]]:
    """Events with the file offset behind each; the last line may be cut short."""
    if not path.exists():
        return []
    events: list[tuple[dict[str, Any], int]] = []
    offset = 0
    content = path.read_bytes()
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("cut short")
            event = json.loads(line)
        except ValueError:
            if offset + len(line) == len(content):
                break
            raise UserError(
                f"{path}:{number}: not a journal line; the file was changed by hand or its disk is failing"
            ) from None
        offset += len(line)
        events.append((event, offset))
    return events


def _record(planned: PlannedTrial) -> dict[str, Any]:
    return {
        "trial": planned.trial,
        "iteration": planned.iteration,
        "allocation": planned.allocation.to_records(),
        "source": planned.source,
        "reason": planned.reason,
        "cost": planned.cost,
    }


def _planned(record: Mapping[str, Any]) -> PlannedTrial:
    known = {field.name for field in fields(PlannedTrial)}
    values = {name: value for name, value in record.items() if name in known}
    return PlannedTrial(**{**values, "allocation": Allocation.from_records(record["allocation"])})
