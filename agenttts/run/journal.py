"""The journal: every decision and result of the controller, in order.

Each line of the file is a JSON object, an event. Only the process with the run's lock writes it:
the controller, or a command while no controller runs. An event is on disk before anything follows
from it. So a controller that was killed can be replaced by one that reads the journal.

Two words: A job is *lost* if it ended without a result and its trials are tried again. *Closing*
trials are those after the last iteration: the recommended allocation, finalists and final test.
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
from agenttts.errors import UserError, cli_command
from agenttts.files.documents import typed
from agenttts.files.json_lines import JsonLinesFile, read_json_lines
from agenttts.run.rows import row_from_json
from agenttts.space import Allocation
from agenttts.tables.confidence import Confidence
from agenttts.tables.schema import AFTER_SEARCH, CLOSING_SOURCES

log = logging.getLogger(__name__)

NEVER_SUBMITTED = "never submitted"
NOT_TAKEN = "its worker ended before it took the list"
IN_SHARED_JOB = "in a job of several trials"
IN_SMALLER_JOB = "in a job with fewer GPUs than its largest model needs"
PREEMPTED = "PREEMPTED"
TIMEOUT = "TIMEOUT"
PROFILE_EVENTS = ("profile_changed", "profile_written")
EXTENSION_EVENTS = ("extended", "extension_written")
# Reasons for which a lost job does not count against the attempts of its trials.
_NOT_COUNTED = (NEVER_SUBMITTED, NOT_TAKEN, PREEMPTED, TIMEOUT, IN_SHARED_JOB, IN_SMALLER_JOB)


class DamagedJournal(UserError):
    """A line is not valid, or the journal is missing although the run has trials."""


@dataclass(frozen=True)
class PlannedTrial:
    """A trial as it was proposed.

    ``cost`` is in budget units. ``examples`` are the numbers of the examples that the trial is
    scored on, ascending. None means all.
    """

    trial: str
    iteration: int
    allocation: Allocation
    source: str
    reason: str
    cost: float
    examples: tuple[int, ...] | None = None


@dataclass
class TrialProgress:
    """How far a trial has come.

    Attributes:
        planned: The trial as it was proposed.
        submissions: Number of its jobs that count as attempts. A job does not count if it was lost
            for a reason in `_NOT_COUNTED`, or if it handed the trial over.
        batch: Token of the batch in which its job was submitted. None while it has no job.
        position: The position of its job in that batch.
        job_id: The id of its job; None while that is not known.
        together: Number of trials in its job.
        assigned: Number of its attempts when it was given to a worker that was already running.
            None if it was in the first list of its job.
        alone: Whether it must run in a job of its own. This is set after a failure that may have
            been caused by other trials of the job, or by too few GPUs.
        row: Its row of the table, once it has ended.
        preemptions: How many of its jobs were preempted.
        lost_at: When a failure that counts as an attempt last ended its job (ISO 8601); None after
            another submission.
        earlier_attempts: Number of its first attempts that count against no limit. These are the
            attempts before ``resume --retry-failed``, or before ``alone`` was set.
        upto: If its job only draws the samples of the first stages: how many stages these are. None
            if the job evaluates the whole trial.
        drawn: Number of its first stages whose samples earlier jobs have drawn.
        retried: Whether it is tried again, or was (``resume --retry-failed``).
    """

    planned: PlannedTrial
    submissions: int = 0
    batch: str | None = None
    position: int = 0
    job_id: str | None = None
    together: int = 1
    alone: bool = False
    assigned: int | None = None
    row: dict[str, Any] | None = None
    preemptions: int = 0
    lost_at: str | None = None
    earlier_attempts: int = 0
    upto: int | None = None
    drawn: int = 0
    retried: bool = False

    def anew(
        self, earlier_attempts: int, *, alone: bool = False, retried: bool = False
    ) -> TrialProgress:
        """Return the progress of a trial that is started again; ``drawn`` is kept."""
        return TrialProgress(
            self.planned,
            alone=alone,
            earlier_attempts=earlier_attempts,
            drawn=self.drawn,
            retried=retried,
        )


def worker_name(batch: str, position: int) -> str:
    """Return a worker's name, unique within the run; its directory has the same name."""
    return "-".join([*batch.rsplit("-", 2)[1:], str(position)])


