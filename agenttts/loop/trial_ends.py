"""Find out what follows for a trial whose job has ended or has drawn its stages.

The sources are the files of the trial and the state that the queue reports. Nothing is written;
`agenttts.loop.evaluation` records the result in the journal.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agenttts.dispatch.attempts import (
    HANDED_OVER,
    Attempt,
    count_state,
    read_attempts,
)
from agenttts.dispatch.base import JobStatus
from agenttts.dispatch.blame import Verdict
from agenttts.files.access import check_room
from agenttts.loop.collect import failed_row, finished_row
from agenttts.loop.verdicts import ends_its_job, last_word, look_anew, verdict_of
from agenttts.run.directory import Run
from agenttts.run.examples import ExamplesGuard
from agenttts.run.progress import (
    IN_SHARED_JOB,
    IN_SMALLER_JOB,
    NOT_TAKEN,
    PlannedTrial,
    TrialProgress,
)
from agenttts.tables.schema import TrialRow, TrialState
from agenttts.trial.part import read_part
from agenttts.trial.result import read_fault, read_result

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StagesDrawn:
    """The job has drawn the leading stages of the trial that it was for.

    Attributes:
        stages: Their number.
    """

    stages: int


@dataclass(frozen=True)
class TryAgain:
    """The trial is tried again.

    Attributes:
        reason: What ended, as the event `lost` has it.
        fields: Further fields of the event.
    """

    reason: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Over:
    """The trial has ended for good.

    Attributes:
        row: Its row of the table.
        fields: Further fields of the event `finished`.
    """

    row: TrialRow
    fields: Mapping[str, Any] = field(default_factory=dict)


class TrialEnds:
    """Judges the ends of a run's trials.

    Args:
        run: The run.
        settle_seconds: How long a result, or a job's own record, may take to appear on a shared
            file system after the queue says that its job has ended.
        gpus: Returns the number of GPUs that a trial needs.
        examples: Finds damage of the examples that trials are scored on.
    """

    def __init__(
        self,
        run: Run,
        settle_seconds: float,
        gpus: Callable[[PlannedTrial], int],
        examples: ExamplesGuard,
    ) -> None:
        self._run = run.directory
        self._samples = run.samples
        self._profile = run.profile
        self._settle_seconds = settle_seconds
        self._gpus = gpus
        self._examples = examples
        # When each job was first seen ended (monotonic clock).
        self._ended_since: dict[str, float] = {}

    def follows(
        self, progress: TrialProgress, status: JobStatus | None, *, is_last: bool, stays: bool
    ) -> StagesDrawn | TryAgain | Over | None:
        """Return what follows for a trial; None if nothing does yet.

        Args:
            progress: The trial.
            status: What the queue reports of its job; None without a job.
            is_last: Whether its job has no other trial that has not ended.
            stays: Whether its job stays for further trials.

        Raises:
            RunFailed: Its examples are damaged.
            OSError: Its job failed, and there is no room to store anything. So its end cannot be
                judged yet: it would count as an attempt, and the next one would fail as well.
        """
        # A job is COMPLETING while an epilog hangs. All that its trial wrote is there by then.
        runs = status is not None and not status.ended and not status.completing
        if runs:
            self._ended_since.pop(progress.job_id or "", None)
        directory = self._directory(progress)
        if status is None and not directory.exists():
            return None
        # A job of several trials runs on after the end of one. After the last one, a job that does
        # not stay closes its engines; until then it has its place in the queue.
        runs_on = stays or (progress.together > 1 and not is_last)
        if runs and not runs_on:
            return None
        look_anew(directory)
        # The job writes the result before the record. The record is read first here: where it is
        # seen, the result is there too.
        attempts = self.counted_attempts(progress)
        last = _last_of_job(progress, attempts)
        output = read_result(directory, patient=True)
        if output is not None:
            if runs and last is not None and last.finished is None:
                return None  # the job is about to record what the trial used
            return Over(finished_row(self._run.name, progress, output, directory))
        if status is None:
            return None
        if progress.upto is not None and _is_drawn(progress.upto, last, directory):
            # If the same worker gets the rest, the attempts so far are counted. So their record
            # has to be complete.
            if runs and (last is None or last.finished is None):
                return None
            return StagesDrawn(progress.upto)
        if not status.ended and not ends_its_job(last):
            return None
        return self._after_end(progress, status, attempts, last)

    def _after_end(
        self,
        progress: TrialProgress,
        status: JobStatus,
        attempts: Sequence[Attempt],
        last: Attempt | None,
    ) -> TryAgain | Over | None:
        """Return what follows the end of a trial's job that left no result."""
        given = progress.assigned is not None
        if given and last is None and status.ended and self._has_settled(progress):
            return TryAgain(NOT_TAKEN)  # its worker ended before it took the list
        word = last_word(last, status)
        is_told = word is not None and word.state not in (None, TrialState.COMPLETED)
        if not (status.never_started or is_told or self._has_settled(progress)):
            return None  # the job's record or its files may not be visible yet
        directory = self._directory(progress)
        verdict = verdict_of(last, status, directory)
        if not directory.exists():
            gone = f"its directory {directory} was removed"
            verdict = Verdict(TrialState.INFRA_FAILED, True, False, gone)
        if verdict.state in (TrialState.FAILED, TrialState.INFRA_FAILED):
            self._examples.check([progress])
        if verdict.state is TrialState.INFRA_FAILED:
            self._check_room()
        if self._may_lack_gpus(progress, verdict, last):
            return self._alone(progress, verdict, IN_SMALLER_JOB)
        if self._may_be_of_another_trial(progress, verdict):
            return self._alone(progress, verdict, IN_SHARED_JOB)
        node = _node_fields(verdict, status, word)
        if self._is_tried_again(progress, verdict, attempts, word):
            log.warning(
                "%s: %s (%s); it is started again",
                progress.planned.trial, verdict.state, verdict.explanation,
            )  # fmt: skip
            return TryAgain(str(verdict.state), {"why": verdict.explanation, **node})
        error = self._final_words(verdict, progress, attempts)
        return Over(failed_row(self._run.name, progress, verdict.state, error, directory), node)

    def _check_room(self) -> None:
        """Check that there is room for trials.

        Raises:
            OSError: A disk is full, or a quota is used up.
        """
        for place in (self._samples, self._run.path):
            try:
                check_room(place)
            except OSError as error:
                # What else fails here may work on the nodes: a sample store that is read-only here.
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise

    def counted_attempts(self, progress: TrialProgress) -> list[Attempt]:
        """Return the trial's attempts that count against its limits."""
        attempts = read_attempts(self._directory(progress), patient=True)
        return attempts[progress.earlier_attempts :]

    def _directory(self, progress: TrialProgress) -> Path:
        return self._run.trial(progress.planned.trial)

    def _has_settled(self, progress: TrialProgress) -> bool:
        """Return whether the files of a job that has ended are visible here by now."""
        since = self._ended_since.setdefault(progress.job_id or "", time.monotonic())
        return time.monotonic() - since >= self._settle_seconds

    def _alone(self, progress: TrialProgress, verdict: Verdict, reason: str) -> TryAgain:
        """Return that a trial gets a job of its own; its attempts so far no longer count."""
        trial = progress.planned.trial
        log.warning(
            "%s: it ended %s (%s: %s); it is started again in a job of its own",
            trial, reason, verdict.state, verdict.explanation,
        )  # fmt: skip
        earlier = len(read_attempts(self._directory(progress), patient=True))
        return TryAgain(reason, {"why": verdict.explanation, "earlier": {trial: earlier}})

    def _may_be_of_another_trial(self, progress: TrialProgress, verdict: Verdict) -> bool:
        """Return whether another trial of the same job may have caused this end.

        It may not if the trial recorded its own fault. For INFRA_FAILED without a faulty node, the
        machine counts as the cause of the first failure.
        """
        had_own_job = progress.together == 1 and progress.assigned is None
        if had_own_job or read_fault(self._directory(progress)) is not None:
            return False
        if verdict.state is TrialState.INFRA_FAILED:
            seen_before = progress.submissions >= min(2, self._profile.max_attempts)
            return seen_before and not verdict.exclude_node
        return verdict.state in (TrialState.FAILED, TrialState.OOM, TrialState.TIMEOUT)

    def _may_lack_gpus(
        self, progress: TrialProgress, verdict: Verdict, last: Attempt | None
    ) -> bool:
        """Return whether a trial may have failed because its job has too few GPUs for it.

        The job was to go on from stages that are drawn. If their samples are lost, it had to draw
        them again, with a model that does not fit.
        """
        if last is None or progress.upto is not None or not progress.drawn:
            return False
        failed = verdict.state in (TrialState.FAILED, TrialState.OOM)
        return failed and last.gpus < self._gpus(progress.planned)

    def _is_tried_again(
        self,
        progress: TrialProgress,
        verdict: Verdict,
        attempts: Sequence[Attempt],
        word: Attempt | None,
    ) -> bool:
        # A job at its time limit that was not requeued: the profile forbids it (`requeue: false`),
        # or the cluster refused. The trial goes on from its stored samples in another job.
        goes_on = (
            word is not None
            and word.stopped == "time limit"
            and count_state(attempts, TrialState.TIMEOUT) <= self._profile.max_timeouts
        )
        if not (verdict.retry or goes_on):
            return False
        if verdict.state is TrialState.PREEMPTED:
            return _times_preempted(progress, attempts) <= self._profile.max_preemptions
        if verdict.state is TrialState.TIMEOUT:
            return True
        return progress.submissions < self._profile.max_attempts

    def _final_words(
        self, verdict: Verdict, progress: TrialProgress, attempts: Sequence[Attempt]
    ) -> str:
        """Return why a trial is given up, and where to read more."""
        text = verdict.explanation
        if verdict.state is TrialState.PREEMPTED:
            times, most = _times_preempted(progress, attempts), self._profile.max_preemptions
            text += f" ({times} times; the profile's max_preemptions allows {most})"
        elif verdict.state is TrialState.INFRA_FAILED:
            failed = sum(attempt.state != HANDED_OVER for attempt in attempts)
            text += (
                f" (attempt {max(failed, progress.submissions)}; "
                f"max_attempts is {self._profile.max_attempts})"
            )
        return f"{text}; logs: {self._directory(progress)} and {self._run.scheduler_logs}"


