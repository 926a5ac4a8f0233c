"""Keep the jobs of a run off the nodes that failed its trials."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from agenttts.dispatch.attempts import Attempt, nodes_to_exclude, read_attempts
from agenttts.dispatch.base import Scheduler
from agenttts.errors import MissingRequirement
from agenttts.loop.workers import Workers
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import Journal
from agenttts.run.progress import TrialProgress

log = logging.getLogger(__name__)


class AvoidedNodes:
    """The nodes that jobs of a run avoid.

    Args:
        run: The run.
        journal: The run's journal.
        scheduler: Where the jobs are.
        workers: The run's workers.
    """

    def __init__(
        self, run: RunDirectory, journal: Journal, scheduler: Scheduler, workers: Workers
    ) -> None:
        self._run = run
        self._journal = journal
        self._scheduler = scheduler
        self._workers = workers
        self._avoided: tuple[str, ...] = ()
        # Slurm refused jobs that avoided these nodes, because no others were left.
        self._allowed_again: set[str] = set()
        # Whether a trial has failed since the last look, or perhaps before this controller.
        self._is_due = True
        # The attempts of trials that have ended.
        self._last_attempts: dict[str, list[Attempt]] = {}

    def look_again(self) -> None:
        """Let the next `keep_jobs_off` look at the trials again."""
        self._is_due = True

    def allow_again(self) -> tuple[str, ...]:
        """Stop avoiding the present nodes, because no others were left; return them."""
        self._allowed_again = set(self._avoided)
        return self._avoided

    def nodes(self) -> tuple[str, ...]:
        """Return the nodes that failed trials of this run; log them when they change."""
        trials = {
            name: self._attempts_of(progress)
            for name, progress in self._journal.state.trials.items()
            if progress.submissions
        }
        nodes = nodes_to_exclude(trials, datetime.now(UTC), self._journal.state.losses)
        if nodes != self._avoided:
            log.warning("jobs avoid the nodes: %s", ", ".join(nodes) or "none any more")
        self._avoided = nodes
        return nodes

    def for_new_jobs(self) -> tuple[str, ...]:
        """Return the nodes that new jobs exclude: none while Slurm would refuse such jobs."""
        nodes = self.nodes()
        return () if self._are_needed(nodes) else nodes

    def keep_jobs_off(self, jobs: Sequence[str]) -> None:
        """Keep waiting jobs off the nodes that failed.

        If this fails, a trial may at most lose an attempt on such a node. The failure is recorded,
        and the change is tried again when the next trial has ended or is tried again.

        Args:
            jobs: The jobs of trials that have not ended.
        """
        state = self._journal.state
        if not self._is_due:
            return
        self._is_due = False
        nodes = self.nodes()
        if self._scheduler.has_nodes and not self._allowed_again:
            self._workers.retire_on(nodes)
        unchanged = list(nodes) == state.avoided and state.avoid_failed is None
        if unchanged or self._are_needed(nodes):
            return
        failed = None
        changed: list[str] | None = []
        try:
            changed = self._scheduler.avoid(jobs, nodes)
        except MissingRequirement as error:
            log.warning("pending jobs may still run on %s: %s", ", ".join(nodes), error)
            failed = str(error)
        if changed is not None:
            self._journal.append("avoiding", nodes=list(nodes), jobs=changed, failed=failed)

    def _are_needed(self, nodes: Sequence[str]) -> bool:
        """Return whether jobs that avoid these nodes, or fewer, were refused."""
        return bool(self._allowed_again) and self._allowed_again <= set(nodes)

    def _attempts_of(self, progress: TrialProgress) -> list[Attempt]:
        """Return the attempts of a trial; those of a trial that has ended are read once."""
        name = progress.planned.trial
        known = self._last_attempts.get(name)
        if known is not None and progress.row is not None:
            return known
        attempts = read_attempts(self._run.trial(name))
        if progress.row is not None and all(attempt.finished for attempt in attempts):
            self._last_attempts[name] = attempts
        return attempts
