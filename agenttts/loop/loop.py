"""The loop of a search: propose, evaluate and tell, until the search is over.

Every decision is in the journal before it takes effect. So a new controller can continue after a
kill: it reads the finished trials, adopts the jobs that still run, and submits what is missing.

Closing trials are those after the last iteration: the recommended allocation, finalists and final
test. If a search is extended, the closing trials that it has are called earlier closing trials.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import groupby
from typing import Any, NoReturn

from agenttts.dispatch.base import QueueUnavailable
from agenttts.errors import AgentTTSError, MissingRequirement, RunFailed, cli_command
from agenttts.files.trouble import FilesUnavailable, passing_trouble
from agenttts.inference.compaction import compact
from agenttts.loop.evaluation import Evaluation
from agenttts.loop.reports import write_report
from agenttts.loop.search_end import concluded, last_proposals, ranked
from agenttts.loop.told_results import told_results
from agenttts.run.directory import Run, RunGone
from agenttts.run.journal import Journal
from agenttts.run.profile_fix import with_profile_fix
from agenttts.run.progress import PlannedTrial, TrialProgress
from agenttts.run.rows import row_from_json
from agenttts.run.starts import RunCancelled, StartSuperseded
from agenttts.search.base import Proposal, Searcher, TrialResult
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

WITHIN = 0.02
"""Used in place of ``stop.within`` to compute the confidence, if the spec does not set it."""


class Controller:
    """Runs one search to its end.

    Args:
        run: The run.
        journal: The journal that ``evaluation`` writes to.
        evaluation: Evaluates the proposed trials.
        make_searcher: Makes the searcher.
    """

    def __init__(
        self,
        run: Run,
        journal: Journal,
        evaluation: Evaluation,
        make_searcher: Callable[[], Searcher],
    ) -> None:
        self._run = run.directory
        self._search = run.spec.search
        self._main_metric = run.record.main_metric
        self._samples = run.samples
        self._journal = journal
        self._evaluation = evaluation
        self._make_searcher = make_searcher
        # How many allocations are finalists, and how many are in the final test.
        self._finalists = self._search.finalists.top if self._search.finalists else 0
        self._tested = self._search.test_split.top if self._search.test_split else 0

    @cached_property
    def _searcher(self) -> Searcher:
        """What proposes allocations.

        It is made when it is first used. So a run whose searcher's files or packages are gone can
        still be cancelled.
        """
        return self._make_searcher()

    def run(self) -> None:
        """Continue the run until it is over.

        A cancelled run ends as cancelled, without an error. An error that ends the run is recorded
        and raised again, e.g. if a partition refuses the jobs. The run's jobs are then cancelled,
        because no controller would collect their results.

        Trouble that may pass does not end the run, nor does a newer start of a controller. The
        error is raised, and the jobs keep running. Another controller continues from the journal
        (`agenttts.loop.controller_job.patiently`).

        Raises:
            RunFailed: All trials of an iteration failed, or the last ``batch_size`` trials of an
                asynchronous search (see `_stop_if_all_failed`).
        """
        # An error of a searcher that cannot be made leaves the run and its jobs as they are.
        first = 1 if self._searcher.initial_batch else 0
        try:
            self._journal.append("started")
            try:
                self._run_search(first)
            except RunCancelled:
                self.cancel("cancelled")
            except (AgentTTSError, OSError) as error:
                self._end_by(error)
            else:
                self._end_strays()
                self._end("done")
        except (AgentTTSError, OSError) as error:
            if passing_trouble(error) or isinstance(error, FilesUnavailable):
                self._let_go()
            raise
        finally:
            self._journal.close()

    def _end_by(self, error: AgentTTSError | OSError) -> NoReturn:
        """End the run by an error and raise it.

        The run does not end if another controller may continue it. If the run's directory is gone,
        `RunGone` is raised instead. An error of the operating system is raised as a
        `MissingRequirement` with its file and a fix.
        """
        unavailable = (QueueUnavailable, FilesUnavailable, StartSuperseded)
        if passing_trouble(error) or isinstance(error, unavailable):
            raise error  # jobs may keep running, and the next controller adopts them
        try:
            self._evaluation.check_run(patience=0)
        except RunGone as gone:
            self._evaluation.abandon(f"the run ended: {gone}")
            self._journal.append("ended", outcome=str(gone))
            raise
        if isinstance(error, OSError):
            fix = f"fix the cause, then run '{cli_command('resume', self._run.path)}'"
            ending: AgentTTSError = MissingRequirement(_what(error), fix=fix)
        else:
            ending = error
        # After `RunFailed`, the command that continues the run needs --retry-failed.
        outcome = with_profile_fix(str(ending), self._run, retry=isinstance(ending, RunFailed))
        self._end(outcome, self._cancel_jobs(f"the run ended: {ending}"))
        if ending is error:
            raise error
        raise ending from error

    def _let_go(self) -> None:
        """Release the served model.

        The next controller may be on another host, where it would not find a process of this one.
        """
        try:
            self._evaluation.release()
        except (AgentTTSError, OSError) as error:
            log.warning("the served model could not be released: %s", error)

    def _run_search(self, first: int) -> None:
        state = self._journal.state
        self._complete_earlier_closing()
        again = self._to_try_again()
        left = [p for p in again if p.row is None]
        if left and not self._search.asynchronous:
            self._evaluate(left, first)
            searched = (p for p in left if p.planned.source != RECOMMENDED_SOURCE)
            for iteration in sorted({p.planned.iteration for p in searched}):
                self._stop_if_all_failed(_every(iteration), self._trials_of(iteration))
        self._restore()
        if any(p.row for p in again):
            self._write_told(state.told - 1, final=not self._goes_on(first, again))
        if self._search.asynchronous:
            self._search_asynchronously(first)
        else:
            self._search_by_iterations(first)
        self._evaluation.release()
        self._try_recommended(first + self._search.iterations)
        best = self._compare_finalists()
        self._after_search(TEST_SOURCE, best[: self._tested])
        self._evaluation.retire_workers()

    def _to_try_again(self) -> list[TrialProgress]:
        """Return the trials that the user wants tried again (``resume --retry-failed``).

        The searcher has been told that they failed. If they have ended again, a controller was
        killed before it recorded what the searcher concludes from that.
        """
        again = self._journal.state.tell_again
        return [p for p in self._searched() if p.planned.trial in again]

    def _complete_earlier_closing(self) -> None:
        """Evaluate the finalists and final tests that were unfinished at an extension."""
        state = self._journal.state
        left = [state.trials[name] for name in sorted(state.earlier_closing, key=trial_order)]
        for source in AFTER_SEARCH:
            trials = [p for p in left if p.row is None and p.planned.source == source]
            if trials:
                self._evaluation.evaluate(trials, iteration_follows=True)

    def _iterations_to_come(self, first: int) -> list[int]:
        """Return the numbers of the iterations that are not over.

        These are iterations of which the searcher has not been told, then iterations to propose.
        Iterations of closing trials are left out, with one exception: the iteration in which the
        recommended allocation was tried is kept if the run was extended before the searcher was
        told the result.

        Args:
            first: The number of the first iteration after the initial batch.
        """
        state = self._journal.state
        told = {trial for trials in state.tells for trial in trials}
        closing = {p.planned.trial for p in state.closing}
        untold = {
            p.planned.iteration
            for p in self._searched()
            if p.planned.trial not in told and p.planned.trial not in closing
        }
        proposed = {p.planned.iteration for p in self._proposed()}
        new = self._next_number()
        left = first + self._search.iterations - len(proposed)
        return [*sorted(untold), *range(new, new + left)]

    def _next_number(self) -> int:
        """Return the number after the highest that an iteration has used."""
        trials = self._journal.state.trials.values()
        return 1 + max((p.planned.iteration for p in trials), default=-1)

    def _search_by_iterations(self, first: int) -> None:
        """Propose an iteration when all trials of the last one have ended.

        Args:
            first: The number of the first iteration after the initial batch.
        """
        for iteration in self._iterations_to_come(first):
            size = self._search.batch_size if iteration >= first else self._searcher.initial_batch
            trials = self._trials_of(iteration)
            if not trials and (self._finishing() or self._sure_enough()):
                break
            trials = trials or self._propose(iteration, size)
            if not trials:
                log.info("every allocation of the space has been tried")
                break
            self._evaluate(trials, first)
            self._tell(iteration, trials)
            self._stop_if_all_failed(_every(iteration), trials)
            self._compact_samples()

    def _search_asynchronously(self, first: int) -> None:
        """Propose a trial as soon as another one has ended.

        A trial still has the number of an iteration: every ``batch_size`` trials get a new one.

        Args:
            first: The number of the first iteration after the initial batch.
        """
        size, initial = self._search.batch_size, self._searcher.initial_batch
        while True:
            known = self._known()
            searched = self._proposed()
            under_way = [p for p in searched if p.planned.trial not in known]
            if not any(p.row for p in under_way):
                finishing = self._finishing()
                at_once = size if len(searched) >= initial else initial
                room = min(at_once - len(under_way), self._trials_to_come())
                sure = self._sure_enough()
                if finishing or sure:
                    room = 0
                proposed = self._propose_some(room, first)
                under_way += proposed
                if not under_way:
                    return
                # Fewer proposals than asked for: every allocation has been tried.
                last = sure or len(proposed) < room
                self._evaluate(under_way, first, last=last)
            ended = [p for p in under_way if p.row is not None]
            with self._evaluation.signs_meanwhile():
                self._searcher.tell(self._results(ended))
            self._write_told_results(ended, first)
            self._stop_if_the_last_failed()

    def _trials_to_come(self) -> int:
        """Return how many trials an asynchronous search may still propose."""
        total = self._searcher.initial_batch + self._search.iterations * self._search.batch_size
        return total - len(self._proposed())

    def _evaluate(self, trials: Sequence[TrialProgress], first: int, *, last: bool = False) -> None:
        """Evaluate trials of the search; if it is asynchronous, until another one ends.

        Args:
            trials: The trials.
            first: The number of the first iteration after the initial batch.
            last: Whether it is known that no trials of the search follow.
        """
        more = not last and self._goes_on(first, trials)
        self._evaluation.evaluate(
            trials,
            iteration_follows=more,
            trials_follow=more or self._scores_again,
            until_one_ends=self._search.asynchronous,
        )

    def _goes_on(self, first: int, trials: Sequence[TrialProgress]) -> bool:
        """Return whether the search may go on when ``trials`` have ended."""
        if self._asked_to_finish or self._journal.state.closing:
            return False
        if self._search.asynchronous:
            return self._trials_to_come() > 0
        numbers = {p.planned.iteration for p in trials}
        return any(iteration not in numbers for iteration in self._iterations_to_come(first))

    @property
    def _asked_to_finish(self) -> bool:
        return self._journal.state.finishing or self._run.finish_file.exists()

    def _finishing(self) -> bool:
        """Return whether the user ended the search early; record it the first time.

        From then on, only allocations that were tried are recommended.
        """
        if self._asked_to_finish and not self._journal.state.finishing:
            recommended = self._concluded()
            self._journal.append(
                "finishing",
                guidelines=self._searcher.guidelines(),
                recommended=recommended.to_records() if recommended else None,
                confidence=self._confidence(recommended),
            )
            log.info("the search ends early, as the user asked: no more trials are proposed")
        return self._journal.state.finishing

    def _propose_some(self, room: int, first: int) -> list[TrialProgress]:
        """Propose up to ``room`` trials and return them."""
        planned: list[TrialProgress] = []
        while len(planned) < room:
            position = len(self._proposed())
            iteration, left = self._next_iteration(first)
            with self._evaluation.signs_meanwhile():
                proposals = self._searcher.propose(min(room - len(planned), left))
            if not proposals:
                log.info("every allocation of the space has been tried")
                break
            self._plan(iteration, proposals)
            planned += self._proposed()[position:]
        return planned

    def _sure_enough(self) -> bool:
        """Return whether no more trials are needed.

        This is so if the recommendation is good enough, or if there are closing trials already.
        """
        stop, found = self._search.stop, self._journal.state.confidence
        if self._journal.state.closing:
            return True
        if stop is None or found is None or found.within > stop.within:
            return False
        if found.probability < stop.confidence:
            return False
        log.info(
            "the search ends early, as the spec allows: the recommended allocation is %s", found
        )
        return True

    def _next_iteration(self, first: int) -> tuple[int, int]:
        """Return the iteration of the next trial, and how many more trials fit in it.

        If closing trials had run before an extension, the iterations up to them get no more trials,
        even if they are not full.
        """
        size, initial = self._search.batch_size, self._searcher.initial_batch
        searched = [p.planned.iteration for p in self._proposed()]
        if len(searched) < initial:
            return 0, initial - len(searched)
        last = searched[-1] if searched else first - 1
        state = self._journal.state
        ends = (state.trials[name].planned.iteration for name in state.earlier_closing)
        after = max(ends, default=-1)
        left = size - searched.count(last)
        if last >= max(first, after + 1) and left > 0:
            return last, left
        return max(last, first - 1, after) + 1, size

    def _known(self) -> set[str]:
        """Return the trials whose results the searcher has been told.

        A trial that is tried again is left out until it has ended again.
        """
        state = self._journal.state
        told = {trial for trials in state.tells for trial in trials}
        return {trial for trial in told if state.trials[trial].row is not None}

    def cancel(self, reason: str) -> None:
        """Cancel the run's jobs, and record the end of the run.

        No other controller of the run may be running.
        """
        done = "some jobs of {} may still run"
        try:
            self._evaluation.cancel_jobs()
            done = "the jobs of {} are cancelled, but the cancel cannot be recorded"
            self._evaluation.record_cancelled(reason)
            self._end(reason)
        except QueueUnavailable:
            raise
        except (MissingRequirement, OSError) as error:
            raise MissingRequirement(
                f"{done.format(self._run.path)}: {_what(error)}",
                fix=f"fix the cause, then run '{cli_command('cancel', self._run.path)}' again",
            ) from error
        finally:
            self._journal.close()

    def _end(self, outcome: str, left: str = "") -> None:
        """Record how the run ended; ``left`` says what may still run."""
        # The report is written first. So whoever waits for the run's end finds it.
        write_report(self._run, self._journal.state, outcome + left)
        self._journal.append("ended", outcome=outcome + left)

    def _cancel_jobs(self, reason: str) -> str:
        """Cancel the jobs of a run that ends by an error.

        Returns:
            An empty text, or a text for the user if the jobs could not be cancelled.
        """
        try:
            self._evaluation.cancel_jobs()
            self._evaluation.record_cancelled(reason)
        except (AgentTTSError, OSError) as error:
            log.error("the run's jobs could not be cancelled: %s", error)
            return (
                f"; its jobs may still run ({error}): "
                f"'{cli_command('cancel', self._run.path)}' stops them"
            )
        return ""

    def _end_strays(self) -> None:
        """Cancel jobs of the run that belong to no unfinished trial.

        A failure is only logged, because the run's results are complete.
        """
        try:
            self._evaluation.end_strays()
        except AgentTTSError as error:
            log.warning(
                "remaining jobs of this run could not be listed: %s; '%s' tries again",
                error,
                cli_command("cancel", self._run.path),
            )

    def _restore(self) -> None:
        """Bring a new searcher to the state that the journal records.

        The searcher is told the same results in the same order as its predecessor. Of a trial that
        was tried again, it is told only the last result.
        """
        state = self._journal.state
        known = self._known()
        last = {name: number for number, names in enumerate(state.tells) for name in names}
        with self._evaluation.signs_meanwhile():
            for number, names in enumerate(state.tells):
                trials = [state.trials[n] for n in names if n in known and last[n] == number]
                self._add_pending(trials)
                self._searcher.tell(self._results(trials))
        self._add_pending([p for p in self._searched() if p.planned.trial not in known])
        # The last controller may have been killed between writing a row to the journal and to the
        # table.
        self._evaluation.write_table()
        self._searcher.archive.write_guidelines(self._journal.state.guidelines)

    def _add_pending(self, trials: Sequence[TrialProgress]) -> None:
        """Register trials that an earlier searcher of this run has proposed."""
        for progress in trials:
            self._searcher.add_pending([progress.planned.allocation], progress.planned.examples)

    def _try_recommended(self, iteration: int) -> None:
        """Run the trials that the final recommendation needs (`last_proposals`).

        If the recommended allocation was not tried, it is tried. If trials are scored on some of
        the examples, the recommended allocation and its rivals are scored on common examples.

        Args:
            iteration: The lowest number for the iteration of these trials.
        """
        if not self._trials_from(RECOMMENDED_SOURCE):
            if self._trials_from(FINALIST_SOURCE) or self._trials_from(TEST_SOURCE):
                return  # an earlier controller found that none is needed
            finishing = self._finishing()
            if finishing and self._searcher.fidelity is None:
                return
            proposals = last_proposals(self._searcher, tried=finishing)
            if not proposals:
                return
            self._plan(max(iteration, self._next_number()), proposals)
        trials = self._trials_from(RECOMMENDED_SOURCE)
        iteration = trials[0].planned.iteration
        again = bool(self._to_try_again())
        self._evaluation.evaluate(trials, iteration_follows=False, trials_follow=self._scores_again)
        if iteration >= self._journal.state.told or again:
            self._tell(iteration, trials, final=True)

    @property
    def _scores_again(self) -> bool:
        """Whether allocations are scored again after the search."""
        return self._finalists > 0 or self._tested > 0

    def _trials_of(self, iteration: int) -> list[TrialProgress]:
        return [p for p in self._searched() if p.planned.iteration == iteration]

    def _searched(self) -> list[TrialProgress]:
        """Return all trials but finalists and final tests."""
        trials = self._journal.state.trials.values()
        return [p for p in trials if p.planned.source not in AFTER_SEARCH]

    def _compare_finalists(self) -> list[Allocation]:
        """Run the finalists, and return the scored allocations, best first.

        Finalists come first, by their scores on more examples. The others follow, ranked by their
        scores in the search. The searcher is not told the finalists' results.
        """
        ranked = self._ranked()
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
        if not self._trials_from(source) and allocations:
            ranked = enumerate(allocations, 1)
            self._plan(
                self._next_number(),
                [Proposal(a, source, f"number {rank} so far") for rank, a in ranked],
                what=source,
            )
        trials = self._trials_from(source)
        if trials:
            further = source == FINALIST_SOURCE and self._tested > 0
            self._evaluation.evaluate(trials, iteration_follows=False, trials_follow=further)
        return trials

    def _proposed(self) -> list[TrialProgress]:
        """Return the trials of iterations, without closing trials."""
        return [p for p in self._searched() if p.planned.source != RECOMMENDED_SOURCE]

    def _trials_from(self, source: str) -> list[TrialProgress]:
        """Return the closing trials of a source, without earlier closing trials."""
        return [p for p in self._journal.state.closing if p.planned.source == source]

    def _ranked(self) -> list[Allocation]:
        """Return the recommended allocation, then the other scored ones, best first."""
        return ranked(self._searcher, self._concluded())

    def _concluded(self) -> Allocation | None:
        """Return the recommendation after the search."""
        last = self._trials_from(RECOMMENDED_SOURCE)
        common = {example for p in last for example in p.planned.examples or ()}
        return concluded(self._searcher, common)

    def _propose(self, iteration: int, size: int) -> list[TrialProgress]:
        with self._evaluation.signs_meanwhile():
            proposals = self._searcher.propose(size)
        self._plan(iteration, proposals)
        return self._trials_of(iteration)

    def _plan(self, iteration: int, proposals: Sequence[Proposal], what: str = "") -> None:
        """Record the trials of proposals.

        Args:
            iteration: Number of the trials' iteration.
            proposals: The proposals.
            what: Name of the trials in the log; default: the iteration.
        """
        number = 1 + max((int(t.lstrip("t")) for t in self._journal.state.trials), default=-1)
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
            log.info("%s: %d trials", what or f"iteration {iteration}", len(planned))

    def _examples_of(self, proposal: Proposal) -> tuple[int, ...] | None:
        """Return the examples that a trial is scored on; None: all.

        A trial of an iteration also gets the examples of earlier trials of its allocation. Their
        samples are stored already.
        """
        if proposal.examples is None or proposal.source == RECOMMENDED_SOURCE:
            return proposal.examples
        seen = self._searcher.archive.examples_of(proposal.allocation)
        return tuple(sorted({*seen, *proposal.examples}))

    def _tell(
        self, iteration: int, trials: Sequence[TrialProgress], *, final: bool = False
    ) -> None:
        """Tell the searcher the results of trials.

        With ``final``, what is recorded as recommended is an allocation that was tried.
        """
        with self._evaluation.signs_meanwhile():
            self._searcher.tell(self._results(trials))
        self._write_told(iteration, final=final or self._journal.state.finishing)

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

    def _write_told_results(self, trials: Sequence[TrialProgress], first: int) -> None:
        """Record that the searcher was told the results of trials, and what it concludes.

        Args:
            trials: The trials.
            first: The number of the first iteration after the initial batch.
        """
        told = before = self._journal.state.told
        known = self._known() | {p.planned.trial for p in trials}
        # An iteration is over if all its trials are known and all earlier iterations are over. The
        # iteration of the next trial is not over.
        upcoming, _ = self._next_iteration(first)
        for iteration, members in groupby(self._proposed(), lambda p: p.planned.iteration):
            if iteration == upcoming or any(p.planned.trial not in known for p in members):
                break
            told = max(told, iteration + 1)
        finishing = self._journal.state.finishing
        recommended = self._concluded() if finishing else self._searcher.best()
        # The confidence takes CPU time. So it is not computed within an iteration, unless the
        # search may stop by it, the user has ended the search, or all trials so far are told.
        all_known = all(p.planned.trial in known for p in self._proposed())
        asked = finishing or told > before or self._search.stop or all_known
        self._journal.append(
            "told_results",
            trials=[p.planned.trial for p in trials],
            told=told,
            guidelines=self._searcher.guidelines(),
            recommended=recommended.to_records() if recommended else None,
            confidence=self._confidence(recommended) if asked else None,
        )
        if told > before:
            self._compact_samples()

    def _confidence(self, recommended: Allocation | None) -> dict[str, Any] | None:
        """Return how sure the searcher is of a recommendation, for the journal."""
        if recommended is None:
            return None
        stop = self._search.stop
        with self._evaluation.signs_meanwhile():
            found = self._searcher.confidence(recommended, stop.within if stop else WITHIN)
        return None if found is None else asdict(found)

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
        known, size = self._known(), self._search.batch_size
        ended = [p for p in self._proposed() if p.planned.trial in known]
        if len(ended) >= max(size, self._searcher.initial_batch):
            last = f"the last {size} trials all" if size > 1 else "the last trial"
            self._stop_if_all_failed(last, ended[-size:])

    def _write_told(self, iteration: int, *, final: bool) -> None:
        """Record that an iteration's results were told, and the conclusions."""
        recommended = self._concluded() if final else self._searcher.best()
        self._journal.append(
            "told",
            iteration=iteration,
            guidelines=self._searcher.guidelines(),
            recommended=recommended.to_records() if recommended else None,
            confidence=self._confidence(recommended),
        )

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
        everything = [row_from_json(t.row) for t in self._journal.state.trials.values() if t.row]
        if any(row.state is TrialState.COMPLETED for row in everything) and all(
            row.state in OWN_FAULTS for row in rows
        ):
            return
        raise RunFailed(f"{which} failed; the first: {rows[0].error}")


def _every(iteration: int) -> str:
    return f"every trial of iteration {iteration}"


def _what(error: AgentTTSError | OSError) -> str:
    """Return what an error says; for an error of the operating system, with its file."""
    if isinstance(error, MissingRequirement):
        return error.what
    if not isinstance(error, OSError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
