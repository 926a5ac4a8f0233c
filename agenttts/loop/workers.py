"""The workers of a run: the jobs that stay for further lists of trials.

The journal says which workers there are and what they were given. What the queue says of them, and
since when, is kept in memory only; a new controller begins with cautious values.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from agenttts.dispatch.attempts import read_attempts
from agenttts.dispatch.base import JobStatus, JobTrial
from agenttts.dispatch.job_starts import next_number, read_job_starts
from agenttts.dispatch.node.mailbox import GivenList, Mailbox
from agenttts.files.repeated_calls import repeated_calls
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import Journal
from agenttts.run.progress import TrialProgress, WorkerProgress

log = logging.getLogger(__name__)

_SIGN_S = 20.0
"""Most seconds between two keep-alive signs to a worker that waits."""
_SIGNS = 4
"""Signs that a worker gets at least in the time that it stays without one."""
_UNKNOWN_S = 60.0
"""Seconds that a list is assumed to take if nothing is known."""


@dataclass(frozen=True)
class LiveWorker:
    """A worker that has not ended, as the planner of lists sees it.

    Attributes:
        progress: What the journal says.
        state: ``pending``: in the queue; ``busy``: it has trials; ``idle``: it waits for a list.
        runs_for: Seconds since its job started; 0 while it is pending.
        waits_for: Seconds since its job was submitted or requeued, while it is pending; else since
            it became idle, while it is idle.
        busy_for: Seconds from now until its trials are expected to end; 0 if it has none. Where
            that is not known or overdue, it is an estimate that grows.
    """

    progress: WorkerProgress
    state: Literal["pending", "busy", "idle"]
    runs_for: float = 0.0
    waits_for: float = 0.0
    busy_for: float = 0.0


@dataclass
class _Sight:
    """What was seen of a worker; moments are of the monotonic clock.

    Attributes:
        submitted: When its job was submitted or requeued.
        seconds: How long its lists take once its job runs; None if that is not known.
        started: When its job started; None while it is pending.
        recorded: Whether its job has recorded its present start.
        earlier: How many earlier starts its job has recorded; None if that is not known.
        busy_since: Since when it has trials: since its start, or since it was given a list.
        idle_since: Since when it waits for a list; None while it has trials.
        signed: When it last got a keep-alive sign, since it was last seen with trials.
        retired: Whether it was told to end.
        paused: Whether the queue has suspended its job, or holds it.
        ending: Whether its program has ended.
        ended_since: Since when the queue says that its job has ended.
        node: Its node; '' if it is not known.
    """

    submitted: float
    seconds: float | None = None
    started: float | None = None
    recorded: bool = False
    earlier: int | None = None
    busy_since: float | None = None
    idle_since: float | None = None
    signed: float | None = None
    retired: bool = False
    paused: bool = False
    ending: bool = False
    ended_since: float | None = None
    node: str = ""


@dataclass
class Workers:
    """The workers of one run.

    Args:
        run: The run's directory.
        journal: The run's journal.
        stays_for: Seconds that a worker stays without a keep-alive sign.
        settle_seconds: How long the queue must say that a job has ended before it counts as ended.
        waits: Seconds in the queue of the workers that this controller has seen to start, in order.
    """

    run: RunDirectory
    journal: Journal
    stays_for: float
    settle_seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    _seen: dict[str, _Sight] = field(default_factory=dict)
    # Held by the thread that gives signs and the one that asks questions (`loop.answering`).
    _lock: threading.RLock = field(default_factory=threading.RLock)
    # Why the last sign could not be given; empty if it could.
    _no_signs: str = ""

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
        with self._lock:
            self._observe(statuses)

    def _observe(self, statuses: Mapping[str, JobStatus]) -> None:
        workers = self.by_job()
        now = time.monotonic()
        busy = {trial.job_id for trial in self.journal.state.unfinished()}
        ended = []
        for job, worker in workers.items():
            if job not in statuses:
                continue
            sight = self._sight(worker)
            self._note(worker, sight, statuses[job], job in busy, now)
            if not statuses[job].ended:
                sight.ended_since = None
                continue
            # A queue may not list a job for a moment, e.g. right after its submission.
            sight.ended_since = now if sight.ended_since is None else sight.ended_since
            if now - sight.ended_since >= self.settle_seconds:
                ended.append(worker.name)
        if ended:
            self.journal.append("workers_ended", workers=ended)
        for name in ended:
            self._seen.pop(name, None)

    def _sight(self, worker: WorkerProgress) -> _Sight:
        if worker.name not in self._seen:
            now, age = time.monotonic(), 0.0
            if worker.since is not None:
                age = _seconds_since(worker.since)
            retired = self._mailbox(worker).is_retired
            self._seen[worker.name] = _Sight(submitted=now - age, retired=retired)
        return self._seen[worker.name]

    def _note(
        self, worker: WorkerProgress, sight: _Sight, status: JobStatus, busy: bool, now: float
    ) -> None:
        sight.ending = status.ended or status.completing
        sight.paused = status.paused
        if status.pending:
            if sight.started is not None:  # it was requeued
                sight.submitted, sight.started, sight.seconds = now, None, None
                sight.recorded, sight.earlier = False, None
            if sight.earlier is None:
                sight.earlier = next_number(self.run.worker(worker.name)) - 1
            sight.busy_since = sight.idle_since = None
            return
        sight.node = status.node or sight.node
        if not sight.recorded:
            self._note_start(worker, sight, now)
        if busy:
            sight.idle_since = sight.signed = None
            sight.busy_since = sight.busy_since or now
        elif sight.idle_since is None:
            sight.idle_since, sight.busy_since, sight.seconds = now, None, None

    def _note_start(self, worker: WorkerProgress, sight: _Sight, now: float) -> None:
        """Take note that a worker runs, with the times that its job has recorded.

        Its program writes the record some time after the queue says that the job runs.
        """
        if sight.started is None:
            sight.started = now
        records = read_job_starts(self.run.worker(worker.name))
        # A start that was killed has no end either.
        if not records or records[-1].finished or records[-1].number <= (sight.earlier or 0):
            return
        record, sight.recorded = records[-1], True
        sight.started = min(sight.started, now - _seconds_since(record.started))
        sight.node = sight.node or record.node
        if record.waited_since is not None:
            began = datetime.fromisoformat(record.started)
            since = datetime.fromisoformat(record.waited_since)
            self.waits.append(max(0.0, (began - since).total_seconds()))

    def live(self) -> list[LiveWorker]:
        """Return the workers that may be given lists, in the order of their names."""
        found = self._alive()
        return [w for w in found if w.state != "idle" or not self._sight(w.progress).paused]

    def _alive(self) -> list[LiveWorker]:
        """Return the workers that have neither ended nor been told to, by their names."""
        now = time.monotonic()
        found = []
        for worker in self.by_job().values():
            sight = self._sight(worker)
            if sight.retired or sight.ending:
                continue
            if sight.started is None:
                waits = now - sight.submitted
                left = _UNKNOWN_S if sight.seconds is None else sight.seconds
                found.append(LiveWorker(worker, "pending", 0.0, waits, left))
            elif sight.idle_since is None:
                took = now - (sight.busy_since or now)
                left = _left(sight.seconds, took)
                found.append(LiveWorker(worker, "busy", now - sight.started, 0.0, left))
            else:
                waits = now - sight.idle_since
                found.append(LiveWorker(worker, "idle", now - sight.started, waits))
        return sorted(found, key=lambda live: live.progress.name)

    def submitted(self, worker: str, seconds: float) -> None:
        """Take note that a worker was submitted now.

        Args:
            worker: Its name.
            seconds: How long its first trials take once it runs; 0 if that is not known.
        """
        self._seen[worker] = _Sight(time.monotonic(), seconds or None, earlier=0)

    def without_trials(self) -> list[str]:
        """Return the jobs of workers that wait in the queue and have no trial left.

        Such a worker was requeued while it was idle.
        """
        busy = {trial.job_id for trial in self.journal.state.unfinished()}
        return [
            job
            for job, worker in self.by_job().items()
            if job not in busy and self._sight(worker).started is None
        ]

    @property
    def any_retiring(self) -> bool:
        """Whether a worker without trials was told to end; its place is soon free."""
        busy = {trial.job_id for trial in self.journal.state.unfinished()}
        sights = (self._sight(w) for job, w in self.by_job().items() if job not in busy)
        return any(sight.retired and not sight.ending for sight in sights)

    def retire_on(self, nodes: Collection[str]) -> None:
        """End the workers on nodes that failed; they take no further list."""
        workers = self.journal.state.workers.values()
        self.retire([worker.name for worker in workers if self._sight(worker).node in nodes])

    def give_signs(self, *, unseen: bool = False) -> None:
        """Tell the workers that wait that the controller works.

        A worker that has had no sign for nearly as long as it stays may be about to end. It is
        retired, so that it gets no list that it would not take. If a sign cannot be written, a
        later one may.

        Args:
            unseen: Whether the controller cannot see now which trials end. Workers with trials get
                signs too: they may have ended them. A worker with trials ignores its signs.
        """
        with self._lock:
            try:
                self._give_signs(unseen)
            except OSError as error:
                if str(error) != self._no_signs:  # a full disk may last for hours
                    log.warning("no keep-alive sign could be given to workers: %s", error)
                self._no_signs = str(error)
            else:
                self._no_signs = ""

    def _give_signs(self, unseen: bool) -> None:
        now = time.monotonic()
        for live in self._alive():  # those that are paused too, which may be continued at any time
            if live.state == "pending" or (live.state == "busy" and not unseen):
                continue
            sight = self._sight(live.progress)
            since = sight.signed if sight.signed is not None else sight.idle_since
            silent = now - since if since is not None else 0.0
            may_leave = silent > self.stays_for * (1 - 1 / _SIGNS) and silent > 1.0
            if may_leave and live.state == "idle":
                self.retire([live.progress.name])
            elif sight.signed is None or silent > self._sign_seconds:
                self._mailbox(live.progress).give_sign()
                sight.signed = now

    def give(
        self,
        worker: WorkerProgress,
        trials: Sequence[TrialProgress],
        seconds: float = 0.0,
        upto: Mapping[str, int] | None = None,
    ) -> None:
        """Give a worker a list; the event is on disk before the list.

        Args:
            worker: The worker.
            trials: The trials, whose specs are written.
            seconds: How long they are expected to take; 0 if that is not known.
            upto: How many leading stages to draw of each trial that is not evaluated whole.
        """
        names = [t.planned.trial for t in trials]
        attempts = {name: len(read_attempts(self.run.trial(name))) for name in names}
        self.journal.append(
            "assigned",
            worker=worker.name,
            attempts=attempts,
            seconds=round(seconds, 1),
            upto=dict(upto or {}),
        )
        self._write_list(worker)
        sight = self._sight(worker)
        sight.idle_since = sight.signed = None
        sight.busy_since, sight.seconds = time.monotonic(), seconds or None

    def write_lists(self) -> None:
        """Write the lists that an earlier controller recorded and may not have written."""
        for worker in self.by_job().values():
            if worker.lists:
                self._write_list(worker)

    def _write_list(self, worker: WorkerProgress) -> None:
        members = [self.journal.state.trials[trial] for trial in worker.trials]
        trials = tuple(
            JobTrial(self.run.trial(t.planned.trial), t.earlier_attempts, t.upto) for t in members
        )
        self._mailbox(worker).give(worker.lists, GivenList(trials, worker.seconds))

    def retire(self, names: Collection[str]) -> None:
        """End workers when they have nothing to do."""
        for name in names:
            worker = self.journal.state.workers.get(name)
            if worker is None or self._sight(worker).retired:
                continue
            log.info("worker %s is not needed any more", name)
            self._mailbox(worker).retire()
            self._sight(worker).retired = True

    def retire_all(self) -> None:
        """End all workers when they have nothing to do."""
        self.retire(list(self.journal.state.workers))

    def signs_meanwhile(self) -> AbstractContextManager[None]:
        """Return a context in which signs are given.

        It is for what may take the controller long. The caller gives no list meanwhile.
        """
        give = partial(self.give_signs, unseen=True)
        return repeated_calls(give, self._sign_seconds / 2 or _SIGN_S, name="signs")

    def pause(self, seconds: float) -> None:
        """Sleep, and give signs meanwhile if workers need them more often."""
        if not 0 < self._sign_seconds < seconds:
            time.sleep(seconds)
            return
        with self.signs_meanwhile():
            time.sleep(seconds)

    @property
    def _sign_seconds(self) -> float:
        """Most seconds between two signs to a worker; 0: no worker stays."""
        return min(_SIGN_S, self.stays_for / _SIGNS)

    def _mailbox(self, worker: WorkerProgress) -> Mailbox:
        return Mailbox(self.run.worker(worker.name))


def _left(expected: float | None, took: float) -> float:
    """Return the expected seconds until a list ends that has taken ``took`` seconds."""
    left = (_UNKNOWN_S if expected is None else expected) - took
    # What takes longer than expected is expected to take half as long again.
    return max(left, took / 2, 1.0)


def _seconds_since(moment: str) -> float:
    """Return the seconds since a moment (ISO 8601), at least 0."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
