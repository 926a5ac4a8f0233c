"""The workers of a run: the jobs that stay for further lists of trials.

The journal says which workers there are and what they were given. What the queue says of them, and
since when, is kept in memory only; a new controller begins with cautious values.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from agenttts.dispatch.attempts import read_attempts
from agenttts.dispatch.base import JobStatus, JobTrial
from agenttts.dispatch.node.mailbox import GivenList, Mailbox
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import Journal, TrialProgress, WorkerProgress

log = logging.getLogger(__name__)

_SIGN_S = 20.0
"""Most seconds between two signs to a worker that waits."""
_SIGNS = 4
"""Signs that a worker gets at least in the time that it stays without one."""


@dataclass(frozen=True)
class LiveWorker:
    """A worker that has not ended, as the planner of lists sees it.

    Attributes:
        progress: What the journal says.
        state: ``pending``: in the queue; ``busy``: it has trials; ``idle``: it waits for a list.
        runs_for: Seconds since its job started; 0 while it is pending.
        waits_for: Seconds since its job was submitted, while it is pending; else since it became
            idle, while it is idle.
        busy_until: Seconds from now until its trials are expected to end; 0 if it has none.
    """

    progress: WorkerProgress
    state: Literal["pending", "busy", "idle"]
    runs_for: float = 0.0
    waits_for: float = 0.0
    busy_until: float = 0.0


@dataclass
class _Sight:
    """What was seen of a worker; moments are of the monotonic clock.

    Attributes:
        submitted: When its job was submitted.
        watched: Whether this controller has seen it pending, or has submitted it.
        started: When its job started; None while it is pending.
        idle_since: Since when it waits for a list; None while it has trials.
        ends: When its trials are expected to end; None if that is not known.
        signed: When it was last given a sign.
        retired: Whether it was told to end.
        ending: Whether its program has ended.
    """

    submitted: float
    watched: bool = False
    started: float | None = None
    idle_since: float | None = None
    ends: float | None = None
    signed: float | None = None
    retired: bool = False
    ending: bool = False


@dataclass
class Workers:
    """The workers of one run.

    Args:
        run: The run's directory.
        journal: The run's journal.
        stays_for: Seconds that a worker stays without a sign.
        waits: Seconds in the queue of the workers that have started, in order. Only those that this
            controller has seen pending.
    """

    run: RunDirectory
    journal: Journal
    stays_for: float
    waits: list[float] = field(default_factory=list)
    _seen: dict[str, _Sight] = field(default_factory=dict)

    def by_job(self) -> dict[str, WorkerProgress]:
        """Return the workers that are not known to have ended, by their jobs."""
        workers = self.journal.state.workers.values()
        return {worker.job_id: worker for worker in workers if worker.job_id is not None}

    def running(self) -> list[str]:
        """Return the jobs of workers whose programs have not ended.

        The node of a program that has ended may still be cleaned up, which can take long.
        """
        jobs = self.by_job().items()
        return [job for job, worker in jobs if not self._sight(worker).ending]

    def observe(self, statuses: Mapping[str, JobStatus]) -> None:
        """Take note of what the queue says; record the workers that have ended.

        Args:
            statuses: The states of jobs, by id; those of workers may be among them.
        """
        workers = self.by_job()
        now = time.monotonic()
        busy = {trial.job_id for trial in self.journal.state.unfinished()}
        for job, worker in workers.items():
            if job in statuses:
                self._note(self._sight(worker), statuses[job], job in busy, now)
        ended = [workers[job].name for job in workers if job in statuses and statuses[job].ended]
        if ended:
            self.journal.append("workers_ended", workers=ended)
        for name in ended:
            self._seen.pop(name, None)

    def _sight(self, worker: WorkerProgress) -> _Sight:
        if worker.name not in self._seen:
            now, age = time.monotonic(), 0.0
            if worker.since is not None:
                since = datetime.fromisoformat(worker.since)
                age = max(0.0, (datetime.now(UTC) - since).total_seconds())
            self._seen[worker.name] = _Sight(submitted=now - age)
        return self._seen[worker.name]

    def _note(self, sight: _Sight, status: JobStatus, busy: bool, now: float) -> None:
        sight.ending = status.ended or status.completing
        if status.pending:
            sight.watched, sight.started = True, None
            return
        if sight.started is None:
            # Of a job that started before this controller, the start is not known.
            sight.started = now if sight.watched else sight.submitted
            if sight.watched:
                self.waits.append(now - sight.submitted)
        if busy:
            sight.idle_since = None
        elif sight.idle_since is None:
            sight.idle_since, sight.ends = now, None

    def live(self) -> list[LiveWorker]:
        """Return the workers that may be given lists, in the order of their names."""
        now = time.monotonic()
        found = []
        for worker in self.by_job().values():
            sight = self._sight(worker)
            if sight.retired or sight.ending:
                continue
            busy_until = max(0.0, (sight.ends or now) - now)
            if sight.started is None:
                waits = now - sight.submitted
                found.append(LiveWorker(worker, "pending", 0.0, waits, busy_until))
                continue
            runs_for = now - sight.started
            if sight.idle_since is None:
                found.append(LiveWorker(worker, "busy", runs_for, 0.0, busy_until))
            else:
                found.append(LiveWorker(worker, "idle", runs_for, now - sight.idle_since))
        return sorted(found, key=lambda live: live.progress.name)

    def submitted(self, worker: str, seconds: float) -> None:
        """Take note that a worker was submitted now.

        Args:
            worker: Its name.
            seconds: How long its first trials are expected to take, from now.
        """
        now = time.monotonic()
        self._seen[worker] = _Sight(submitted=now, watched=True, ends=now + seconds)

    def give_signs(self) -> None:
        """Tell the workers that wait that the controller works.

        A worker that has had no sign for nearly as long as it stays may be about to end. It is
        retired, so that it gets no list that it would not take.
        """
        now = time.monotonic()
        for live in self.live():
            if live.state != "idle":
                continue
            sight = self._sight(live.progress)
            since = sight.signed if sight.signed is not None else sight.idle_since
            silent = now - since if since is not None else 0.0
            if silent > self.stays_for * (1 - 1 / _SIGNS) and silent > 1.0:
                self.retire([live.progress.name])
            elif sight.signed is None or silent > min(_SIGN_S, self.stays_for / _SIGNS):
                sight.signed = now
                self._mailbox(live.progress).give_sign()

    def give(
        self,
        worker: WorkerProgress,
        trials: Sequence[TrialProgress],
        seconds: float = 0.0,
        ends_in: float = 0.0,
    ) -> None:
        """Give a worker a list; the event is on disk before the list.

        Args:
            worker: The worker.
            trials: The trials, whose specs are written.
            seconds: How long they are expected to take; 0 if that is not known.
            ends_in: Seconds until they are expected to end; 0 if that is not known.
        """
        names = [t.planned.trial for t in trials]
        attempts = {name: len(read_attempts(self.run.trial(name))) for name in names}
        self.journal.append(
            "assigned", worker=worker.name, attempts=attempts, seconds=round(seconds, 1)
        )
        self._write_list(worker)
        sight = self._sight(worker)
        sight.idle_since, sight.ends = None, time.monotonic() + ends_in

    def write_lists(self) -> None:
        """Write the lists that an earlier controller recorded and may not have written."""
        for worker in self.by_job().values():
            if worker.lists:
                self._write_list(worker)

    def _write_list(self, worker: WorkerProgress) -> None:
        members = [self.journal.state.trials[trial] for trial in worker.trials]
        trials = [JobTrial(self.run.trial(t.planned.trial), t.earlier_attempts) for t in members]
        self._mailbox(worker).give(worker.lists, GivenList(tuple(trials), worker.seconds))

    def retire(self, names: Collection[str]) -> None:
        """End workers when they have nothing to do."""
        for name in names:
            worker = self.journal.state.workers.get(name)
            if worker is None or self._sight(worker).retired:
                continue
            log.info("worker %s is not needed any more", name)
            self._sight(worker).retired = True
            self._mailbox(worker).retire()

    def retire_all(self) -> None:
        """End all workers when they have nothing to do."""
        self.retire(list(self.journal.state.workers))

    def _mailbox(self, worker: WorkerProgress) -> Mailbox:
        return Mailbox(self.run.worker(worker.name))
