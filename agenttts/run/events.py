"""The events of a journal, and what each changes in the state of its run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import AwareDatetime

from agenttts.dispatch.attempts import Loss
from agenttts.files.documents import typed
from agenttts.run.progress import (
    NEVER_SUBMITTED,
    NOT_COUNTED,
    PREEMPTED,
    TrialProgress,
    WorkerProgress,
    planned_trial,
    worker_name,
)
from agenttts.run.rows import row_from_json
from agenttts.run.state import Extension, ProfileChange, RunState
from agenttts.tables.confidence import Confidence

log = logging.getLogger(__name__)

PROFILE_EVENTS = ("profile_changed", "profile_written")
EXTENSION_EVENTS = ("extended", "extension_written")


def apply_event(event: Mapping[str, Any], state: RunState) -> None:
    """Apply an event to the state of a run.

    Args:
        event: The event as it is in the journal: its name under ``event``, and its values.
        state: The state; it is changed.

    Raises:
        ValueError: The event is known, but its values are not valid.
        KeyError: As above.
        TypeError: As above.
    """
    kind = _EVENTS.get(event["event"])
    if kind is None:
        # A newer version may write events that this one does not know. They do not change the
        # meaning of the others.
        log.warning(
            "this version does not know an event of the journal, and ignores it: '%s'",
            event["event"],
        )
        return
    typed(kind, event).apply_to(state)


@dataclass(frozen=True)
class _Started:
    """A controller has started; ``seen`` is the last sign of the one before."""

    time: str
    seen: str | None = None

    def apply_to(self, state: RunState) -> None:
        state.started_at = state.started_at or self.time
        state.finished = None
        state.reopen()


@dataclass(frozen=True)
class _Resumed:
    def apply_to(self, state: RunState) -> None:
        """Forget how the run ended: a command is about to start its controller again."""
        state.finished = None


@dataclass(frozen=True)
class _Proposed:
    trials: list[dict[str, Any]]
    guidelines: list[str] | None = None

    def apply_to(self, state: RunState) -> None:
        for record in self.trials:
            planned = planned_trial(record)
            state.trials[planned.trial] = TrialProgress(planned)
        state.add_guidelines(self.guidelines or ())


@dataclass(frozen=True)
class _Submitting:
    batch: str
    trials: list[str]
    lists: list[list[str]] | None = None
    """The trials of each job; None if there is a job for each trial."""
    stays: bool = False
    """Whether the jobs are workers."""
    gpus: int = 0
    time: AwareDatetime | None = None
    upto: dict[str, int] = field(default_factory=dict)
    """For each trial of which only leading stages are drawn: how many."""

    def apply_to(self, state: RunState) -> None:
        lists = [[trial] for trial in self.trials] if self.lists is None else self.lists
        state.batches[self.batch] = lists
        for position, trials in enumerate(lists):
            for trial in trials:
                progress = state.trials[trial]
                progress.batch, progress.position = self.batch, position
                progress.together, progress.upto = len(trials), self.upto.get(trial)
                progress.submissions += 1
                progress.job_id = progress.lost_at = progress.assigned = None
            if self.stays:
                name = worker_name(self.batch, position)
                since = self.time.isoformat() if self.time else None
                state.workers[name] = WorkerProgress(
                    name, self.batch, self.gpus, trials=list(trials), since=since
                )


@dataclass(frozen=True)
class _Submitted:
    jobs: dict[str, str]

    def apply_to(self, state: RunState) -> None:
        for trial, job_id in self.jobs.items():
            progress = state.trials[trial]
            progress.job_id = job_id
            worker = state.workers.get(worker_name(progress.batch or "", progress.position))
            if worker is not None:
                worker.job_id = job_id


@dataclass(frozen=True)
class _Assigned:
    worker: str
    attempts: dict[str, int]
    """How many attempts each trial of the list has had; the trials are in the list's order."""
    seconds: float = 0.0
    """How long the list is expected to take; 0 if that is not known."""
    upto: dict[str, int] = field(default_factory=dict)
    """As in `_Submitting`."""

    def apply_to(self, state: RunState) -> None:
        worker = state.workers[self.worker]
        worker.lists += 1
        worker.trials, worker.seconds = list(self.attempts), self.seconds
        for trial, attempts in self.attempts.items():
            progress = state.trials[trial]
            progress.batch, progress.position = worker.batch, worker.position
            progress.job_id = worker.job_id
            progress.together, progress.assigned = len(self.attempts), attempts
            progress.upto = self.upto.get(trial)
            progress.submissions += 1
            progress.lost_at = None


@dataclass(frozen=True)
class _HandedOver:
    trials: dict[str, int]
    """For each trial that another job continues: the number of leading stages that are drawn."""

    def apply_to(self, state: RunState) -> None:
        for trial, drawn in self.trials.items():
            progress = state.trials[trial]
            # A job that hands a trial over does not count as an attempt.
            progress.submissions -= progress.batch is not None
            progress.batch = progress.job_id = progress.upto = None
            progress.drawn = drawn


@dataclass(frozen=True)
class _WorkersEnded:
    workers: list[str]

    def apply_to(self, state: RunState) -> None:
        for name in self.workers:
            state.workers.pop(name, None)


