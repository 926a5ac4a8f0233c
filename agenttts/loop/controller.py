"""The controller: continues the search of a run, and records how the run ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from agenttts.dispatch.base import QueueUnavailable
from agenttts.errors import AgentTTSError, MissingRequirement, RunFailed, cli_command
from agenttts.files.trouble import FilesUnavailable, passing_trouble
from agenttts.loop.evaluation import Evaluation
from agenttts.loop.reports import write_report
from agenttts.loop.search_loop import SearchLoop
from agenttts.run.directory import Run, RunGone
from agenttts.run.journal import Journal
from agenttts.run.profile_fix import with_profile_fix
from agenttts.run.starts import ControllerSign, RunCancelled, StartSuperseded
from agenttts.search.base import Searcher

log = logging.getLogger(__name__)


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
        self._run = run
        self._journal = journal
        self._evaluation = evaluation
        self._make_searcher = make_searcher

    @property
    def _path(self) -> Path:
        """The run's directory, for messages."""
        return self._run.directory.path

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
                asynchronous search.
        """
        # An error of a searcher that cannot be made leaves the run and its jobs as they are.
        search = SearchLoop(self._run, self._journal, self._evaluation, self._searcher)
        sign = ControllerSign(self._run.directory)
        seen = sign.last()  # of an earlier controller
        try:
            self._journal.append("started", **({"seen": seen} if seen else {}))
            with sign.given():
                self._search_to_the_end(search)
        except (AgentTTSError, OSError) as error:
            if passing_trouble(error) or isinstance(error, FilesUnavailable):
                self._let_go()
            raise
        finally:
            self._journal.close()

    def _search_to_the_end(self, search: SearchLoop) -> None:
        try:
            search.run()
        except RunCancelled:
            self.cancel("cancelled")
        except (AgentTTSError, OSError) as error:
            self._end_by(error)
        else:
            self._end_strays()
            self._end("done")

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
            fix = f"fix the cause, then run '{cli_command('resume', self._path)}'"
            ending: AgentTTSError = MissingRequirement(_what(error), fix=fix)
        else:
            ending = error
        # After `RunFailed`, the command that continues the run needs --retry-failed.
        outcome = with_profile_fix(
            str(ending), self._run.directory, retry=isinstance(ending, RunFailed)
        )
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
                f"{done.format(self._path)}: {_what(error)}",
                fix=f"fix the cause, then run '{cli_command('cancel', self._path)}' again",
            ) from error
        finally:
            self._journal.close()

    def _end(self, outcome: str, left: str = "") -> None:
        """Record how the run ended; ``left`` says what may still run."""
        # The report is written first. So whoever waits for the run's end finds it.
        write_report(self._run.directory, self._journal.state, outcome + left)
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
                f"'{cli_command('cancel', self._path)}' stops them"
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
                cli_command("cancel", self._path),
            )


def _what(error: AgentTTSError | OSError) -> str:
    """Return what an error says; for an error of the operating system, with its file."""
    if isinstance(error, MissingRequirement):
        return error.what
    if not isinstance(error, OSError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
