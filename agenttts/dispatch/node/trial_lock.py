"""The lock of a trial: its holder, and how long a job waits for it.

An NFS server keeps the locks of a client that has crashed until that client is back. Such a lock
does not show that its job runs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agenttts.dispatch.base import JobStatus, QueueUnavailable
from agenttts.dispatch.own_job import QUEUE_NAME, job_states
from agenttts.files.locks import locked, write_holder

LOCK_FILE = "lock"
# How long a job waits for the lock of another one that lives.
_PATIENCE_S = 600.0
# How often it asks the queue whether that one lives.
_QUESTION_S = 30.0
# For how long the queue must say that no process of the other one runs: its node may be about to
# release the lock.
_IDLE_S = 60.0
# For how long a lock must say the same: a new holder has not written its name yet.
_SETTLED_S = 2.0
_TEXT = re.compile(
    rf"({QUEUE_NAME} job|process) (\S+) on (\S+) since (\S+)"
    r"(?: \(cluster ([^\s,()]+), user ([^\s,()]+)\))?"
)


@dataclass(frozen=True)
class LockHolder:
    """A job that holds a lock, or held it when its host crashed.

    Args:
        job: Its id.
        host: Its node.
        since: When it took the lock (ISO-8601, UTC).
        queued: Whether it is a job of the queue, and not a process of a host.
        cluster: The cluster of the queue; '' if it is not known.
        user: Whose job it is; '' if that is not known.
    """

    job: str
    host: str
    since: str
    queued: bool
    cluster: str = ""
    user: str = ""

    def __str__(self) -> str:
        kind = f"{QUEUE_NAME} job" if self.queued else "process"
        known = self.cluster and self.user
        whose = f" (cluster {self.cluster}, user {self.user})" if known else ""
        return f"{kind} {self.job or '-'} on {self.host} since {self.since}{whose}"


class LockHeld(Exception):
    """Another job has held the trial's lock for longer than a job may wait."""


@dataclass(frozen=True)
class Waits:
    """A job's waits for the locks of a list of trials, by their holder.

    A holder is waited for once, and not once for each trial that it holds.

    Attributes:
        begun: When the wait for a holder began (`time.monotonic`).
        idle: Since when the queue says that no process of a holder runs.
    """

    begun: dict[object, float] = field(default_factory=dict)
    idle: dict[object, float] = field(default_factory=dict)


@contextmanager
def trial_lock(
    directory: Path, me: LockHolder, say: Callable[[str], None], waits: Waits | None = None
) -> Iterator[None]:
    """Hold a trial's lock, so that two jobs do not run one trial at the same time.

    If another job holds the lock, this job waits. If the other job is lost, this job continues from
    its samples. If the queue knows that the other job has ended, its host has crashed, and this job
    takes the lock over. It also does so if, when it has waited as long as it may, the queue says
    that no process of the other job runs. On a file system without locks, only the queue keeps jobs
    apart.

    Args:
        directory: The trial's directory.
        me: The job that wants the lock.
        say: Called with a line for each thing that happens.
        waits: The waits for other trials of the list.

    Raises:
        LockHeld: Another job has held the lock for too long; a job that waits holds GPUs.
    """
    path = directory / LOCK_FILE
    with locked(path, is_lost=_Wait(path, me, say, waits or Waits()).is_lost) as stream:
        write_holder(stream, str(me))
        yield


class _Wait:
    """One wait for a trial's lock."""

    def __init__(
        self, path: Path, me: LockHolder, say: Callable[[str], None], waits: Waits
    ) -> None:
        self._path = path
        self._me = me
        self._say = say
        self._waits = waits
        self._trial = path.parent.name
        self._begun: float | None = None
        self._text: str | None = None
        self._settled = self._next_question = 0.0
        self._asked_last = False

    def is_lost(self, text: str) -> bool:
        """Return whether the holder is lost.

        Raises:
            LockHeld: The wait has taken too long.
        """
        now = time.monotonic()
        holder = read_holder(text)
        who = holder or "another job"
        key = (holder.job, holder.host) if holder else self._path
        if self._begun is None:
            self._begun = now
            self._say(f"{self._trial}: waiting for its lock, which {who} holds")
        if text != self._text:
            self._text = text
            self._settled = self._next_question = now + _SETTLED_S
            self._asked_last = False
        begun = min(self._begun, self._waits.begun.setdefault(key, now))
        over = now - begun > _PATIENCE_S and not has_patience(holder, self._me)
        last_question = over and not self._asked_last and now >= self._settled
        if now >= self._next_question or last_question:
            self._next_question = now + _QUESTION_S
            self._asked_last = last_question or self._asked_last
            lost = self._why_lost(holder, key, now, over)
            if lost is not None:
                self._say(f"{self._trial}: taking over its lock from {holder}: {lost}")
                return True
        if over and self._asked_last and key not in self._waits.idle:
            raise LockHeld(
                f"{who} has held the trial's lock for more than {_PATIENCE_S / 60:g} minutes; "
                f"if that job or its host no longer exists, remove {self._path}"
            )
        return False

    def _why_lost(
        self, holder: LockHolder | None, key: object, now: float, over: bool
    ) -> str | None:
        """Ask the queue whether a holder is lost; return why.

        Args:
            holder: The holder.
            key: Its key in the waits.
            now: The time.
            over: Whether the wait for it has taken as long as it may. Before, a holder without a
                process may be about to run again.
        """
        states: dict[str, JobStatus] = {}

        def ask(jobs: Iterable[str]) -> Mapping[str, JobStatus]:
            user = holder.user if holder else ""
            states.update(job_states(jobs, user) if user else job_states(jobs))
            return states

        lost = why_lost(holder, self._me, ask)
        state = states.get(holder.job) if holder and holder.host != self._me.host else None
        if lost is not None or state is None or not is_idle(state):
            self._waits.idle.pop(key, None)
            return lost
        since = self._waits.idle.setdefault(key, now)
        if over and now - since >= _IDLE_S:
            return f"no process of that job runs ({state.state})"
        return None


def read_holder(text: str) -> LockHolder | None:
    """Inverse of `str`; None for an empty file, or one of an older version."""
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        return None
    queued = found[1] != "process"
    return LockHolder(found[2], found[3], found[4], queued, found[5] or "", found[6] or "")


def why_lost(
    holder: LockHolder | None,
    me: LockHolder,
    states: Callable[[Iterable[str]], Mapping[str, JobStatus]],
) -> str | None:
    """Return why a holder cannot be running any more; None if it may be.

    Args:
        holder: The holder that the lock names; None if it names none.
        me: The job that wants the lock.
        states: Asks the queue (`agenttts.dispatch.own_job.job_states`).
    """
    if holder is None or not holder.queued or not me.queued:
        return None
    if holder.cluster and me.cluster and holder.cluster != me.cluster:
        return None  # its number says nothing in this queue
    if holder.job == me.job:
        # Requeued: the queue starts a job in one place at a time.
        return "an earlier start of this job" if holder.host != me.host else None
    try:
        state = states([holder.job])[holder.job]
    except QueueUnavailable:
        return None
    return f"that job has ended ({state.state})" if state.ended else None


def is_idle(state: JobStatus) -> bool:
    """Return whether no process of a job runs, though it has not ended.

    It is pending, perhaps held, or its node is being cleaned up.
    """
    return state.pending or state.completing or state.stuck


def has_patience(holder: LockHolder | None, me: LockHolder) -> bool:
    """Return whether waiting for the lock costs nothing.

    This is so if both jobs are processes of one host, because their locks end with them.
    """
    return not me.queued and (holder is None or (not holder.queued and holder.host == me.host))
