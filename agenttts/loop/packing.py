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
from collections.abc import Mapping, Sequence

from agenttts.errors import counted
from agenttts.loop.hand_over import Place, parts_now
from agenttts.loop.idling import idle_limit, worth_keeping
from agenttts.loop.items import EnginePlans, Item, Items
from agenttts.loop.list_cost import ModelCost, TrialWork
from agenttts.loop.slots import Fit, Slot, fit_of, latest_end
from agenttts.loop.worker_lists import Assignment, Policy, ResourceClass, TrialList, Worker
from agenttts.tables.schema import trial_order

# The most steps of the bisection for the shortest makespan.
_BISECTIONS = 7
# How many makespans above the shortest are tried. The last of them is the longest allowed makespan.
_LONGER = 3


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
        self._end_of_earlier = max((worker.free_in for worker in workers), default=0.0)
        margin = policy.time_margin
        self._places = [
            *(Slot.of_worker(worker, margin) for worker in workers),
            *(Slot.of_class(new, margin) for new in classes),
        ]
        self._plans = EnginePlans(costs)
        sleep_gb = max((place.loaded.sleep_gb for place in self._places), default=0.0)
        self._items = Items(costs, self._plans, sleep_gb)

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

    def why_unfit(self, trial: TrialWork) -> str | None:
        """Return why no slot can ever take a trial; None if one can."""
        item = self._items.of([trial])
        longest: tuple[float, float] | None = None
        for slot in self._places:
            if not slot.serves(item):
                continue
            taken = item.seconds + self._plans.of(slot.loaded, frozenset((item.signature,))).seconds
            if taken <= slot.limit:
                return None
            if longest is None or slot.limit > longest[0]:
                longest = (slot.limit, taken)
        if longest is None:
            return (
                f"no worker and no resource class has {counted(item.gpus, 'GPU')} and serves "
                f"{', '.join(sorted(item.models)) or 'it'}"
            )
        return (
            f"it takes about {longest[1]:.0f} s, and the time limits leave at most "
            f"{max(0.0, longest[0]):.0f} s"
        )

    # Trials that run alone

    def place_alone(self, trials: Sequence[TrialWork]) -> tuple[list[Slot], dict[str, str]]:
        """Give each trial that must run alone a slot of its own.

        A slot is not closed for such a trial if another trial, which need not run alone, could then
        run nowhere.

        Returns:
            All slots, and for each waiting trial the reason.
        """
        margin = self._policy.time_margin
        most = self._most_new()
        slots = [Slot.of_worker(worker, margin) for worker in self._workers]
        slots += [
            Slot.of_class(new, margin) for new in self._classes for _ in range(min(new.most, most))
        ]
        others = {p.signature: p for p in (self._items.of([t]) for t in trials if not t.alone)}
        must_run_alone = [self._items.of([t]) for t in trials if t.alone]
        waiting: dict[str, str] = {}
        started = 0
        for item in sorted(must_run_alone, key=lambda p: (-p.gpus, -p.seconds, p.order)):
            free = [s for s in slots if not s.closed and not (s.new and started >= most)]
            choices = []
            for number, slot in enumerate(free):
                fit = fit_of(slot, item, math.inf, self._plans) if slot.serves(item) else None
                if fit is not None:
                    ends = slot.begins + fit.engines.seconds + fit.work
                    choices.append((ends, fit.gpu_seconds, number, fit))
            for _, _, number, fit in sorted(choices, key=lambda choice: choice[:3]):
                slot = free[number]
                left = [s for s in free if s is not slot]
                if started + slot.new >= most:
                    left = [s for s in left if not s.new]
                if all(
                    any(s.serves(other) for s in left) or not any(s.serves(other) for s in free)
                    for other in others.values()
                ):
                    slot.take(item, fit)
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

    def place_shared(self, trials: Sequence[TrialWork], slots: list[Slot]) -> dict[str, str]:
        """Give the trials to slots.

        Args:
            trials: The trials.
            slots: The slots. The list is changed in place.

        Returns:
            For each waiting trial, the reason.
        """
        limits = [slot.limit for slot in slots if not slot.closed]
        reserved = {name for slot in slots for name in slot.reserved_for or ()}
        bundles = self._items.bundles(trials, limits, reserved)
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
            high = latest_end(shortest)
            if high - low <= 0.01 * high:
                break
            middle = (low + high) / 2
            pack, left = self._pack(bundles, free, middle, most_new)
            if left:
                low = middle
            else:
                shortest = pack
                packs.append(pack)
        # New workers first wait in the queue, so work does not begin now. ``begins`` estimates when
        # the work begins: it is the latest end minus the length of the longest list. The slack
        # multiplies only the time after ``begins``.
        begins = latest_end(shortest) - max(slot.seconds for slot in shortest if slot.items)
        length = max(latest_end(shortest), self._end_of_earlier) - begins
        for step in range(1, _LONGER + 1):
            latest = begins + length * self._policy.slack ** (step / _LONGER)
            pack, left = self._pack(bundles, free, latest, most_new)
            if not left:
                packs.append(pack)
        latest = (begins + length * self._policy.slack) * (1 + 1e-9)
        allowed = [pack for pack in packs if latest_end(pack) <= latest]
        best = min(allowed, key=lambda pack: self._rank(pack, begins))
        slots[:] = [slot for slot in slots if slot.closed] + best
        return self._one_by_one(misfits, slots, most_new)

    def _rank(self, pack: Sequence[Slot], begins: float) -> tuple[float, float]:
        """Return the sort key of a packing; the packing with the least key is the best.

        The first value is weight x log(1 + GPU-seconds) + log(1 + makespan), the second is the
        makespan. The makespan is counted from ``begins``. The GPU-seconds include idle workers.
        """
        ends = max(latest_end(pack), self._end_of_earlier)
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

    def _idling(self, slot: Slot, seconds: float) -> float:
        """Return how long a worker idles until all lists have ended.

        The result is 0 if the worker would be ended instead (`idle_limit`).

        Args:
            slot: The worker.
            seconds: Seconds from the end of the worker's list to the end of all lists. For a worker
                that gets no list, the seconds count from the time at which the worker is free.
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
        self, misfits: Sequence[Item], slots: list[Slot], most_new: int
    ) -> dict[str, str]:
        """Place the trials of ``misfits`` one by one, because the items fit nowhere.

        Returns:
            For each waiting trial, the reason.
        """
        waiting: dict[str, str] = {}
        for item in misfits:
            for trial in item.trials:
                single = self._items.of([trial])
                opened = sum(s.new and bool(s.items) and not s.closed for s in slots)
                slot_fit = self._best_slot(slots, single, math.inf, opened < most_new)
                if slot_fit is None:
                    waiting[trial.trial] = (
                        "every worker that could run it lacks time, and no further worker may be "
                        "started now"
                    )
                else:
                    slot_fit[0].take(single, slot_fit[1])
        return waiting

    def _pack(
        self,
        bundles: Sequence[Sequence[Item]],
        slots: Sequence[Slot],
        latest: float,
        most_new: int,
    ) -> tuple[list[Slot], list[Item]]:
        """Fill slots so that all end by ``latest``, with few GPU-seconds.

        An item goes to the first slot that has items of its bundle and enough time. If there is
        none, the item goes to the slot where it adds the fewest GPU-seconds. At most ``most_new``
        new slots are used.

        Returns:
            The filled slots, and the items that did not fit. If ``latest`` is finite, packing stops
            at the first item that does not fit.
        """
        filled = [slot.emptied() for slot in slots]
        misfits: list[Item] = []
        opened = 0
        for bundle in bundles:
            slots_of_bundle: list[Slot] = []
            for item in bundle:
                chosen: tuple[Slot, Fit] | None = None
                for slot in slots_of_bundle:
                    fit = fit_of(slot, item, latest, self._plans) if slot.serves(item) else None
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
                slot.take(item, fit)
        return filled, misfits

    def _best_slot(
        self, slots: Sequence[Slot], item: Item, latest: float, may_open: bool
    ) -> tuple[Slot, Fit] | None:
        best: tuple[tuple[float, float], Slot, Fit] | None = None
        tried: set[str] = set()
        for slot in slots:
            if slot.closed or (
                slot.new and not slot.items and (not may_open or slot.name in tried)
            ):
                continue
            if slot.new and not slot.items:
                tried.add(slot.name)  # new slots of one class are equal
            if not slot.serves(item):
                continue
            fit = fit_of(slot, item, latest, self._plans)
            if fit is None:
                continue
            rank = (fit.gpu_seconds, slot.begins + fit.engines.seconds + fit.work)
            if best is None or rank < best[0]:
                best = (rank, slot, fit)
        return None if best is None else (best[1], best[2])

    def _least_makespan(self, bundles: Sequence[Sequence[Item]], slots: Sequence[Slot]) -> float:
        """Return a lower bound of the time until all items are done."""
        least = 0.0
        for bundle in bundles:
            signature = frozenset((bundle[0].signature,))
            begins = [
                slot.begins + self._plans.of(slot.loaded, signature).seconds
                for slot in slots
                if slot.reserved_for is not None or slot.serves(bundle[0])
            ]
            if begins:
                least = max(least, min(begins) + max(item.seconds for item in bundle))
        return least

    # The result

    def result(
        self,
        slots: Sequence[Slot],
        waiting: Mapping[str, str],
        unfit: Mapping[str, str],
        upto: Mapping[str, int],
    ) -> Assignment:
        """Return the assignment, which also names the workers that should end.

        Args:
            slots: The filled slots.
            waiting: For each waiting trial, the reason.
            unfit: For each trial that no slot can ever take, the reason.
            upto: For each trial that is evaluated in parts, how many leading stages to draw.
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

    def _list(self, slot: Slot, upto: Mapping[str, int]) -> TrialList:
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