@dataclass
class WorkerProgress:
    """A job that stays for further lists of trials.

    Attributes:
        name: The name of the worker.
        batch: Token of the batch in which it was submitted.
        gpus: Number of its GPUs.
        job_id: The id of its job; None while that is not known.
        lists: Number of the lists that it was given after its first list.
        trials: The trials of its last list.
        seconds: How long its last list is expected to take; 0 if that is not known.
        since: When it was submitted (ISO 8601); None if an older version submitted it.
    """

    name: str
    batch: str
    gpus: int
    job_id: str | None = None
    lists: int = 0
    trials: list[str] = field(default_factory=list)
    seconds: float = 0.0
    since: str | None = None

    @property
    def position(self) -> int:
        """The position of its job in its batch."""
        return int(self.name.rpartition("-")[2])


@dataclass(frozen=True)
class ProfileChange:
    """A corrected profile for a run, with the new content of the run's files.

    Attributes:
        cluster: The name or file of the profile.
        image: The container's image, as the run's spec names it.
        profile: The profile.
        record: The changed fields of ``run.json``.
        changes: For each changed key, its old and its new value.
    """

    cluster: str
    image: str | None
    profile: dict[str, Any]
    record: dict[str, Any]
    changes: dict[str, list[Any]]


@dataclass(frozen=True)
class Extension:
    """A wider search for a run, with the new content of the run's files.

    Attributes:
        sections: The changed sections of the run's spec.
        record: The changed fields of ``run.json``.
        changes: For each changed key, its old and its new value.
        trials: The number of the next trial.
    """

    sections: dict[str, Any]
    record: dict[str, Any]
    changes: dict[str, list[Any]]
    trials: int


