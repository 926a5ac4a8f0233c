"""Workers that run or may be started, and what they can take.

`agenttts.loop.packing` explains the words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from agenttts.loop.items import EnginePlans, Item, Loaded
from agenttts.loop.list_cost import NO_ENGINES, EnginePlan, Signature
from agenttts.loop.worker_lists import ResourceClass, Worker


@dataclass
class Slot:
    """A worker that runs or may be started, and the items that it is given.

    Attributes:
        name: The name of the worker, or of the class of a new worker.
        gpus: Its GPUs.
        begins: Seconds from now until its list can begin.
        limit: The most seconds of a list that the time limit allows.
        models: The models that it serves; None: all.
        reserved_for: The only trials that it takes; None: all.
        loaded: Its engines now.
        startup: Seconds from the start of a new worker to its first engine start.
        new: Whether the worker does not run yet.
        closed: Whether it takes no more items.
        items: Its items.
        signatures: The signatures of its items.
        engines: Its engine starts for these items.
        work: Seconds of its samples.
        alone_starts: Seconds of engine starts if each of its trials ran by itself.
        groups: For each group of common samples, the seconds that it takes here.
    """

    name: str
    gpus: int
    begins: float
    limit: float
    models: frozenset[str] | None
    reserved_for: frozenset[str] | None
    loaded: Loaded
    startup: float = 0.0
    new: bool = False
    closed: bool = False
    items: list[Item] = field(default_factory=list)
    signatures: frozenset[Signature] = frozenset()
    engines: EnginePlan = NO_ENGINES
    work: float = 0.0
    alone_starts: float = 0.0
    groups: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_worker(cls, worker: Worker, time_margin: float) -> Slot:
        """The slot of a worker that runs.

        A list may take ``1 / time_margin`` of the time that the worker has left.
        """
        return cls(
            name=worker.name,
            gpus=worker.gpus,
            begins=worker.free_in,
            limit=(worker.time_left - worker.free_in) / time_margin,
            models=worker.models,
            reserved_for=worker.reserved_for,
            loaded=Loaded(worker.awake, worker.asleep, worker.sleep_gb),
        )

    @classmethod
    def of_class(cls, new: ResourceClass, time_margin: float) -> Slot:
        """The slot of a worker that may be started."""
        return cls(
            name=new.name,
            gpus=new.gpus,
            begins=new.queue_seconds + new.start_seconds,
            limit=(new.time_limit - new.start_seconds) / time_margin,
            models=new.models,
            reserved_for=None,
            loaded=Loaded(sleep_gb=new.sleep_gb),
            startup=new.start_seconds,
            new=True,
        )

    @property
    def seconds(self) -> float:
        return self.engines.seconds + self.work

    @property
    def ends(self) -> float:
        return self.begins + self.seconds

    @property
    def engines_now(self) -> set[str | None]:
        return {self.loaded.awake, *self.loaded.asleep}

    def emptied(self) -> Slot:
        return Slot(
            self.name,
            self.gpus,
            self.begins,
            self.limit,
            self.models,
            self.reserved_for,
            self.loaded,
            self.startup,
            self.new,
            self.closed,
        )

    def serves(self, item: Item) -> bool:
        """Return whether the slot has an item's GPUs and models, and may take its trials."""
        return (
            self.gpus >= item.gpus
            and (self.models is None or item.models <= self.models)
            and (
                self.reserved_for is None
                or all(trial.trial in self.reserved_for for trial in item.trials)
            )
        )

    def take(self, item: Item, fit: Fit) -> None:
        """Add an item; ``fit`` is what `fit_of` returned for it."""
        self.items.append(item)
        self.engines = fit.engines
        self.alone_starts += item.alone_starts * len(item.trials)
        self.work = fit.work
        self.signatures = self.signatures | {item.signature}
        for group, seconds in item.groups:
            if seconds > self.groups.get(group, 0.0):
                self.groups[group] = seconds


@dataclass(frozen=True)
class Fit:
    """A slot with one more item: its engines and work, and the added GPU-seconds."""

    engines: EnginePlan
    work: float
    gpu_seconds: float


def fit_of(slot: Slot, item: Item, latest: float, plans: EnginePlans) -> Fit | None:
    """Return the slot with the item added; None if the item does not fit.

    The slot must end by ``latest``, in seconds from now, and within its time limit.
    """
    added = item.own
    for group, seconds in item.groups:
        more = seconds - slot.groups.get(group, 0.0)
        if more > 0:
            added += more
    work = slot.work + added
    room = min(slot.limit, latest - slot.begins)
    if work > room:
        return None
    engines = slot.engines
    if item.signature not in slot.signatures:
        engines = plans.of(slot.loaded, slot.signatures | {item.signature})
        # Engine starts must not take longer than if each trial ran by itself.
        most = slot.alone_starts + item.alone_starts * len(item.trials)
        if engines.start_seconds > most * (1 + 1e-12):
            return None
    if engines.seconds + work > room:
        return None
    taken = engines.seconds - slot.engines.seconds + added
    if slot.new and not slot.items:
        taken += slot.startup
    return Fit(engines, work, taken * max(slot.gpus, 1))


def latest_end(slots: Iterable[Slot]) -> float:
    """Return when the last list ends, in seconds from now; 0 without lists."""
    return max((slot.ends for slot in slots if slot.items), default=0.0)
