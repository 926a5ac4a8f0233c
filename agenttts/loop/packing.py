"""Search for the best assignment of trials to workers at one moment (`Packing`).

`agenttts.loop.assignment` says which assignment is the best. Words used here:

- slot: a worker that runs, or a worker that may be started
- signature of a trial: the model of each of its stages
- item: one trial, or several trials with one signature that are placed together
- bundle: all items with one signature
- group: samples that several trials may have in common
- makespan: the time until all lists of trials have ended
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agenttts.loop.hand_over import Place, parts_now
from agenttts.loop.idling import idle_limit, worth_keeping
from agenttts.loop.list_cost import (
    NO_ENGINES,
    EnginePlan,
    ModelCost,
    Signature,
    TrialWork,
    plan_engines,
    shared_and_own,
    work_seconds,
)
from agenttts.loop.worker_lists import Assignment, Policy, ResourceClass, TrialList, Worker
from agenttts.tables.schema import trial_order

# How many steps the bisection for the shortest makespan takes at most.
_BISECTIONS = 7
# Number of longer makespans that are tried, up to the longest one allowed.
_LONGER = 3
# With more trials than this, trials of one signature are joined into items.
_MOST_ITEMS = 200
# The longest item, as a share of the shortest time limit of a slot.
_ITEM_OF_LIMIT = 0.05
# The longest item, as a share of the mean work of a slot. The smaller of the two lengths holds.
_ITEM_OF_WORK = 0.1


@dataclass(frozen=True)
class _Item:
    """Trials that are placed together.

    Attributes:
        trials: The trials.
        signature: Their signature.
        gpus: The GPUs that a worker needs for them.
        models: Their models.
        groups: For each group of common samples, the seconds that it takes.
        own: Seconds of the samples that are in no group.
        seconds: Seconds of all their samples, without engine starts.
        alone_starts: Seconds of engine starts if one of the trials ran by itself.
    """

    trials: tuple[TrialWork, ...]
    signature: Signature
    gpus: int
    models: frozenset[str]
    groups: tuple[tuple[str, float], ...]
    own: float
    seconds: float
    alone_starts: float

    @property
    def order(self) -> tuple[int, str]:
        """The place of the first trial among all trials."""
        return trial_order(self.trials[0].trial)


@dataclass(frozen=True)
class _Loaded:
    """The engines that a worker has loaded, and its memory (GB) for sleeping engines."""

    awake: str | None = None
    asleep: frozenset[str] = frozenset()
    sleep_gb: float = 0.0


@dataclass
class _Slot:
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
    loaded: _Loaded
    startup: float = 0.0
    new: bool = False
    closed: bool = False
    items: list[_Item] = field(default_factory=list)
    signatures: frozenset[Signature] = frozenset()
    engines: EnginePlan = NO_ENGINES
    work: float = 0.0
    alone_starts: float = 0.0
    groups: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.engines.seconds + self.work

    @property
    def ends(self) -> float:
        return self.begins + self.seconds

    @property
    def engines_now(self) -> set[str | None]:
        return {self.loaded.awake, *self.loaded.asleep}

    def emptied(self) -> _Slot:
        return _Slot(
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


@dataclass(frozen=True)
class _Fit:
    """A slot with one more item: its engines and work, and the added GPU-seconds."""

    engines: EnginePlan
    work: float
    gpu_seconds: float


def _ends(slots: Iterable[_Slot]) -> float:
    return max((slot.ends for slot in slots if slot.items), default=0.0)


class Packing:
    """Searches for the result of one call of `agenttts.loop.assignment.assign`."""

    def __init__(
        self,
        workers: Sequence[Worker],
        classes: Sequence[ResourceClass],
        costs: Mapping[str, ModelCost],
        policy: Policy,
    ) -> None:
        self._workers = workers
        self._classes = classes
        self._costs = costs
        self._policy = policy
        self._plans: dict[tuple[_Loaded, frozenset[Signature]], EnginePlan] = {}
        self._singles: dict[str, _Item] = {}
        self._end_of_earlier = max((worker.free_in for worker in workers), default=0.0)
        self._places = [*map(self._slot, workers), *map(self._new_slot, classes)]
        self._sleep_gb = max((place.loaded.sleep_gb for place in self._places), default=0.0)

    def parts_now(self, trials: Sequence[TrialWork]) -> dict[str, int]:
        """Return the trials that are evaluated in parts, with the stages to draw now.

        Returns:
            For each of these trials, how many leading stages to draw.
        """
        places = [
            Place(w.gpus, w.asleep | ({w.awake} if w.awake else set()))
            for w in self._workers
            if w.reserved_for is None and w.models is None
        ]
        places += [
            Place(
                c.gpus,
                live=False,
                startable=min(c.most, self._most_new()),
                queue_seconds=c.queue_seconds,
                start_seconds=c.start_seconds,
            )
            for c in self._classes
            if c.models is None
        ]
        return parts_now(trials, places, self._costs, more=self._policy.more)

    # Which trials a worker can take

    def why_unfit(self, trial: TrialWork) -> str | None:
        """Return why no slot can ever take a trial; None if one can."""
        item = self._item([trial])
        longest: tuple[float, float] | None = None
        for slot in self._places:
            if not self._serves(slot, item):
                continue
            taken = item.seconds + self._plan(slot.loaded, frozenset((item.signature,))).seconds
            if taken <= slot.limit:
                return None
            if longest is None or slot.limit > longest[0]:
                longest = (slot.limit, taken)
        if longest is None:
            return (
                f"no worker and no resource class has {item.gpus} GPUs and serves "
                f"{', '.join(sorted(item.models)) or 'it'}"
            )
        return (
            f"it takes about {longest[1]:.0f} s, and the time limits leave at most "
            f"{max(0.0, longest[0]):.0f} s"
        )

    def _serves(self, slot: _Slot, item: _Item) -> bool:
        return (
            slot.gpus >= item.gpus
            and (slot.models is None or item.models <= slot.models)
            and (
                slot.reserved_for is None
                or all(trial.trial in slot.reserved_for for trial in item.trials)
            )
        )

    def _slot(self, worker: Worker) -> _Slot:
        return _Slot(
            name=worker.name,
            gpus=worker.gpus,
            begins=worker.free_in,
            limit=(worker.time_left - worker.free_in) / self._policy.time_margin,
            models=worker.models,
            reserved_for=worker.reserved_for,
            loaded=_Loaded(worker.awake, worker.asleep, worker.sleep_gb),
        )

    def _new_slot(self, new: ResourceClass) -> _Slot:
        return _Slot(
            name=new.name,
            gpus=new.gpus,
            begins=new.queue_seconds + new.start_seconds,
            limit=(new.time_limit - new.start_seconds) / self._policy.time_margin,
            models=new.models,
            reserved_for=None,
            loaded=_Loaded(sleep_gb=new.sleep_gb),
            startup=new.start_seconds,
            new=True,
        )

    def _plan(self, loaded: _Loaded, signatures: frozenset[Signature]) -> EnginePlan:
        key = (loaded, signatures)
        found = self._plans.get(key)
        if found is None:
            found = plan_engines(
                signatures,
                self._costs,
                awake=loaded.awake,
                asleep=loaded.asleep,
                sleep_gb=loaded.sleep_gb,
            )
            self._plans[key] = found
        return found

    def _fit(self, slot: _Slot, item: _Item, latest: float) -> _Fit | None:
        """Return the slot with the item added; None if the item does not fit.

        The slot must end by ``latest`` and within its time limit. ``latest`` is in seconds from
        now.
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
            engines = self._plan(slot.loaded, slot.signatures | {item.signature})
            # Engine starts must not take longer than if each trial ran by itself.
            most = slot.alone_starts + item.alone_starts * len(item.trials)
            if engines.start_seconds > most * (1 + 1e-12):
                return None
        if engines.seconds + work > room:
            return None
        taken = engines.seconds - slot.engines.seconds + added
        if slot.new and not slot.items:
            taken += slot.startup
        return _Fit(engines, work, taken * max(slot.gpus, 1))

    def _put(self, slot: _Slot, item: _Item, fit: _Fit) -> None:
        slot.items.append(item)
        slot.engines = fit.engines
        slot.alone_starts += item.alone_starts * len(item.trials)
        slot.work = fit.work
        slot.signatures = slot.signatures | {item.signature}
        for group, seconds in item.groups:
            if seconds > slot.groups.get(group, 0.0):
                slot.groups[group] = seconds

    # Trials that run alone

    def place_alone(self, trials: Sequence[TrialWork]) -> tuple[list[_Slot], dict[str, str]]:
        """Give each trial that must run alone a slot of its own.

        A slot is not used for this if some other trial could then run nowhere.

        Returns:
            All slots, and for each waiting trial the reason.
        """
        slots = [self._slot(worker) for worker in self._workers]
        most = self._most_new()
        slots += [self._new_slot(c) for c in self._classes for _ in range(min(c.most, most))]
        others = {p.signature: p for p in (self._item([t]) for t in trials if not t.alone)}
        must_run_alone = [self._item([t]) for t in trials if t.alone]
        waiting: dict[str, str] = {}
        started = 0
        for item in sorted(must_run_alone, key=lambda p: (-p.gpus, -p.seconds, p.order)):
            free = [s for s in slots if not s.closed and not (s.new and started >= most)]
            choices = []
            for number, slot in enumerate(free):
                fit = self._fit(slot, item, math.inf) if self._serves(slot, item) else None
                if fit is not None:
                    ends = slot.begins + fit.engines.seconds + fit.work
                    choices.append((ends, fit.gpu_seconds, number, fit))
            for _, _, number, fit in sorted(choices, key=lambda choice: choice[:3]):
                slot = free[number]
                left = [s for s in free if s is not slot]
                if started + slot.new >= most:
                    left = [s for s in left if not s.new]
                if all(
                    any(self._serves(s, other) for s in left)
                    or not any(self._serves(s, other) for s in free)
                    for other in others.values()
                ):
                    self._put(slot, item, fit)
                    slot.closed = True
                    started += slot.new
                    break
            else:
                waiting[item.trials[0].trial] = (
                    "it must run alone, and no worker can be kept for it now"
                )
        return slots, waiting

    def _most_new(self) -> int:
        most = sum(new.most for new in self._classes)
        return most if self._policy.most_new is None else min(most, self._policy.most_new)

    # Trials that do not run alone

    def place_shared(self, trials: Sequence[TrialWork], slots: list[_Slot]) -> dict[str, str]:
        """Give the trials to slots.

        Args:
            trials: The trials.
            slots: The slots. The list is changed in place.

        Returns:
            For each waiting trial, the reason.
        """
        bundles = self._bundles(trials, slots)
        if not bundles:
            return {}
        free = [slot for slot in slots if not slot.closed]
        started = sum(slot.new and slot.closed for slot in slots)
        most_new = self._most_new() - started
        without_limit, misfits = self._pack(bundles, free, math.inf, most_new)
        if misfits:
            left_out = set(map(id, misfits))
            bundles = [kept for b in bundles if (kept := [p for p in b if id(p) not in left_out])]
        if not bundles:
            return self._one_by_one(misfits, slots, most_new)
        packs = [without_limit]
        shortest = without_limit
        # The makespan cannot be shorter than the lists that run already.
        low = max(self._least_makespan(bundles, free), self._end_of_earlier)
        for _ in range(_BISECTIONS):
            high = _ends(shortest)
            if high - low <= 0.01 * high:
                break
            middle = (low + high) / 2
            pack, left = self._pack(bundles, free, middle, most_new)
            if left:
                low = middle
            else:
                shortest = pack
                packs.append(pack)
        # ``begins`` estimates when work can start, because new workers first wait in the queue. It
        # is the latest end minus the length of the longest list. The slack multiplies only the time
        # after ``begins``.
        begins = _ends(shortest) - max(slot.seconds for slot in shortest if slot.items)
        length = max(_ends(shortest), self._end_of_earlier) - begins
        for step in range(1, _LONGER + 1):
            latest = begins + length * self._policy.slack ** (step / _LONGER)
            pack, left = self._pack(bundles, free, latest, most_new)
            if not left:
                packs.append(pack)
        latest = (begins + length * self._policy.slack) * (1 + 1e-9)
        allowed = [pack for pack in packs if _ends(pack) <= latest]
        best = min(allowed, key=lambda pack: self._rank(pack, begins))
        slots[:] = [slot for slot in slots if slot.closed] + best
        return self._one_by_one(misfits, slots, most_new)

    def _rank(self, pack: Sequence[_Slot], begins: float) -> tuple[float, float]:
        """Return the sort key of packings; the least is the best.

        The first value is weight x log(1 + GPU-seconds) + log(1 + makespan), the second is the
        makespan. The makespan is counted from ``begins``. Idle workers count in the GPU-seconds.
        """
        ends = max(_ends(pack), self._end_of_earlier)
        gpu_seconds = 0.0
        for slot in pack:
            if slot.items:
                taken = slot.seconds + slot.startup + self._idling(slot, ends - slot.ends)
            elif not slot.new:
                taken = self._idling(slot, ends - slot.begins)
            else:
                continue
            gpu_seconds += taken * max(slot.gpus, 1)
        makespan = max(0.0, ends - begins)
        value = self._policy.gpu_weight * math.log(gpu_seconds + 1) + math.log(makespan + 1)
        return round(value, 9), makespan

    def _idling(self, slot: _Slot, seconds: float) -> float:
        """Return how long a worker idles until all lists have ended.

        It is 0 if the worker would be ended instead (`idle_limit`).

        Args:
            slot: The worker.
            seconds: Seconds from the end of its list to the end of all lists; if it gets no list,
                from now.
        """
        if not self._policy.more:
            return 0.0
        engines = {*slot.engines.asleep, slot.engines.awake} if slot.items else slot.engines_now
        limit = idle_limit(
            {m for m in engines if m},
            self._costs,
            self._policy,
            self._instead_of(slot.gpus),
        )
        idle = seconds + self._policy.pause_seconds
        if idle < limit:
            return max(0.0, seconds)
        return 0.0

    def _one_by_one(
        self, misfits: Sequence[_Item], slots: list[_Slot], most_new: int
    ) -> dict[str, str]:
        """Place the trials of ``misfits`` one by one; as items they fit nowhere.

        Returns:
            For each waiting trial, the reason.
        """
        waiting: dict[str, str] = {}
        for item in misfits:
            for trial in item.trials:
                single = self._item([trial])
                opened = sum(s.new and bool(s.items) and not s.closed for s in slots)
                slot_fit = self._best_slot(slots, single, math.inf, opened < most_new)
                if slot_fit is None:
                    waiting[trial.trial] = (
                        "every worker that could run it lacks time, and no further worker may be "
                        "started now"
                    )
                else:
                    self._put(slot_fit[0], single, slot_fit[1])
        return waiting

    def _pack(
        self,
        bundles: Sequence[Sequence[_Item]],
        slots: Sequence[_Slot],
        latest: float,
        most_new: int,
    ) -> tuple[list[_Slot], list[_Item]]:
        """Fill slots so that all end by ``latest``, with few GPU-seconds.

        An item goes to the first slot that has items of its bundle and enough time. If there is
        none, the item goes to the slot where it adds the fewest GPU-seconds. At most ``most_new``
        new slots are used.

        Returns:
            The filled slots, and the items that did not fit. If ``latest`` is finite, packing stops
            at the first item that does not fit.
        """
        filled = [slot.emptied() for slot in slots]
        misfits: list[_Item] = []
        opened = 0
        for bundle in bundles:
            slots_of_bundle: list[_Slot] = []
            for item in bundle:
                chosen: tuple[_Slot, _Fit] | None = None
                for slot in slots_of_bundle:
                    fit = self._fit(slot, item, latest) if self._serves(slot, item) else None
                    if fit is not None:
                        chosen = (slot, fit)
                        break
                if chosen is None:
                    chosen = self._best_slot(filled, item, latest, opened < most_new)
                    if chosen is None:
                        misfits.append(item)
                        if latest < math.inf:
                            return filled, misfits
                        continue
                    if chosen[0] not in slots_of_bundle:
                        slots_of_bundle.append(chosen[0])
                slot, fit = chosen
                opened += slot.new and not slot.items
                self._put(slot, item, fit)
        return filled, misfits

    def _best_slot(
        self, slots: Sequence[_Slot], item: _Item, latest: float, may_open: bool
    ) -> tuple[_Slot, _Fit] | None:
        best: tuple[tuple[float, float], _Slot, _Fit] | None = None
        tried: set[str] = set()
        for slot in slots:
            if slot.closed or (
                slot.new and not slot.items and (not may_open or slot.name in tried)
            ):
                continue
            if slot.new and not slot.items:
                tried.add(slot.name)  # new slots of one class are equal
            if not self._serves(slot, item):
                continue
            fit = self._fit(slot, item, latest)
            if fit is None:
                continue
            rank = (fit.gpu_seconds, slot.begins + fit.engines.seconds + fit.work)
            if best is None or rank < best[0]:
                best = (rank, slot, fit)
        return None if best is None else (best[1], best[2])

    def _least_makespan(self, bundles: Sequence[Sequence[_Item]], slots: Sequence[_Slot]) -> float:
        """Return a lower bound of the time until all items are done."""
        least = 0.0
        for bundle in bundles:
            signature = frozenset((bundle[0].signature,))
            begins = [
                slot.begins + self._plan(slot.loaded, signature).seconds
                for slot in slots
                if slot.reserved_for is not None or self._serves(slot, bundle[0])
            ]
            if begins:
                least = max(least, min(begins) + max(item.seconds for item in bundle))
        return least

    # Items and bundles

    def _item(self, trials: Sequence[TrialWork]) -> _Item:
        if len(trials) == 1 and trials[0].trial in self._singles:
            return self._singles[trials[0].trial]
        shared: dict[str, float] = {}
        own = 0.0
        for trial in trials:
            groups, own_seconds = shared_and_own(trial, self._costs)
            own += own_seconds
            for group, seconds in groups:
                if seconds > shared.get(group, 0.0):
                    shared[group] = seconds
        signature = trials[0].signature
        item = _Item(
            trials=tuple(trials),
            signature=signature,
            gpus=max(trial.gpus(self._costs) for trial in trials),
            models=frozenset(model for model in signature if model),
            groups=tuple(shared.items()),
            own=own,
            seconds=own + math.fsum(shared.values()),
            alone_starts=self._plan(
                _Loaded(sleep_gb=self._sleep_gb), frozenset((signature,))
            ).start_seconds,
        )
        if len(trials) == 1:
            self._singles[trials[0].trial] = item
        return item

    def _bundles(self, trials: Sequence[TrialWork], slots: Sequence[_Slot]) -> list[list[_Item]]:
        """Return the bundles; in a bundle, items that share samples are side by side."""
        by_signature: dict[Signature, list[TrialWork]] = {}
        for trial in trials:
            by_signature.setdefault(trial.signature, []).append(trial)
        reserved = {name for s in slots for name in s.reserved_for or ()}
        limits = [s.limit for s in slots if not s.closed]
        total = work_seconds(trials, self._costs)
        longest = min(
            min(limits, default=math.inf) * _ITEM_OF_LIMIT,
            total / max(1, len(limits)) * _ITEM_OF_WORK,
        )
        size = -(-len(trials) // _MOST_ITEMS)
        bundles = []
        for members in by_signature.values():
            singles = self._by_sharing([self._item([t]) for t in members])
            if size == 1:
                bundles.append(singles)
                continue
            bundles.append(self._chunks(singles, size, longest, reserved))
        return sorted(
            bundles,
            key=lambda b: (
                -b[0].gpus,
                -b[0].alone_starts - sum(item.seconds for item in b),
                b[0].order,
            ),
        )

    def _chunks(
        self, singles: Sequence[_Item], size: int, longest: float, reserved: Collection[str]
    ) -> list[_Item]:
        """Join neighbouring items, up to ``size`` trials and about ``longest`` seconds.

        Trials of ``reserved`` are not joined.
        """
        items: list[_Item] = []
        chunk: list[TrialWork] = []
        seconds = 0.0
        groups: dict[str, float] = {}
        for single in singles:
            if single.trials[0].trial in reserved:
                items.append(single)
                continue
            if len(chunk) == size or (chunk and seconds > longest):
                items.append(self._item(chunk))
                chunk, seconds, groups = [], 0.0, {}
            chunk += single.trials
            seconds += single.own
            for group, needed in single.groups:
                seconds += max(0.0, needed - groups.get(group, 0.0))
                groups[group] = max(needed, groups.get(group, 0.0))
        if chunk:
            items.append(self._item(chunk))
        return items

    def _by_sharing(self, items: Sequence[_Item]) -> list[_Item]:
        """Return the items in an order in which common samples are side by side."""
        work: dict[str, float] = {}
        for item in items:
            first = item.groups[0][0] if item.groups else ""
            work[first] = max(work.get(first, 0.0), item.seconds)
        return sorted(
            items,
            key=lambda p: (
                -work[p.groups[0][0] if p.groups else ""],
                [group for group, _ in p.groups],
                -p.seconds,
                p.order,
            ),
        )

    # The result

    def result(
        self,
        slots: Sequence[_Slot],
        waiting: Mapping[str, str],
        unfit: Mapping[str, str],
        upto: Mapping[str, int],
    ) -> Assignment:
        """Return the assignment, which also names the workers that should end.

        Args:
            slots: The filled slots.
            waiting: For each waiting trial, the reason.
            unfit: For each trial that no slot can ever take, the reason.
            upto: How many leading stages to draw, for trials that are evaluated in parts.
        """
        used = [slot for slot in slots if slot.items]
        lists = [(slot.new, self._list(slot, upto)) for slot in used]
        lists.sort(key=lambda pair: (pair[1].worker, [trial_order(t) for t in pair[1].trials]))
        assignment = Assignment(
            lists=tuple(planned for new, planned in lists if not new),
            new=tuple(planned for new, planned in lists if new),
            waiting=dict(sorted(waiting.items(), key=lambda item: trial_order(item[0]))),
            unfit=unfit,
        )
        busy = {planned.worker for planned in assignment.lists}
        idle = [w for w in self._workers if w.name not in busy and not w.busy and w.free_in <= 0]
        retire = tuple(
            worker.name
            for worker in idle
            if not (waiting and self._policy.more)
            and not worth_keeping(
                worker,
                assignment.makespan + self._policy.pause_seconds,
                self._costs,
                self._policy,
                self._instead_of(worker.gpus),
            )
        )
        return Assignment(
            assignment.lists, assignment.new, retire, assignment.waiting, assignment.unfit
        )

    def _instead_of(self, gpus: int) -> ResourceClass | None:
        alike = [c for c in self._classes if c.gpus >= gpus]
        return min(alike, key=lambda c: (c.gpus, c.queue_seconds, c.name), default=None)

    def _list(self, slot: _Slot, upto: Mapping[str, int]) -> TrialList:
        names = (t.trial for item in slot.items for t in item.trials)
        trials = tuple(sorted(names, key=trial_order))
        return TrialList(
            worker=slot.name,
            trials=trials,
            engines=slot.engines,
            work_seconds=slot.work,
            begins=slot.begins,
            gpus=slot.gpus,
            upto={trial: upto[trial] for trial in trials if trial in upto},
        )
