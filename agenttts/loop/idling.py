"""Whether a worker without a list waits for its next one, or ends."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from agenttts.loop.list_cost import ModelCost
from agenttts.loop.worker_lists import Policy, ResourceClass, Worker


def worth_keeping(
    worker: Worker,
    idle_seconds: float,
    costs: Mapping[str, ModelCost],
    policy: Policy,
    new: ResourceClass | None = None,
) -> bool:
    """Return whether a worker without a list should wait for its next one.

    It should while its idling, with what it has idled since its last list, takes fewer GPU-seconds
    than a new worker's start, the starts of its largest engines, and what the policy gives for the
    wait in the queue. So idling never costs more than twice what the best decision would have.

    Args:
        worker: The worker.
        idle_seconds: Expected seconds until its next list.
        costs: The models' costs.
        policy: What the rule weighs.
        new: What would be started instead; None: nothing can be.
    """
    if not policy.more:
        return False
    engines = {*worker.asleep, *([worker.awake] if worker.awake else [])}
    # With less time left than an engine start takes, it could hardly take a list.
    started = max((costs[m].start_seconds for m in engines or costs if m in costs), default=0.0)
    if worker.time_left - idle_seconds < started * policy.time_margin:
        return False
    return worker.idle_for + idle_seconds < idle_limit(engines, costs, policy, new)


def idle_limit(
    engines: Collection[str],
    costs: Mapping[str, ModelCost],
    policy: Policy,
    new: ResourceClass | None,
) -> float:
    """Return the seconds for which a worker with these engines may idle."""
    known = sorted(model for model in engines if model in costs)
    # Engines that need fewer GPUs could as well be on a smaller worker.
    most = max((costs[model].gpus for model in known), default=0)
    starts = math.fsum(costs[m].start_seconds for m in known if costs[m].gpus == most)
    if new is None:
        return math.inf if known else 0.0
    return starts + new.start_seconds + policy.queue_share * new.queue_seconds