@dataclass
class RunState:
    """The run's state according to the journal."""

    trials: dict[str, TrialProgress] = field(default_factory=dict)
    batches: dict[str, list[list[str]]] = field(default_factory=dict)
    """The trials of each job of a batch, by the batch's token."""
    workers: dict[str, WorkerProgress] = field(default_factory=dict)
    """The workers that, as far as is known, have not ended, by name."""
    told: int = 0
    """One more than the number of the last iteration that is over; at first 0.

    An iteration is over once the searcher has been told all results of that iteration.
    """
    tells: list[tuple[str, ...]] = field(default_factory=list)
    """The trials whose results the searcher has been told, in the order of telling."""
    tell_again: set[str] = field(default_factory=set)
    """The trials of ``tells`` that were to be tried again and have not been told since."""
    guidelines: list[str] = field(default_factory=list)
    """The findings that the search has written as sentences, oldest first."""
    guidelines_from: dict[str, int] = field(default_factory=dict)
    """The iteration after which each of them was written."""
    recommended: list[dict[str, Any]] | None = None
    """The allocation that the searcher recommends so far, as records.

    None before any trial has a score, and in old journals.
    """
    confidence: Confidence | None = None
    """How sure the searcher is of this recommendation; None if that is not known."""
    finished: str | None = None
    """How the run ended: 'done', 'cancelled' or why it failed; None while it is not over."""
    finishing: bool = False
    """Whether the user ended the search early: no more trials are proposed."""
    started_at: str | None = None
    strays: dict[str, str] = field(default_factory=dict)
    """Jobs that belong to no trial and are cancelled: a description of each, by its id."""
    avoided: list[str] = field(default_factory=list)
    """Nodes that new jobs avoid, because trials failed there."""
    avoid_failed: str | None = None
    """Why jobs that wait in the queue could not be kept off these nodes; None if they could."""
    losses: list[Loss] = field(default_factory=list)
    """Jobs that a failure ended on a known node."""
    profile_change: ProfileChange | None = None
    """A change of the profile that may not yet be in all files of the run."""
    extension: Extension | None = None
    """An extension that may not yet be in all files of the run."""
    earlier_closing: set[str] = field(default_factory=set)
    """The closing trials that the run had when it was extended."""
    unanswered_at: str | None = None
    """When jobs were last recorded as never submitted (ISO 8601)."""

    def apply(self, event: Mapping[str, Any]) -> None:
        """Apply one event.

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
        typed(kind, event).apply_to(self)

    def note_loss(self, trials: Sequence[str], event: _Lost | _Finished, why: str) -> None:
        """Record the node on which a failure ended the jobs of trials, and the failure.

        An event without a node is not recorded.
        """
        if not event.node:
            return
        moment = event.time.isoformat() if event.time else ""
        for trial in trials:
            job = self.trials[trial].job_id or ""
            self.losses.append(Loss(trial, job, event.node, event.node_fault, moment, why))

    def reopen(self) -> None:
        """Set the trials that `cancel` stopped back to unfinished.

        A trial stays as it is if its iteration is over, or if the searcher was told its result,
        unless it was to be tried again.
        """
        known = {trial for trials in self.tells for trial in trials}
        for trial, progress in self.trials.items():
            cut_off = progress.row is not None and progress.row.get("state") == "CANCELLED"
            is_open = progress.planned.iteration >= self.told and trial not in known
            if cut_off and (is_open or progress.retried):
                self.trials[trial] = progress.anew(
                    progress.earlier_attempts, alone=progress.alone, retried=progress.retried
                )

    def add_guidelines(self, guidelines: Sequence[str]) -> None:
        """Take note of guidelines; events of older versions repeat the earlier ones."""
        self.guidelines = [*self.guidelines, *self.new_guidelines(guidelines)]

    def new_guidelines(self, guidelines: Sequence[str]) -> list[str]:
        """Return the guidelines that are not noted yet."""
        known = set(self.guidelines)
        return [guideline for guideline in dict.fromkeys(guidelines) if guideline not in known]

    def conclude(
        self,
        guidelines: list[str],
        recommended: list[dict[str, Any]] | None,
        confidence: Confidence | None,
    ) -> None:
        """Record what the searcher concludes from the results that it has been told.

        If ``confidence`` is None and the recommendation is the same, the earlier confidence stays.
        """
        self.add_guidelines(guidelines)
        for guideline in self.guidelines:
            self.guidelines_from.setdefault(guideline, max(0, self.told - 1))
        if confidence is not None or recommended != self.recommended:
            self.confidence = confidence
        if recommended is not None:
            Allocation.from_records(recommended)
        self.recommended = recommended

    def scored_since(self) -> int:
        """Return how many trials have scored since the searcher was told results.

        The counted trials have no part in ``recommended`` and ``guidelines`` yet. Finalists and
        final tests are not counted. It is 0 if the searcher has been told nothing.
        """
        known = {trial for trials in self.tells for trial in trials}
        part = known - self.tell_again
        rows = [t.row for name, t in self.trials.items() if t.row and name not in part]
        new = [r for r in rows if r.get("score") is not None and r["source"] not in AFTER_SEARCH]
        return len(new) if known else 0

    @property
    def closing(self) -> list[TrialProgress]:
        """The closing trials, without ``earlier_closing``."""
        return [
            progress
            for name, progress in self.trials.items()
            if progress.planned.source in CLOSING_SOURCES and name not in self.earlier_closing
        ]

    def unfinished(self) -> list[TrialProgress]:
        """Return the trials that have not ended, in order."""
        return [t for t in self.trials.values() if t.row is None]


@dataclass(frozen=True)
class _Started:
    time: str

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
        state.note_loss(self.trials, self, self.why or "")
        for trial in self.trials:
            progress = state.trials[trial]
            progress.batch = progress.job_id = None
            progress.submissions -= self.reason in _NOT_COUNTED
            progress.preemptions += self.reason == PREEMPTED
            if self.reason not in _NOT_COUNTED:
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
        state.note_loss([self.trial], self, row.error or "")
        state.trials[self.trial].row = self.row


@dataclass(frozen=True)
class _Told:
    iteration: int
    guidelines: list[str]
    recommended: list[dict[str, Any]] | None = None
    confidence: Confidence | None = None

    def apply_to(self, state: RunState) -> None:
        state.told = self.iteration + 1
        known = {trial for trials in state.tells for trial in trials}
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
        state.tell_again |= {t for trials in state.tells for t in trials if t in self.earlier}
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
        self.state.apply(record)

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
            state.apply(event)
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

    def leave_out(number: int, problem: str) -> None:
        """Ignore a damaged line."""

    try:
        found = [event for _, event in read_json_lines(path, leave_out, unfinished=True)]
    except OSError:
        return []
    return [e for e in found if isinstance(e, dict) and isinstance(e.get("event"), str)]


def _rebuild(path: Path) -> str:
    return (
        f"make a new one from the trials' files with "
        f"'{cli_command('resume', path.parent, '--from-tables')}'"
    )


def planned_record(planned: PlannedTrial) -> dict[str, Any]:
    """Return a planned trial in the form of the journal."""
    record = {
        "trial": planned.trial,
        "iteration": planned.iteration,
        "allocation": planned.allocation.to_records(),
        "source": planned.source,
        "reason": planned.reason,
        "cost": planned.cost,
    }
    return record if planned.examples is None else {**record, "examples": list(planned.examples)}


def planned_trial(record: Mapping[str, Any]) -> PlannedTrial:
    """Return the planned trial of a record; the inverse of `planned_record`.

    Raises:
        ValueError: The record is not a planned trial.
        KeyError: As above.
        TypeError: As above.
    """
    allocation = Allocation.from_records(record["allocation"])
    return typed(PlannedTrial, {**record, "allocation": allocation})
