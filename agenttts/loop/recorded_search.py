"""The searcher of a run, with its proposals and conclusions in the run's journal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from itertools import groupby
from typing import Any

from agenttts.errors import counted
from agenttts.loop.iterations import Iterations
from agenttts.loop.search_end import concluded, last_proposals, ranked
from agenttts.loop.told_results import told_results
from agenttts.run.directory import Run
from agenttts.run.journal import Journal
from agenttts.run.progress import PlannedTrial, TrialProgress
from agenttts.search.base import Proposal, Searcher, TrialResult
from agenttts.space import Allocation
from agenttts.tables.schema import RECOMMENDED_SOURCE

log = logging.getLogger(__name__)

WITHIN = 0.02
"""Used in place of ``stop.within`` to compute the confidence, if the spec does not set it."""


class RecordedSearch:
    """Asks a searcher and tells it results, and records both in the journal.

    Args:
        run: The run.
        journal: Its journal.
        iterations: Its iterations.
        searcher: The searcher.
        while_asking: Makes a context for the time in which the searcher computes.
    """

    def __init__(
        self,
        run: Run,
        journal: Journal,
        iterations: Iterations,
        searcher: Searcher,
        while_asking: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._run = run.directory
        self._stop = run.spec.search.stop
        self._main_metric = run.record.main_metric
        self._journal = journal
        self._state = journal.state
        self._iterations = iterations
        self._searcher = searcher
        self._while_asking = while_asking

    def restore(self) -> None:
        """Bring a new searcher to the state that the journal records.

        The searcher is told the same results in the same order as its predecessor. Of a trial that
        was tried again, it is told only the last result.
        """
        state = self._state
        known = self._iterations.told()
        last = {name: number for number, names in enumerate(state.tells) for name in names}
        with self._while_asking():
            for number, names in enumerate(state.tells):
                trials = [state.trials[n] for n in names if n in known and last[n] == number]
                self._add_pending(trials)
                self._searcher.tell(self._results(trials))
        self._add_pending([p for p in self._iterations.searched() if p.planned.trial not in known])
        self._searcher.archive.write_guidelines(state.guidelines)

    def _add_pending(self, trials: Sequence[TrialProgress]) -> None:
        """Register trials that an earlier searcher of this run has proposed."""
        for progress in trials:
            self._searcher.add_pending([progress.planned.allocation], progress.planned.examples)

    def propose(self, iteration: int) -> list[TrialProgress]:
        """Propose the trials of an iteration and return them."""
        self.plan(iteration, self._ask(self._iterations.size(iteration)))
        return self._iterations.trials(iteration)

    def propose_some(self, room: int) -> list[TrialProgress]:
        """Propose up to ``room`` trials and return them."""
        planned: list[TrialProgress] = []
        while len(planned) < room:
            position = len(self._iterations.proposed())
            iteration, left = self._iterations.upcoming()
            proposals = self._ask(min(room - len(planned), left))
            if not proposals:
                log.info("every allocation of the space has been tried")
                break
            self.plan(iteration, proposals)
            planned += self._iterations.proposed()[position:]
        return planned

    def last_proposals(self, *, tried: bool) -> list[Proposal]:
        """Return the trials that the final recommendation needs.

        If the recommended allocation was not tried, it is tried. If trials are scored on some of
        the examples, the recommended allocation and its rivals are scored on common examples.

        Args:
            tried: Whether only allocations may be proposed that were tried.
        """
        if tried and self._searcher.fidelity is None:
            return []
        return last_proposals(self._searcher, tried=tried)

    def _ask(self, number: int) -> list[Proposal]:
        with self._while_asking():
            return self._searcher.propose(number)

    def plan(self, iteration: int, proposals: Sequence[Proposal], what: str = "") -> None:
        """Record the trials of proposals.

        Args:
            iteration: Number of the trials' iteration.
            proposals: The proposals.
            what: Name of the trials in the log; default: the iteration.
        """
        number = 1 + max((int(t.lstrip("t")) for t in self._state.trials), default=-1)
        planned = [
            PlannedTrial(
                trial=f"t{number + position:04}",
                iteration=iteration,
                allocation=proposal.allocation,
                source=proposal.source,
                reason=proposal.reason,
                cost=self._searcher.space.cost(proposal.allocation),
                examples=self._examples_of(proposal),
            )
            for position, proposal in enumerate(proposals)
        ]
        if planned:
            self._journal.propose(planned, self._searcher.guidelines())
            trials = counted(len(planned), "trial")
            log.info("%s: %s", what or f"iteration {iteration}", trials)

    def _examples_of(self, proposal: Proposal) -> tuple[int, ...] | None:
        """Return the examples that a trial is scored on; None: all.

        A trial of an iteration also gets the examples of earlier trials of its allocation. Their
        samples are stored already.
        """
        if proposal.examples is None or proposal.source == RECOMMENDED_SOURCE:
            return proposal.examples
        seen = self._searcher.archive.examples_of(proposal.allocation)
        return tuple(sorted({*seen, *proposal.examples}))

    def tell(self, iteration: int, trials: Sequence[TrialProgress], *, final: bool = False) -> None:
        """Tell the searcher an iteration's results, and record its conclusions.

        With ``final``, what is recorded as recommended is an allocation that was tried.
        """
        self._tell_results(trials)
        self.conclude(iteration, final=final or self._state.finishing)

    def conclude(self, iteration: int, *, final: bool) -> None:
        """Record that an iteration's results were told, and the conclusions."""
        recommended = self._concluded() if final else self._searcher.best()
        self._journal.append("told", iteration=iteration, **self._conclusions(recommended))

    def tell_some(self, trials: Sequence[TrialProgress]) -> None:
        """Tell the searcher the results of trials, and record its conclusions.

        For searches that propose a trial as soon as another one has ended.
        """
        self._tell_results(trials)
        told = before = self._state.told
        known = self._iterations.told() | {p.planned.trial for p in trials}
        proposed = self._iterations.proposed()
        # An iteration is over if all its trials are known and all earlier iterations are over. The
        # iteration of the next trial is not over.
        upcoming, _ = self._iterations.upcoming()
        for iteration, members in groupby(proposed, lambda p: p.planned.iteration):
            if iteration == upcoming or any(p.planned.trial not in known for p in members):
                break
            told = max(told, iteration + 1)
        finishing = self._state.finishing
        recommended = self._concluded() if finishing else self._searcher.best()
        # The confidence takes CPU time. So it is not computed within an iteration, unless the
        # search may stop by it, the user has ended the search, or all trials so far are told.
        all_known = all(p.planned.trial in known for p in proposed)
        asked = finishing or told > before or self._stop is not None or all_known
        self._journal.append(
            "told_results",
            trials=[p.planned.trial for p in trials],
            told=told,
            **self._conclusions(recommended, confident=asked),
        )

    def finish(self) -> None:
        """Record that the user ended the search early.

        From then on, only allocations that were tried are recommended.
        """
        self._journal.append("finishing", **self._conclusions(self._concluded()))

    def ranked(self) -> list[Allocation]:
        """Return the recommended allocation, then the other scored ones, best first."""
        return ranked(self._searcher, self._concluded())

    def _tell_results(self, trials: Sequence[TrialProgress]) -> None:
        with self._while_asking():
            self._searcher.tell(self._results(trials))

    def _results(self, trials: Sequence[TrialProgress]) -> list[TrialResult]:
        """Return the results of trials in their order, with their stored results."""
        return [
            result
            for progress in trials
            for result in told_results(
                progress,
                self._run.trial(progress.planned.trial),
                self._main_metric,
                self._searcher.space,
            )
        ]

    def _concluded(self) -> Allocation | None:
        """Return the recommendation after the search."""
        last = self._iterations.closing(RECOMMENDED_SOURCE)
        common = {example for p in last for example in p.planned.examples or ()}
        return concluded(self._searcher, common)

    def _conclusions(
        self, recommended: Allocation | None, *, confident: bool = True
    ) -> dict[str, Any]:
        """Return the conclusions in the form of the journal.

        Args:
            recommended: The recommended allocation.
            confident: Whether to compute how sure the searcher is of it.
        """
        return {
            "guidelines": self._searcher.guidelines(),
            "recommended": recommended.to_records() if recommended else None,
            "confidence": self._confidence(recommended) if recommended and confident else None,
        }

    def _confidence(self, recommended: Allocation) -> dict[str, Any] | None:
        with self._while_asking():
            found = self._searcher.confidence(
                recommended, self._stop.within if self._stop else WITHIN
            )
        return None if found is None else asdict(found)
