"""The scheduler of a profile.

Only this module chooses by a profile's ``kind``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from agenttts.dispatch.base import Scheduler
from agenttts.dispatch.profile import Profile, load_profile
from agenttts.dispatch.run_jobs import UNKNOWN_RUN, RunJobs
from agenttts.errors import UserError, valid_names
from agenttts.named_classes import NamedClasses

_HERE = "local"

SCHEDULERS: NamedClasses[Scheduler] = NamedClasses(
    {
        _HERE: "agenttts.dispatch.local:LocalScheduler",
        "slurm": "agenttts.dispatch.slurm.scheduler:SlurmScheduler",
        "in_process": "agenttts.dispatch.in_process:InProcessScheduler",
    }
)
"""Every scheduler, by the ``kind`` of profiles that choose it."""


def scheduler_type(kind: str) -> type[Scheduler]:
    """Return the scheduler for a ``kind``.

    Raises:
        UserError: There is no such scheduler. The message lists the valid ones.
    """
    if kind not in SCHEDULERS:
        raise UserError(f"kind: unknown scheduler '{kind}'; {valid_names(kind, SCHEDULERS)}")
    return SCHEDULERS[kind]


def create_scheduler(profile: Profile, folder: Path, jobs: RunJobs = UNKNOWN_RUN) -> Scheduler:
    """Return the scheduler of a profile's trials and served models.

    Args:
        profile: The cluster's profile.
        folder: Where batch files, pickles and logs of what it submits go; it need not exist yet.
        jobs: The jobs of its run.
    """
    return scheduler_type(profile.kind)(profile, folder, jobs)


def controller_scheduler(
    profile: Profile, folder: Path, kind: str | None = None, jobs: RunJobs = UNKNOWN_RUN
) -> Scheduler:
    """Return the scheduler of a run's controller.

    If the profile says ``controller: {where: here}``, the controller is a process of the host that
    launches, and not a job of the trials' scheduler.

    Args:
        profile: The cluster's profile.
        folder: As for `create_scheduler`.
        kind: The name of the scheduler that has started the controller; None before it is started.
        jobs: The jobs of the run.
    """
    return scheduler_type(kind or _controller_kind(profile))(profile, folder, jobs)


def load_completed_profile(cluster: str, folders: Sequence[Path]) -> Profile:
    """Return the profile of `load_profile`, completed from this shell's environment."""
    profile = load_profile(cluster, folders)
    return scheduler_type(profile.kind).completed(profile, os.environ)


def _controller_kind(profile: Profile) -> str:
    own = scheduler_type(profile.kind)
    here = own.has_nodes and profile.controller.where == "here"
    return _HERE if here else own.name
