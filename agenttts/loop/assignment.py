"""Assign trials to workers, and decide how many workers to start.

A worker is one array element that evaluates lists of trials, one after the other. The rule is a
pure function of descriptions (`assign`); the controller calls it for each iteration, and again when
a worker has died or has become free while trials wait.

The makespan is the time until all lists end, those given earlier included. The rule finds the
shortest makespan that its packing reaches. Among the packings that take at most `Policy.slack`
times as long, it takes the one with the least product of makespan and a power of the GPU-seconds.
Trials that need the same costly model are therefore on one worker unless the makespan grows too
much. Another worker is started only if it saves time that is worth its engine starts.

`agenttts.loop.list_planner` calls it with the estimates of a run (`agenttts.loop.run_costs`). By
hand a call is::

    costs = Estimates(sizes, gpu, starts=starts, draws=draws).model_costs()
    stored = stored_samples(completed_allocations)
    examples = [ExamplesPart(50, stored)]
    works = [trial_work(p.trial, p.allocation, tokens, examples) for p in pending]
    found = assign(works, workers, classes, costs, Policy(more=True))

A worker uses its models in the order ``TrialList.engines.visits``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agenttts.loop.idling import worth_keeping
from agenttts.loop.list_cost import ModelCost, TrialWork
from agenttts.loop.packing import Packing
from agenttts.loop.worker_lists import (
    DEFAULT_POLICY,
    Assignment,
    Policy,
    ResourceClass,
    TrialList,
    Worker,
)
from agenttts.tables.schema import trial_order

__all__ = [
    "DEFAULT_POLICY",
    "Assignment",
    "Policy",
    "ResourceClass",
    "TrialList",
    "Worker",
    "assign",
    "worth_keeping",
]


def assign(
    trials: Iterable[TrialWork],
    workers: Iterable[Worker],
    classes: Iterable[ResourceClass],
    costs: Mapping[str, ModelCost],
    policy: Policy = DEFAULT_POLICY,
) -> Assignment:
    """Return lists of trials for workers, the workers to start and those to retire.

    The result does not depend on the order of the arguments' elements.

    Args:
        trials: The trials that have no worker.
        workers: The workers of the run.
        classes: What may be started.
        costs: The models' costs, by name.
        policy: What the rule weighs.
    """
    trials = sorted(trials, key=lambda t: trial_order(t.trial))
    workers = sorted(workers, key=lambda w: w.name)
    classes = sorted(classes, key=lambda c: c.name)
    upto: dict[str, int] = {}
    if policy.hand_over:
        problem = Packing(workers, classes, costs, policy)
        upto = problem.parts_now([t for t in trials if not t.alone])
    while True:
        found = _assigned(trials, upto, Packing(workers, classes, costs, policy))
        gpus = {t: entry.gpus for entry in (*found.lists, *found.new) for t in entry.upto}
        # A worker that has the GPUs for all stages of a trial continues it.
        whole = {
            t.trial
            for t in trials
            if t.trial in gpus
            and t.upto(upto[t.trial]).gpus(costs) < t.gpus(costs) <= gpus[t.trial]
        }
        if not whole:
            return found
        upto = {trial: stages for trial, stages in upto.items() if trial not in whole}


def _assigned(trials: Iterable[TrialWork], upto: Mapping[str, int], problem: Packing) -> Assignment:
    """Return the assignment if only the first stages of ``upto`` are due."""
    unfit: dict[str, str] = {}
    fitting: list[TrialWork] = []
    for trial in (t.upto(upto.get(t.trial)) for t in trials):
        reason = problem.why_unfit(trial)
        if reason is None:
            fitting.append(trial)
        else:
            unfit[trial.trial] = reason
    slots, waiting = problem.place_alone(fitting)
    waiting |= problem.place_shared([t for t in fitting if not t.alone], slots)
    return problem.result(slots, waiting, unfit, upto)
