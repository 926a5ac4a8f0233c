"""Trials that are placed together: items, and bundles of items with one signature.

`agenttts.loop.packing` explains the words.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from agenttts.loop.list_cost import (
    EnginePlan,
    ModelCost,
    Signature,
    TrialWork,
    plan_engines,
    shared_and_own,
    work_seconds,
)
from agenttts.tables.schema import trial_order

# With more trials than this, trials of one signature are joined into items.
_MOST_ITEMS = 200
# The longest item, as a share of the shortest time limit of a slot.
_ITEM_OF_LIMIT = 0.05
# The longest item, as a share of the mean work of a slot. An item is at most as long as the smaller
# of the two.
_ITEM_OF_WORK = 0.1


@dataclass(frozen=True)
class Item:
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
class Loaded:
    """The engines that a worker has loaded, and its memory (GB) for sleeping engines."""

    awake: str | None = None
    asleep: frozenset[str] = frozenset()
    sleep_gb: float = 0.0


class EnginePlans:
    """The engine starts of lists, each computed once; ``costs`` are the models' costs."""

    def __init__(self, costs: Mapping[str, ModelCost]) -> None:
        self._costs = costs
        self._plans: dict[tuple[Loaded, frozenset[Signature]], EnginePlan] = {}

    def of(self, loaded: Loaded, signatures: frozenset[Signature]) -> EnginePlan:
        """Return the engine starts for the signatures of a list."""
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


class Items:
    """Makes the items of one assignment.

    Args:
        costs: The models' costs.
        plans: The engine starts of lists.
        sleep_gb: Memory (GB) for sleeping engines of a worker that one trial has for itself.
    """

    def __init__(self, costs: Mapping[str, ModelCost], plans: EnginePlans, sleep_gb: float) -> None:
        self._costs = costs
        self._plans = plans
        self._fresh = Loaded(sleep_gb=sleep_gb)
        self._singles: dict[str, Item] = {}

    def of(self, trials: Sequence[TrialWork]) -> Item:
        """Return the item of some trials with one signature."""
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
        item = Item(
            trials=tuple(trials),
            signature=signature,
            gpus=max(trial.gpus(self._costs) for trial in trials),
            models=frozenset(model for model in signature if model),
            groups=tuple(shared.items()),
            own=own,
            seconds=own + math.fsum(shared.values()),
            alone_starts=self._plans.of(self._fresh, frozenset((signature,))).start_seconds,
        )
        if len(trials) == 1:
            self._singles[trials[0].trial] = item
        return item

    def bundles(
        self, trials: Sequence[TrialWork], limits: Sequence[float], reserved: Collection[str]
    ) -> list[list[Item]]:
        """Return the bundles; in a bundle, items that share samples are side by side.

        Args:
            trials: The trials.
            limits: For each slot, the most seconds of a list that its time limit allows.
            reserved: Trials that make an item each, because a slot is reserved for them.
        """
        by_signature: dict[Signature, list[TrialWork]] = {}
        for trial in trials:
            by_signature.setdefault(trial.signature, []).append(trial)
        total = work_seconds(trials, self._costs)
        longest = min(
            min(limits, default=math.inf) * _ITEM_OF_LIMIT,
            total / max(1, len(limits)) * _ITEM_OF_WORK,
        )
        size = -(-len(trials) // _MOST_ITEMS)
        bundles = []
        for members in by_signature.values():
            singles = _by_sharing([self.of([t]) for t in members])
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
        self, singles: Sequence[Item], size: int, longest: float, reserved: Collection[str]
    ) -> list[Item]:
        """Join neighbouring items, up to ``size`` trials and about ``longest`` seconds.

        Trials of ``reserved`` are not joined.
        """
        items: list[Item] = []
        chunk: list[TrialWork] = []
        seconds = 0.0
        groups: dict[str, float] = {}
        for single in singles:
            if single.trials[0].trial in reserved:
                items.append(single)
                continue
            if len(chunk) == size or (chunk and seconds > longest):
                items.append(self.of(chunk))
                chunk, seconds, groups = [], 0.0, {}
            chunk += single.trials
            seconds += single.own
            for group, needed in single.groups:
                seconds += max(0.0, needed - groups.get(group, 0.0))
                groups[group] = max(needed, groups.get(group, 0.0))
        if chunk:
            items.append(self.of(chunk))
        return items


def _by_sharing(items: Sequence[Item]) -> list[Item]:
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
