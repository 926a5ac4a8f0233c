"""Which trials are evaluated in parts, by workers of different sizes.

A trial needs the GPUs of its largest model, and its other stages do not use most of them. A smaller
worker may therefore draw the samples of some leading stages. Another worker then reads them from
the sample store and continues. `parts_now` decides by GPU-seconds which stages of each trial are
due.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from agenttts.loop.list_cost import ModelCost, TrialWork, work_seconds


@dataclass(frozen=True)
class Place:
    """A worker that runs, or a class of workers that may be started.

    Args:
        gpus: Its GPUs.
        engines: The models whose engines it has.
        live: Whether it runs already.
        startable: For a class: how many workers of all classes together may be started now.
        queue_seconds: For a class: expected wait in the queue.
        start_seconds: For a class: seconds from its job's start to its first engine start.
    """

    gpus: int
    engines: frozenset[str] = frozenset()
    live: bool = True
    startable: int = 0
    queue_seconds: float = 0.0
    start_seconds: float = 0.0


def parts_now(
    trials: Sequence[TrialWork],
    places: Sequence[Place],
    costs: Mapping[str, ModelCost],
    *,
    more: bool,
) -> dict[str, int]:
    """Return, by trial, how many leading stages to draw now; others stay whole.

    Leading stages of small models go to a smaller worker first if no worker that holds the trial's
    largest model runs yet: its start can wait. Stages of small models behind the last one of the
    largest model go to a smaller worker if they take more GPU-seconds there than starting the
    largest model's engine again, and if both workers may run side by side. A second of waiting in
    the queue counts as one of the larger worker.

    Args:
        trials: The trials that have no worker; none of them has to run alone.
        places: The workers, and the classes of those that may be started now or later.
        costs: The models' costs.
        more: Whether another iteration is expected.
    """
    leading: dict[tuple[int, int], list[tuple[TrialWork, int]]] = {}
    trailing: dict[tuple[int, int], list[tuple[TrialWork, int]]] = {}
    for trial in trials:
        gpus = [stage.gpus(costs) for stage in trial.stages]
        most = max(gpus, default=0)
        if not most:
            continue
        first = gpus.index(most)
        last = len(gpus) - gpus[::-1].index(most)
        if max(gpus[:first], default=0) and not all(s.empty for s in trial.stages[:first]):
            leading.setdefault((most, max(gpus[:first])), []).append((trial, first))
        elif max(gpus[last:], default=0) and not all(s.empty for s in trial.stages[last:]):
            trailing.setdefault((most, max(gpus[last:])), []).append((trial, last))
    found: dict[str, int] = {}
    for (most, less), members in leading.items():
        parts = [t.upto(upto) for t, upto in members]
        large = _large(places, most)
        if any(place.live for place in large) or not large:
            continue
        waiting = min(place.queue_seconds for place in large)
        saved = (most - less) * (work_seconds(parts, costs) + _starts(parts, costs, places, less))
        if _smaller(places, less, most) and saved > waiting * most:
            found |= {trial.trial: upto for trial, upto in members}
    for (most, less), members in trailing.items():
        parts = [TrialWork(t.trial, t.stages[upto:]) for t, upto in members]
        small, large = _smaller(places, less, most), _large(places, most)
        to_start = sum(not any(place.live for place in group) for group in (small, large))
        if not small or to_start > max((place.startable for place in places), default=0):
            continue
        saved = (most - less) * work_seconds(parts, costs)
        spent = less * _starts(parts, costs, places, less)
        if not any(place.live for place in small):
            spent += less * min(place.start_seconds for place in small)
            spent += min(place.queue_seconds for place in small) * most
        if more:
            models = {s.model for t, upto in members for s in t.stages[:upto] if not s.empty}
            again = sum(costs[m].start_seconds for m in sorted(models) if costs[m].gpus == most)
            spent += most * again
            waits = [p.queue_seconds for p in places if p.gpus >= most and not p.live]
            spent += min(waits, default=0.0) * most
        if saved > spent:
            found |= {trial.trial: upto for trial, upto in members}
    return found


def _large(places: Sequence[Place], most: int) -> list[Place]:
    return [place for place in places if place.gpus >= most]


def _smaller(places: Sequence[Place], less: int, most: int) -> list[Place]:
    return [p for p in places if less <= p.gpus < most and (p.live or p.startable)]


def _starts(
    parts: Sequence[TrialWork],
    costs: Mapping[str, ModelCost],
    places: Sequence[Place],
    gpus: int,
) -> float:
    """Return the start seconds of the parts' engines that no such worker has."""
    have: Collection[str] = {m for place in places if place.gpus == gpus for m in place.engines}
    needed = {model for part in parts for model in part.signature if model}
    return sum(costs[model].start_seconds for model in sorted(needed - set(have)))
