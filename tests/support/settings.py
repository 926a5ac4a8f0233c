"""Give an evaluation other settings than those of its run's profile."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from agenttts.loop.evaluation import Evaluation
from agenttts.loop.trial_ends import TrialLimits

_LIMITS = {field.name for field in fields(TrialLimits)}


def change_settings(evaluation: Evaluation, **changes: Any) -> None:
    """Change fields of its `EvaluationSettings`, or of their `TrialLimits`."""
    settings = evaluation._settings
    limits = {name: changes.pop(name) for name in _LIMITS & changes.keys()}
    settings = replace(settings, limits=replace(settings.limits, **limits), **changes)
    evaluation._settings = settings
    evaluation._ends._limits = settings.limits