@dataclass(frozen=True)
class _Lost:
    trials: list[str]
    reason: str
    node: str | None = None
    node_fault: bool = False
    why: str | None = None
    time: AwareDatetime | None = None
    earlier: dict[str, int] = field(default_factory=dict)
    """For each trial that must run alone from now on: how many of its attempts do not count."""

    def apply_to(self, state: RunState) -> None:
        moment = self.time.isoformat() if self.time else None
        _note_loss(state, self.trials, self, self.why or "")
        for trial in self.trials:
            progress = state.trials[trial]
            progress.batch = progress.job_id = None
            progress.submissions -= self.reason in NOT_COUNTED
            progress.preemptions += self.reason == PREEMPTED
            if self.reason not in NOT_COUNTED:
                progress.lost_at = moment
        for trial, attempts in self.earlier.items():
            progress = state.trials[trial]
            progress.alone = True
            progress.submissions, progress.earlier_attempts = 0, attempts
        if self.reason == NEVER_SUBMITTED:
            state.unanswered_at = moment


@dataclass(frozen=True)
class _Avoiding:
    nodes: list[str]
    failed: str | None = None

    def apply_to(self, state: RunState) -> None:
        state.avoided = self.nodes
        state.avoid_failed = self.failed


@dataclass(frozen=True)
class _Strays:
    jobs: dict[str, str]

    def apply_to(self, state: RunState) -> None:
        state.strays |= self.jobs


@dataclass(frozen=True)
class _Finished:
    trial: str
    row: dict[str, Any]
    node: str | None = None
    node_fault: bool = False
    time: AwareDatetime | None = None

    def apply_to(self, state: RunState) -> None:
        row = row_from_json(self.row)
        _note_loss(state, [self.trial], self, row.error or "")
        state.trials[self.trial].row = self.row


def _note_loss(state: RunState, trials: Sequence[str], event: _Lost | _Finished, why: str) -> None:
    """Record the node on which a failure ended the jobs of trials, and the failure.

    An event without a node is not recorded.
    """
    if not event.node:
        return
    moment = event.time.isoformat() if event.time else ""
    for trial in trials:
        job = state.trials[trial].job_id or ""
        state.losses.append(Loss(trial, job, event.node, event.node_fault, moment, why))


@dataclass(frozen=True)
class _Told:
    iteration: int
    guidelines: list[str]
    recommended: list[dict[str, Any]] | None = None
    confidence: Confidence | None = None

    def apply_to(self, state: RunState) -> None:
        state.told = self.iteration + 1
        known = state.ever_told
        members = (
            name
            for name, progress in state.trials.items()
            if progress.planned.iteration == self.iteration and name not in known
        )
        state.tells.append(tuple(members))
        state.tell_again = {name for name in state.tell_again if state.trials[name].row is None}
        state.conclude(self.guidelines, self.recommended, self.confidence)


@dataclass(frozen=True)
class _ToldResults:
    trials: list[str]
    told: int
    """As in `RunState`."""
    guidelines: list[str]
    recommended: list[dict[str, Any]] | None = None
    confidence: Confidence | None = None

    def apply_to(self, state: RunState) -> None:
        state.tells.append(tuple(self.trials))
        state.tell_again -= set(self.trials)
        state.told = self.told
        state.conclude(self.guidelines, self.recommended, self.confidence)


@dataclass(frozen=True)
class _Finishing:
    guidelines: list[str]
    recommended: list[dict[str, Any]] | None = None
    confidence: Confidence | None = None

    def apply_to(self, state: RunState) -> None:
        state.finishing = True
        state.conclude(self.guidelines, self.recommended, self.confidence)


@dataclass(frozen=True)
class _Retried:
    earlier: dict[str, int]
    """For each trial that is tried again: how many of its attempts do not count."""

    def apply_to(self, state: RunState) -> None:
        for trial, attempts in self.earlier.items():
            state.trials[trial] = state.trials[trial].anew(attempts, retried=True)
        state.tell_again |= state.ever_told & self.earlier.keys()
        state.finished = None


@dataclass(frozen=True)
class _Rebuilt:
    def apply_to(self, state: RunState) -> None:
        """Do nothing; the event shows readers that the journal was rebuilt."""


@dataclass(frozen=True)
class _ProfileChanged(ProfileChange):
    def apply_to(self, state: RunState) -> None:
        """Remember the change until it is written to the run's files."""
        state.profile_change = self


@dataclass(frozen=True)
class _ProfileWritten:
    def apply_to(self, state: RunState) -> None:
        state.profile_change = None


@dataclass(frozen=True)
class _Extended(Extension):
    def apply_to(self, state: RunState) -> None:
        """Reopen the run; its closing trials become earlier closing trials."""
        state.extension = self
        state.finished = None
        state.finishing = False
        state.confidence = None  # it does not hold for the wider search
        state.concludes_anew = state.recommended is not None
        state.earlier_closing |= {p.planned.trial for p in state.closing}


@dataclass(frozen=True)
class _ExtensionWritten:
    trials: int
    """As in `Extension`."""

    def apply_to(self, state: RunState) -> None:
        state.extension = None


@dataclass(frozen=True)
class _Ended:
    outcome: str

    def apply_to(self, state: RunState) -> None:
        state.finished = self.outcome


class _Event(Protocol):
    def apply_to(self, state: RunState) -> None:
        """Apply the event to the state of the run."""


_EVENTS: Mapping[str, type[_Event]] = {
    "started": _Started,
    "resumed": _Resumed,
    "proposed": _Proposed,
    "submitting": _Submitting,
    "submitted": _Submitted,
    "assigned": _Assigned,
    "handed_over": _HandedOver,
    "workers_ended": _WorkersEnded,
    "lost": _Lost,
    "avoiding": _Avoiding,
    "strays": _Strays,
    "finished": _Finished,
    "told": _Told,
    "told_results": _ToldResults,
    "finishing": _Finishing,
    "ended": _Ended,
    "retried": _Retried,
    "rebuilt": _Rebuilt,
    "profile_changed": _ProfileChanged,
    "profile_written": _ProfileWritten,
    "extended": _Extended,
    "extension_written": _ExtensionWritten,
}
