"""Give an evaluation other settings than those of its run's profile."""

from __future__ import annotations

from typing import Any

from agenttts.loop.evaluation import Evaluation


def change_settings(
    evaluation: Evaluation,
    *,
    settle_seconds: float | None = None,
    patience_seconds: float | None = None,
    **changes: Any,
) -> None:
    """Change how long it waits, and values of its profile."""
    if settle_seconds is not None:
        evaluation._ends._settle_seconds = settle_seconds
    if patience_seconds is not None:
        evaluation._patience_seconds = patience_seconds
    evaluation._profile = evaluation._profile.model_copy(update=changes)
    evaluation._ends._profile = evaluation._profile
