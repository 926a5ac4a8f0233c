"""The iterations of a search: which trials they have, and which are to come."""

from __future__ import annotations

from agenttts.run.progress import TrialProgress
from agenttts.run.state import RunState
from agenttts.spec import SearchSection
from agenttts.tables.schema import AFTER_SEARCH, RECOMMENDED_SOURCE


class Iterations:
    """The iterations of a run, according to its state.

    Args:
        state: The state of the run, which changes with its journal.
        search: The section of the spec.
        initial: Number of trials that the searcher wants in the initial batch; 0 if none.
    """

    def __init__(self, state: RunState, search: SearchSection, initial: int) -> None:
        self._state = state
        self._count = search.iterations
        self._batch_size = search.batch_size
        self._initial = initial
        self.first = 1 if initial else 0
        """The number of the first iteration after the initial batch."""

    @property
    def initial(self) -> int:
        """Number of trials of the initial batch; 0 without one.

        In a search that was extended the searcher may want more of them. A batch that is over keeps
        its size.
        """
        if self._initial == 0 or self._state.told == 0:
            return self._initial
        return sum(p.planned.iteration == 0 for p in self.proposed())

    def size(self, iteration: int) -> int:
        """Return how many trials an iteration is to have."""
        return self._batch_size if iteration >= self.first else self.initial

    def searched(self) -> list[TrialProgress]:
        """Return all trials but finalists and final tests."""
        trials = self._state.trials.values()
        return [p for p in trials if p.planned.source not in AFTER_SEARCH]

    def proposed(self) -> list[TrialProgress]:
        """Return the trials of iterations, without closing trials."""
        return [p for p in self.searched() if p.planned.source != RECOMMENDED_SOURCE]

    def under_way(self) -> list[TrialProgress]:
        """Return the trials of an asynchronous search that the searcher has not been told.

        Trials of a recommended allocation are among them if the run was extended before they were
        told.
        """
        told, earlier = self.told(), self._state.earlier_closing
        return [
            p
            for p in self.searched()
            if p.planned.trial not in told
            and (p.planned.source != RECOMMENDED_SOURCE or p.planned.trial in earlier)
        ]

    def trials(self, iteration: int) -> list[TrialProgress]:
        """Return the trials of an iteration, without finalists and final tests."""
        return [p for p in self.searched() if p.planned.iteration == iteration]

    def closing(self, source: str) -> list[TrialProgress]:
        """Return the closing trials of a source, without earlier closing trials."""
        return [p for p in self._state.closing if p.planned.source == source]

    def told(self) -> set[str]:
        """Return the trials whose results the searcher has been told.

        A trial that is tried again is left out until it has ended again.
        """
        trials = self._state.trials
        return {trial for trial in self._state.ever_told if trials[trial].row is not None}

    def to_try_again(self) -> list[TrialProgress]:
        """Return the trials that the user wants tried again (``resume --retry-failed``).

        The searcher has been told that they failed. If they have ended again, a controller was
        killed before it recorded what the searcher concludes from that.
        """
        again = self._state.tell_again
        return [p for p in self.searched() if p.planned.trial in again]

    def to_come(self) -> list[int]:
        """Return the numbers of the iterations that are not over.

        These are iterations of which the searcher has not been told, then iterations to propose.
        Iterations of closing trials are left out, with one exception: the iteration in which the
        recommended allocation was tried is kept if the run was extended before the searcher was
        told the result.
        """
        told = self._state.ever_told
        closing = {p.planned.trial for p in self._state.closing}
        untold = {
            p.planned.iteration
            for p in self.searched()
            if p.planned.trial not in told and p.planned.trial not in closing
        }
        proposed = {p.planned.iteration for p in self.proposed()}
        new = self.next_number()
        left = self.first + self._count - len(proposed)
        return [*sorted(untold), *range(new, new + left)]

    def trials_to_come(self) -> int:
        """Return how many trials an asynchronous search may still propose."""
        return self.initial + self._count * self._batch_size - len(self.proposed())

    def next_number(self) -> int:
        """Return the number after the highest that an iteration has used."""
        trials = self._state.trials.values()
        return 1 + max((p.planned.iteration for p in trials), default=-1)

    def upcoming(self) -> tuple[int, int]:
        """Return the iteration of the next trial, and how many more trials fit in it.

        For an asynchronous search.

        If closing trials had run before an extension, the iterations up to them get no more trials,
        even if they are not full.
        """
        numbers = [p.planned.iteration for p in self.proposed()]
        if len(numbers) < self.initial:
            return 0, self.initial - len(numbers)
        last = numbers[-1] if numbers else self.first - 1
        earlier = self._state.earlier_closing
        after = max((self._state.trials[name].planned.iteration for name in earlier), default=-1)
        left = self._batch_size - numbers.count(last)
        if last >= max(self.first, after + 1) and left > 0:
            return last, left
        return max(last, self.first - 1, after) + 1, self._batch_size
