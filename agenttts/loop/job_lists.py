"""Which trials one job evaluates together.

A job starts each model once for all its trials and draws each of their samples once. More trials
per job need fewer starts of engines; fewer trials per job end sooner, if there are free nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby, pairwise

from agenttts.run.progress import PlannedTrial, TrialProgress


def job_lists(
    trials: Sequence[TrialProgress], per_job: int, gpus: Callable[[PlannedTrial], int]
) -> list[list[TrialProgress]]:
    """Return the trials of each job, in the order of their first trials.

    Trials that begin with the same models go together. A trial that has to run alone has a list of
    its own. Lists of one resource class differ by at most one trial in length. Within a list the
    trials keep their order.

    Args:
        trials: The trials to start, in order.
        per_job: The most trials of a list.
        gpus: The number of GPUs that a trial needs.
    """
    order = {trial.planned.trial: number for number, trial in enumerate(trials)}
    by_class = sorted(trials, key=lambda trial: gpus(trial.planned))
    lists: list[list[TrialProgress]] = []
    for _, group in groupby(by_class, key=lambda trial: gpus(trial.planned)):
        members = list(group)
        lists += [[trial] for trial in members if trial.alone]
        shared = [trial for trial in members if not trial.alone]
        if per_job > 1:
            shared.sort(key=_models)
        lists += _even_parts(shared, per_job)
    for members in lists:
        members.sort(key=lambda trial: order[trial.planned.trial])
    return sorted(lists, key=lambda members: order[members[0].planned.trial])


def _even_parts(trials: list[TrialProgress], most: int) -> list[list[TrialProgress]]:
    """Divide the trials evenly into the fewest parts of at most ``most`` trials."""
    parts = -(-len(trials) // most)
    bounds = [len(trials) * part // parts for part in range(parts + 1)] if parts else []
    return [trials[a:b] for a, b in pairwise(bounds)]


def _models(trial: TrialProgress) -> tuple[str, ...]:
    return tuple(choice.model for choice in trial.planned.allocation.choices)
