"""The schedulers of a run's jobs."""

from __future__ import annotations

from agenttts.dispatch.base import Scheduler
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.schedulers import create_scheduler
from agenttts.run.directory import RunDirectory


def trial_scheduler(run: RunDirectory, profile: Profile) -> Scheduler:
    """Return the scheduler of a run's trials."""
    return create_scheduler(profile, run.scheduler_logs / "trials")


def served_scheduler(run: RunDirectory, profile: Profile) -> Scheduler:
    """Return the scheduler of the model that a run serves itself."""
    return create_scheduler(profile, run.scheduler_logs / "agent")