def _last_of_job(progress: TrialProgress, attempts: Sequence[Attempt]) -> Attempt | None:
    """Return the last attempt of a trial if its present job made it.

    Attempts that a worker made before it was given the trial again do not count.
    """
    if progress.assigned is not None:
        attempts = attempts[max(0, progress.assigned - progress.earlier_attempts) :]
    return attempts[-1] if attempts and attempts[-1].job_id == progress.job_id else None


def _is_drawn(stages: int, last: Attempt | None, directory: Path) -> bool:
    """Return whether a job has drawn the leading stages that it was for."""
    recorded = last is not None and last.state == HANDED_OVER
    return recorded or read_part(directory, patient=True).stages >= stages


def _node_fields(verdict: Verdict, status: JobStatus, last: Attempt | None) -> dict[str, Any]:
    """Return the node of a failure of the cluster, and whether the node was at fault.

    They are fields of a journal event; none for other ends, and where the node is not known.
    """
    node = status.node or (last.node if last is not None else "")
    if verdict.state is not TrialState.INFRA_FAILED or not node:
        return {}
    return {"node": node, "node_fault": verdict.exclude_node}


def _times_preempted(progress: TrialProgress, attempts: Sequence[Attempt]) -> int:
    """Return how often a trial was preempted, this time included.

    It counts each time its job was started again or ended for good.
    """
    requeued = sum(
        attempt.state == TrialState.PREEMPTED
        and any(later.job_id == attempt.job_id for later in attempts[number:])
        for number, attempt in enumerate(attempts, start=1)
    )
    return requeued + progress.preemptions + 1
