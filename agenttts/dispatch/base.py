"""What a scheduler is: it starts trials as jobs somewhere and says how they stand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agenttts.dispatch.node.scratch import CompileCache
from agenttts.errors import MissingRequirement
from agenttts.tables.schema import TrialState


class QueueUnavailable(MissingRequirement):
    """The queue does not do for now what is asked of it; without an answer, it may have done it all the same."""


class SubmitLimitReached(QueueUnavailable):
    """So many jobs more are refused for now; fewer may be taken, or these when others have ended."""


@dataclass(frozen=True)
class JobRequest:
    """One trial to start: the command of its job, where it writes, and how it shows in the queue.

    ``name`` and ``comment`` are what squeue shows; ``gpus`` is its resource class; ``cache`` is where a container keeps
    compiled code between jobs; ``needs`` are the files and directories that it reads, which its node must see; ``exclude``
    are nodes that it should not run on. ``earlier_attempts`` of the trial's attempts do not count against its limits.
    """

    trial: str
    directory: Path
    command: tuple[str, ...]
    env: Mapping[str, str]
    gpus: int
    name: str
    comment: str
    cache: CompileCache | None = None
    needs: tuple[Path, ...] = ()
    exclude: tuple[str, ...] = ()
    earlier_attempts: int = 0


@dataclass(frozen=True)
class JobStatus:
    """How a job stands. ``state`` is the queue's own word; ``ended`` says that it will not run again by itself.

    ``verdict`` is what the end means for a trial that left no result; None while the job lives. ``never_started``: the job
    has ended before its trial's attempt began, and ``detail`` says why. ``stuck``: it waits for what will not come by itself.
    ``node``: where it ran last, '' when unknown.
    """

    state: str
    ended: bool
    verdict: TrialState | None = None
    detail: str = ""
    never_started: bool = False
    stuck: bool = False
    node: str = ""


class Scheduler(Protocol):
    """Starts trials as jobs.

    Contract: `submit` starts every request once and returns job ids by trial; all of them carry ``batch``, a token
    unique to the call, by which `find` recovers them when the caller died between submitting and writing that down.
    Jobs of ``trials`` that `find` did not see may appear later: after `withdraw` they end as soon as they start, and run
    nothing. `strays` are jobs of the run ``token``, with which all its batches begin, that live and are not among ``known``:
    what each is, by its id, which `cancel` takes. `avoid` keeps those of the jobs that wait off ``nodes``, and off no others
    but the profile's; these are the jobs, None where there are no nodes to choose among. `poll` answers for every id it is asked about. `capacity` is how many more requests may be submitted now, given how
    many live. Any of them may raise `QueueUnavailable`: asking again later may do. A scheduler keeps no state that a new
    one could not rebuild from job ids and batch tokens, or find out again.
    """

    def capacity(self, live: int) -> int: ...

    def submit(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]: ...

    def find(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]: ...

    def withdraw(
        self, batch: str, requests: Sequence[JobRequest], trials: Collection[str]
    ) -> None: ...

    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]: ...

    def strays(self, token: str, known: Collection[str]) -> dict[str, str]: ...

    def avoid(self, job_ids: Iterable[str], nodes: Sequence[str]) -> list[str] | None: ...

    def cancel(self, job_ids: Iterable[str]) -> None: ...
