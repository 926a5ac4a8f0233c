"""The state of a run, as the events of its journal make it.

*Closing* trials are those after the last iteration: the recommended allocation, finalists and final
test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agenttts.dispatch.attempts import Loss
from agenttts.run.progress import TrialProgress, WorkerProgress
from agenttts.space import Allocation
from agenttts.tables.confidence import Confidence
from agenttts.tables.schema import AFTER_SEARCH, CLOSING_SOURCES


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
    """The last iteration that was over when each of them was written; -1 for none."""
    recommended: list[dict[str, Any]] | None = None
    """The allocation that the searcher recommends so far, as records.

    None before any trial has a score, and in old journals.
    """
    confidence: Confidence | None = None
    """How sure the searcher is of this recommendation; None if that is not known."""
    finished: str | None = None
    """How the run ended: 'done', 'cancelled' or why it failed; None while it is not over."""
    finishing: bool = False
    """Whether the user ended the search early: its iterations are over."""
    started_at: str | None = None
    strays: dict[str, str] = field(default_factory=dict)
    """Jobs that belong to no unfinished trial and are cancelled: what each is, by its id."""
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
    concludes_anew: bool = False
    """Whether the run was extended and has concluded nothing since."""
    unanswered_at: str | None = None
    """When jobs were last recorded as never submitted (ISO 8601)."""

    def reopen(self) -> None:
        """Make trials unfinished again that were stopped when the run ended.

        A trial stays as it is if its iteration is over, or if the searcher was told its result,
        unless it was to be tried again.
        """
        known = self.ever_told
        for trial, progress in self.trials.items():
            cut_off = progress.row is not None and progress.row.get("state") == "CANCELLED"
            is_open = progress.planned.iteration >= self.told and trial not in known
            if cut_off and (is_open or progress.retried):
                self.trials[trial] = progress.anew(
                    progress.earlier_attempts, alone=progress.alone, retried=progress.retried
                )

    def add_guidelines(self, guidelines: Sequence[str]) -> None:
        """Take note of guidelines; events of older versions repeat the earlier ones."""
        for guideline in self.new_guidelines(guidelines):
            self.guidelines.append(guideline)
            self.guidelines_from[guideline] = self.told - 1

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
        self.concludes_anew = False
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
        known = self.ever_told
        part = known - self.tell_again
        rows = [t.row for name, t in self.trials.items() if t.row and name not in part]
        new = [r for r in rows if r.get("score") is not None and r["source"] not in AFTER_SEARCH]
        return len(new) if known else 0

    @property
    def ever_told(self) -> set[str]:
        """The trials of ``tells``."""
        return {trial for trials in self.tells for trial in trials}

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
