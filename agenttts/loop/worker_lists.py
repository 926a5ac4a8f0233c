"""Workers, the classes of workers that may be started, and their trial lists.

All times are seconds from now unless they say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from agenttts.loop.list_cost import EnginePlan


@dataclass(frozen=True)
class Worker:
    """A worker that runs, waits for its next list, or waits in the queue with one.

    Args:
        name: Its name.
        gpus: Its GPUs.
        awake: The model whose engine is loaded and awake; None if there is none.
        asleep: The models whose engines are asleep.
        models: The models that it can serve; None: all that its GPUs hold.
        free_in: Expected seconds until it has done the lists that it was given.
        busy: Whether it has a list that is not done, whatever was expected.
        time_left: Seconds until its time limit.
        sleep_gb: Memory of the node, in GB, for engines that are asleep; 0: none may sleep.
        reserved_for: The only trials that it may take; None: any.
        idle_for: Seconds that it has waited without a list.
    """

    name: str
    gpus: int
    awake: str | None = None
    asleep: frozenset[str] = frozenset()
    models: frozenset[str] | None = None
    free_in: float = 0.0
    busy: bool = False
    time_left: float = math.inf
    sleep_gb: float = 0.0
    reserved_for: frozenset[str] | None = None
    idle_for: float = 0.0


@dataclass(frozen=True)
class ResourceClass:
    """Workers of one kind that may be started.

    Args:
        name: Its name.
        gpus: GPUs of each worker.
        most: How many may be started now.
        queue_seconds: Expected wait in the queue.
        start_seconds: Seconds from the start of the job to its first engine start.
        time_limit: Time limit of the job, in seconds.
        sleep_gb: As for `Worker`.
        models: As for `Worker`.
    """

    name: str
    gpus: int
    most: int
    queue_seconds: float = 0.0
    start_seconds: float = 0.0
    time_limit: float = math.inf
    sleep_gb: float = 0.0
    models: frozenset[str] | None = None


@dataclass(frozen=True)
class Policy:
    """What the rule weighs.

    Args:
        slack: To save GPU-seconds, the makespan may be longer than the shortest one that was found,
            by ``slack - 1`` times its length, counted from the start of its longest list.
        gpu_weight: How many percent of the makespan one percent of the GPU-seconds is worth.
        time_margin: A list of estimated length t is given to a worker only if ``time_margin * t``
            fits its time limit.
        more: Whether another iteration is expected.
        pause_seconds: Expected seconds between the end of an iteration and the next lists.
        queue_share: GPU-seconds that a GPU may idle to avoid one second of a new worker's wait in
            the queue.
        most_new: The most new workers of all classes together; None: as the classes say.
        hand_over: Whether trials may be evaluated in parts (`agenttts.loop.hand_over`).
    """

    slack: float = 2.5
    gpu_weight: float = 2.0
    time_margin: float = 1.25
    more: bool = True
    pause_seconds: float = 60.0
    queue_share: float = 0.25
    most_new: int | None = None
    hand_over: bool = False


DEFAULT_POLICY = Policy()


@dataclass(frozen=True)
class TrialList:
    """The trials that one worker gets.

    Args:
        worker: The worker's name; for a new worker, the name of its resource class.
        trials: The trials, in the order of their names.
        engines: The order of models that starts engines for the least time.
        work_seconds: Seconds of drawing samples.
        begins: Seconds from now until the worker can begin.
        gpus: The worker's GPUs.
        upto: By trial, how many leading stages to draw, for trials that another worker goes on
            with. They are to be assigned again, without the samples that are stored by then.
    """

    worker: str
    trials: tuple[str, ...]
    engines: EnginePlan
    work_seconds: float
    begins: float
    gpus: int
    upto: Mapping[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Seconds that the list takes once it has begun."""
        return self.engines.seconds + self.work_seconds

    @property
    def ends(self) -> float:
        """Seconds from now until the list is done."""
        return self.begins + self.seconds


@dataclass(frozen=True)
class Assignment:
    """What to do with the trials and workers of a moment.

    Every trial is in exactly one of ``lists``, ``new``, ``waiting`` and ``unfit``.

    Args:
        lists: Trials for workers that exist.
        new: Trials for workers to start; each element is one worker.
        retire: Workers without a list that should end.
        waiting: Trials that no worker can take now, and why. They may fit later.
        unfit: Trials that fit no worker that there is or that may be started, and why.
    """

    lists: tuple[TrialList, ...] = ()
    new: tuple[TrialList, ...] = ()
    retire: tuple[str, ...] = ()
    waiting: Mapping[str, str] = field(default_factory=dict)
    unfit: Mapping[str, str] = field(default_factory=dict)

    @property
    def makespan(self) -> float:
        """Seconds from now until the last list is done; 0 without lists."""
        return max((entry.ends for entry in (*self.lists, *self.new)), default=0.0)

    @property
    def start_seconds(self) -> float:
        """Seconds of all engine starts."""
        return math.fsum(entry.engines.start_seconds for entry in (*self.lists, *self.new))

    @property
    def gpu_seconds(self) -> float:
        """GPU-seconds of all lists, without idling."""
        return math.fsum(entry.seconds * entry.gpus for entry in (*self.lists, *self.new))
