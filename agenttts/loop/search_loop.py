"""The loop of a search: propose, evaluate, tell, until no trial is needed.

Every decision is in the journal before it takes effect. So a new controller can continue after a
kill: it reads the finished trials, adopts the jobs that still run, and submits what is missing.

Closing trials are those after the last iteration: the recommended allocation, finalists and final
test. If a search is extended, the closing trials that it has are called earlier closing trials.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from agenttts.errors import RunFailed
from agenttts.inference.compaction import compact
from agenttts.loop.evaluation import Evaluation
from agenttts.loop.iterations import Iterations
from agenttts.loop.recorded_search import RecordedSearch
from agenttts.run.directory import Run
from agenttts.run.journal import Journal
from agenttts.run.progress import TrialProgress
from agenttts.run.rows import row_from_json
from agenttts.search.base import Proposal, Searcher
from agenttts.space import Allocation
from agenttts.tables.schema import (
    AFTER_SEARCH,
    FINALIST_SOURCE,
    OWN_FAULTS,
    RECOMMENDED_SOURCE,
    TEST_SOURCE,
    TrialState,
    trial_order,
)

log = logging.getLogger(__name__)


class SearchLoop:
    """Decides which trials run next, and has them run.

    Args:
        run: The run.
        journal: The journal that ``evaluation`` writes to.
        evaluation: Evaluates the proposed trials.
        searcher: Proposes them.
    """

    def __init__(
        self, run: Run, journal: Journal, evaluation: Evaluation, searcher: Searcher
    ) -> None:
        self._run = run.directory
        self._search = run.spec.search
        self._samples = run.samples
        self._state = journal.state
        self._evaluation = evaluation
        self._iterations = Iterations(journal.state, self._search, searcher.initial_batch)
        self._recorded = RecordedSearch(
            run, journal, self._iterations, searcher, evaluation.signs_meanwhile
        )
        # How many allocations are finalists, and how many are in the final test.
        self._finalists = self._search.finalists.top if self._search.finalists else 0
        self._tested = self._search.test_split.top if self._search.test_split else 0

    def run(self) -> None:
        """Continue the search until its last trial has ended.

        Raises:
            RunFailed: All trials of an iteration failed, or the last ``batch_size`` trials of an
                asynchronous search (see `_stop_if_all_failed`).
        """
        self._complete_earlier_closing()
        again = self._iterations.to_try_again()
        self._try_again([p for p in again if p.row is None])
        # The last controller may have been killed between writing a row to the journal and to the
        # table.
        self._evaluation.write_table()
        self._recorded.restore()
        if any(p.row for p in again):
            self._recorded.conclude(self._state.told - 1, final=not self._goes_on(again))
        if self._search.asynchronous:
            self._search_asynchronously()
        else:
            self._search_by_iterations()
        self._evaluation.release()
        self._try_recommended()
        if self._state.concludes_anew:  # an extension has added no trial
            self._recorded.conclude(self._state.told - 1, final=True)
        best = self._compare_finalists()
        self._after_search(TEST_SOURCE, best[: self._tested])
        self._evaluation.retire_workers()

    def _complete_earlier_closing(self) -> None:
        """Evaluate the finalists and final tests that were unfinished at an extension."""
        state = self._state
        left = [state.trials[name] for name in sorted(state.earlier_closing, key=trial_order)]
        for source in AFTER_SEARCH:
            trials = [p for p in left if p.row is None and p.planned.source == source]
            if trials:
                self._evaluation.evaluate(trials, iteration_follows=True)

    def _try_again(self, trials: Sequence[TrialProgress]) -> None:
        """Evaluate trials again; in an asynchronous search they go with the others."""
        if not trials or self._search.asynchronous:
            return
        self._evaluate(trials)
        searched = (p for p in trials if p.planned.source != RECOMMENDED_SOURCE)
        for iteration in sorted({p.planned.iteration for p in searched}):
            self._stop_if_all_failed(_every(iteration), self._iterations.trials(iteration))

    def _search_by_iterations(self) -> None:
        """Propose an iteration when all trials of the last one have ended."""
        for iteration in self._iterations.to_come():
            trials = self._iterations.trials(iteration)
            if not trials and (self._finishing() or self._sure_enough()):
                break
            trials = trials or self._recorded.propose(iteration)
            if not trials:
                log.info("every allocation of the space has been tried")
                break
            self._evaluate(trials)
            self._recorded.tell(iteration, trials)
            self._stop_if_all_failed(_every(iteration), trials)
            self._compact_samples()

    def _search_asynchronously(self) -> None:
        """Propose a trial as soon as another one has ended.

        A trial still has the number of an iteration: every ``batch_size`` trials get a new one.
        """
        size, initial = self._search.batch_size, self._iterations.initial
        while True:
            searched = len(self._iterations.proposed())
            under_way = self._iterations.under_way()
            if not any(p.row for p in under_way):
                finishing = self._finishing()
                at_once = size if searched >= initial else initial
                room = min(at_once - len(under_way), self._iterations.trials_to_come())
                sure = self._sure_enough()
                if finishing or sure:
                    room = 0
                proposed = self._recorded.propose_some(room)
                under_way += proposed
                if not under_way:
                    return
                # Fewer proposals than asked for: every allocation has been tried.
                last = sure or len(proposed) < room
                self._evaluate(under_way, last=last)
            before = self._state.told
            self._recorded.tell_some([p for p in under_way if p.row is not None])
            if self._state.told > before:
                self._compact_samples()
            self._stop_if_the_last_failed()

    def _evaluate(self, trials: Sequence[TrialProgress], *, last: bool = False) -> None:
        """Evaluate trials of the search; if it is asynchronous, until another one ends.

        Args:
            trials: The trials.
            last: Whether it is known that no trials of the search follow.
        """
        more = not last and self._goes_on(trials)
        self._evaluation.evaluate(
            trials,
            iteration_follows=more,
            trials_follow=more or self._scores_again,
            until_one_ends=self._search.asynchronous,
        )

    def _goes_on(self, trials: Sequence[TrialProgress]) -> bool:
        """Return whether the search may go on when ``trials`` have ended."""
        if self._asked_to_finish or self._state.closing:
            return False
        if self._search.asynchronous:
            return self._iterations.trials_to_come() > 0
        numbers = {p.planned.iteration for p in trials}
        return any(iteration not in numbers for iteration in self._iterations.to_come())

    @property
    def _scores_again(self) -> bool:
        """Whether allocations are scored again after the search."""
        return self._finalists > 0 or self._tested > 0

    @property
    def _asked_to_finish(self) -> bool:
        return self._state.finishing or self._run.finish_file.exists()

    def _finishing(self) -> bool:
        """Return whether the user ended the search early; record it the first time."""
        if self._asked_to_finish and not self._state.finishing:
            self._recorded.finish()
            log.info("the search ends early, as the user asked: no further iteration is proposed")
        return self._state.finishing

    def _sure_enough(self) -> bool:
        """Return whether no more trials are needed.

        This is so if the recommendation is good enough, or if there are closing trials already.
        """
        stop, found = self._search.stop, self._state.confidence
        if self._state.closing:
            return True
        if stop is None or found is None or found.within > stop.within:
            return False
        if found.probability < stop.confidence:
            return False
        log.info(
            "the search ends early, as the spec allows: the recommended allocation is %s", found
        )
        return True

    def _try_recommended(self) -> None:
        """Run the trials that the final recommendation needs."""
        if not self._iterations.closing(RECOMMENDED_SOURCE):
            if any(map(self._iterations.closing, (FINALIST_SOURCE, TEST_SOURCE))):
                return  # an earlier controller found that none is needed
            proposals = self._recorded.last_proposals(tried=self._finishing())
            if not proposals:
                return
            lowest = self._iterations.first + self._search.iterations
            self._recorded.plan(max(lowest, self._iterations.next_number()), proposals)
        trials = self._iterations.closing(RECOMMENDED_SOURCE)
        iteration = trials[0].planned.iteration
        again = bool(self._iterations.to_try_again())
        self._evaluation.evaluate(trials, iteration_follows=False, trials_follow=self._scores_again)
        if iteration >= self._state.told or again:
            self._recorded.tell(iteration, trials, final=True)

    def _compare_finalists(self) -> list[Allocation]:
        """Run the finalists, and return the scored allocations, best first.

        Finalists come first, by their scores on more examples. The others follow, ranked by their
        scores in the search. The searcher is not told the finalists' results.
        """
        ranked = self._recorded.ranked()
        trials = self._after_search(FINALIST_SOURCE, ranked[: self._finalists])
        scores = {p.planned.allocation: row_from_json(p.row) for p in trials if p.row}

        def place(allocation: Allocation) -> tuple[float, float]:
            row = scores.get(allocation)
            if row is None or row.score is None:
                # After those with a score, ranked as before (sorting is stable).
                return (math.inf, 0.0)
            return (-row.score, row.budget)

        return sorted(ranked, key=place)

    def _after_search(self, source: str, allocations: Sequence[Allocation]) -> list[TrialProgress]:
        """Evaluate allocations as closing trials of ``source``, and return these trials.

        If a controller has planned such trials already, those are evaluated.
        """
        if not self._iterations.closing(source) and allocations:
            ranked = enumerate(allocations, 1)
            self._recorded.plan(
                self._iterations.next_number(),
                [Proposal(a, source, f"number {rank} so far") for rank, a in ranked],
                what=source,
            )
        trials = self._iterations.closing(source)
        if trials:
            further = source == FINALIST_SOURCE and self._tested > 0
            self._evaluation.evaluate(trials, iteration_follows=False, trials_follow=further)
        return trials

    def _compact_samples(self) -> None:
        """Keep look-ups fast: every engine call of every trial lists the shards."""
        try:
            compact(self._samples)
        except OSError as error:
            log.warning(
                "the files of the sample store %s could not be merged: %s", self._samples, error
            )

    def _stop_if_the_last_failed(self) -> None:
        """Raise `RunFailed` if the last ``batch_size`` trials failed.

        These are the last in the order of proposal, among the trials that have ended. See
        `_stop_if_all_failed`.
        """
        known, size = self._iterations.told(), self._search.batch_size
        ended = [p for p in self._iterations.proposed() if p.planned.trial in known]
        if len(ended) >= max(size, self._iterations.initial):
            last = f"the last {size} trials all" if size > 1 else "the last trial"
            self._stop_if_all_failed(last, ended[-size:])

    def _stop_if_all_failed(self, which: str, trials: Sequence[TrialProgress]) -> None:
        """Raise `RunFailed` if none of the trials has a score.

        The search goes on if the allocations of these trials are to blame and another trial has a
        score.

        Args:
            which: Describes the trials in the message.
            trials: The trials.
        """
        rows = [row_from_json(t.row) for t in trials if t.row]
        if any(row.state is TrialState.COMPLETED for row in rows):
            return
        everything = [row_from_json(t.row) for t in self._state.trials.values() if t.row]
        if any(row.state is TrialState.COMPLETED for row in everything) and all(
            row.state in OWN_FAULTS for row in rows
        ):
            return
        raise RunFailed(f"{which} failed; the first: {rows[0].error}")


def _every(iteration: int) -> str:
    return f"every trial of iteration {iteration}"
