"""Trials as jobs on Slurm: arrays where the cluster has them, single jobs where it has not."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from agenttts.dispatch.base import JobStatus, SubmitLimitReached, Work
from agenttts.dispatch.node.job import TrialJob
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.slurm.batch_script import log_message, named_node
from agenttts.dispatch.slurm.node_lists import excluded, is_file
from agenttts.dispatch.slurm.pickles import Pickles
from agenttts.dispatch.slurm.queue import (
    cancel_jobs,
    job_rows,
    job_states,
    keep_off,
    lives,
    rows_with_comment,
    run_slurm,
    set_name_and_comment,
)
from agenttts.dispatch.slurm.queue_reader import QueueRow
from agenttts.dispatch.slurm.request import JobNeeds
from agenttts.dispatch.slurm.stuck_jobs import PatientQueue
from agenttts.dispatch.slurm.submission import outer_environment, slurm_executor, submission_errors

# Beyond this many elements a label each would burden slurmctld more than it helps the reader.
_LABELS = 200
# Which trial of its batch a single job is.
_ELEMENT = "element="


class SlurmDispatcher:
    """`Dispatcher` for ``kind: slurm``: each `submit` is one array, one element a trial, or single jobs without arrays.

    An array is submitted whole or not at all; of single jobs those before the one that is refused are, and `find` finds
    them. After a batch that a submit limit refused, `capacity` asks for half as many, and for more again as they are taken.
    Slurm throttles an array, not jobs beside each other: while trials live, no more are submitted than the throttle lets run.

    A job that waits for what will not come by itself is cancelled after the profile's patience; `poll` then says so.
    """

    def __init__(self, profile: Profile, folder: Path) -> None:
        self._profile = profile
        self._folder = folder
        self._live = 0
        # Trials that may live at once, as far as a submit limit has told.
        self._limit = profile.max_pending
        self._queue = PatientQueue(profile.never_patience_minutes * 60)

    def capacity(self, live: int) -> int:
        self._live = live
        room = min(self._limit, self._profile.max_pending) - live
        if live or not self._arrays:
            room = min(room, self._profile.throttle - live)
        return max(0, min(room, self._max_array) if self._arrays else room)

    def submit(self, batch: str, works: Sequence[Work]) -> dict[str, str]:
        try:
            if self._arrays or len(works) == 1:
                ids = self._submit_array(batch, works)
            else:
                ids = self._submit_singly(batch, works)
        except SubmitLimitReached:
            self._limit = max(1, self._live + len(works) // 2)
            raise
        self._live += len(works)
        # Others' jobs may have ended: a little more is tried than was taken.
        self._limit = max(self._limit, self._live + max(1, len(works) // 2))
        return ids

    def find(self, batch: str, works: Sequence[Work]) -> dict[str, str]:
        found: dict[str, str] = {}
        for job, row in rows_with_comment(f"batch={batch}").items():
            position = _position(job, row)
            if position < len(works):
                found[works[position].trial] = job
        return found

    def withdraw(self, batch: str, works: Sequence[Work], trials: Collection[str]) -> None:
        pickles = Pickles(self._folder, batch)
        for position, work in enumerate(works):
            if work.trial in trials:
                pickles.withdraw(position)

    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        return {job: self._told(job, found) for job, found in self._queue.poll(job_ids).items()}

    def strays(self, token: str, known: Collection[str]) -> dict[str, str]:
        rows = rows_with_comment(re.compile(rf"batch={re.escape(token)}-\d+"))
        return {
            job: f"{row.state}, {row.comment}"
            for job, row in rows.items()
            if job not in known and lives(row)
        }

    def avoid(self, job_ids: Iterable[str], nodes: Sequence[str]) -> list[str] | None:
        rows = job_rows(job_ids)
        waiting = [job for job, row in rows.items() if row is not None and row.state == "PENDING"]
        trial = self._profile.trial
        if not is_file(trial.exclude):  # scontrol takes names alone
            keep_off(waiting, excluded(trial.exclude, trial.nodelist, nodes) or "")
        return waiting

    def cancel(self, job_ids: Iterable[str]) -> None:
        ids = [job for job, status in job_states(job_ids).items() if not status.ended]
        if ids:
            cancel_jobs(ids)

    @cached_property
    def _max_array(self) -> int:
        """The elements that one array may have; 1 where the cluster takes no arrays. Asked when it is first needed: a
        slurmctld that is silent for a moment is then waited for as at any other question."""
        return max(1, _max_array_size())

    @property
    def _arrays(self) -> bool:
        return self._max_array > 1

    def _told(self, job: str, status: JobStatus) -> JobStatus:
        """A job's status, with what its log says of why it did not start."""
        if status.state in ("FAILED", "COMPLETED"):
            said = log_message(self._folder, job)
            if said:
                node = status.node or named_node(said)
                return replace(status, detail=said, never_started=True, node=node)
        return status

    def _submit_array(self, batch: str, works: Sequence[Work]) -> dict[str, str]:
        name = works[0].name.partition("-")[2] or works[0].name
        comment = f"agenttts batch={batch}"
        jobs = self._submit_jobs(batch, 0, name, comment, works)
        ids = {work.trial: job for work, job in zip(works, jobs, strict=True)}
        if len(works) <= _LABELS:
            for work in works:
                label = f"{work.comment} batch={batch}"
                if not set_name_and_comment(ids[work.trial], name=work.name, comment=label):
                    break  # labels are for readers, and each that is not answered takes a minute
        return ids

    def _submit_singly(self, batch: str, works: Sequence[Work]) -> dict[str, str]:
        ids: dict[str, str] = {}
        for position, work in enumerate(works):
            comment = f"{work.comment} batch={batch} {_ELEMENT}{position}"
            [ids[work.trial]] = self._submit_jobs(batch, position, work.name, comment, [work])
        return ids

    def _submit_jobs(
        self, batch: str, first: int, name: str, comment: str, works: Sequence[Work]
    ) -> list[str]:
        profile = self._profile
        exclude = tuple(sorted({node for work in works for node in work.exclude}))
        needs = JobNeeds(name, comment, works[0].gpus, profile.grace_seconds, exclude=exclude)
        executor = slurm_executor(
            self._folder, profile, profile.trial, needs, array_parallelism=profile.throttle
        )
        jobs = [TrialJob.of(work, profile) for work in works]
        with submission_errors(len(works)), outer_environment():
            return executor.submit_each(jobs, batch, first)


def _position(job: str, row: QueueRow) -> int:
    """Which trial of its batch a job is: an array's element by its index, a single job by its comment, else the only one."""
    _, _, index = job.partition("_")
    marks = [word for word in row.comment.split() if word.startswith(_ELEMENT)]
    number = index or (marks[-1].removeprefix(_ELEMENT) if marks else "")
    return int(number) if number.isdecimal() else 0


def _max_array_size() -> int:
    """How many elements an array may have (slurm.conf(5), MaxArraySize: the greatest index is one less)."""
    for line in run_slurm(["scontrol", "show", "config"]).splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize" and value.strip().isdigit():
            return int(value)
    return 1001  # Slurm's default
