"""Group trials without a result by their error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agenttts.tables.schema import TrialState

ANY_TRIAL = "TRIAL"
"""Stands for the name of each trial in an error that several have."""


@dataclass(frozen=True)
class FailureGroup:
    """Trials that ended in one state with one error.

    Attributes:
        state: The state.
        error: The error, on one line. If there are several trials, `ANY_TRIAL` stands in it for
            the name of each. None if no reason is recorded.
        trials: The names of the trials.
    """

    state: TrialState
    error: str | None
    trials: tuple[str, ...]


def failure_groups(failed: Iterable[tuple[str, TrialState, str | None]]) -> list[FailureGroup]:
    """Return the groups of failed trials, in the order of their first trials.

    Errors that differ only in the name of the trial, e.g. in a path, are one.

    Args:
        failed: The name, the state and the error of each trial.
    """
    groups: dict[tuple[TrialState, str | None], list[tuple[str, str | None]]] = {}
    for trial, state, error in failed:
        line = None if error is None else " ".join(error.split())
        shared = None if line is None else line.replace(trial, ANY_TRIAL)
        groups.setdefault((state, shared), []).append((trial, line))
    return [
        FailureGroup(
            state,
            shared if len(members) > 1 else members[0][1],
            tuple(trial for trial, _ in members),
        )
        for (state, shared), members in groups.items()
    ]
