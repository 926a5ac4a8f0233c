"""Jobs of a run that are found by its name, where its directory is not.

The directory may have been removed while jobs of the run were in the queue, or the run is looked
for in another place than where it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from agenttts.dispatch.base import NamedJob, Scheduler
from agenttts.dispatch.schedulers import SCHEDULERS
from agenttts.errors import MissingRequirement
from agenttts.run.directory import SCHEDULER_LOGS


def told_by_jobs(run: str, places: Collection[Path]) -> str:
    """Return what the jobs of a run that was not found tell; '' without jobs.

    Args:
        run: The run's name.
        places: The directories where the run would be.
    """
    here = {place.resolve() for place in places}
    removed: list[str] = []
    for scheduler, found in _jobs_by_scheduler(run):
        jobs = [job for job in found if (place := _directory(job)) is None or place.name == run]
        elsewhere = {place for job in jobs if (place := _directory(job)) and place not in here}
        for place in sorted(elsewhere):
            if place.is_dir():
                return (
                    f"jobs of a run of this name are running or waiting, and its directory is "
                    f"{place}; give this path as RUN"
                )
        left = [job for job in jobs if _directory(job) not in elsewhere]
        if left:
            named = ", ".join(f"{job.job_id} ({_described(job)})" for job in left)
            ids = " ".join(job.job_id for job in left)
            removed.append(
                f"its directory was removed or moved while jobs of it were running or waiting: "
                f"{named}. They end by themselves, usually within about two minutes after they "
                f"have started; '{scheduler.end_command} {ids}' ends them now"
            )
    return "; ".join(removed)


def _jobs_by_scheduler(run: str) -> Iterator[tuple[type[Scheduler], list[NamedJob]]]:
    for scheduler in SCHEDULERS.values():
        try:
            yield scheduler, scheduler.jobs_of(run)
        except MissingRequirement:
            continue  # no queue here, or it does not answer: nothing is known of its jobs


def _directory(job: NamedJob) -> Path | None:
    """Return the run's directory, as far as the job tells it."""
    folder = job.folder
    while folder is not None and folder.name:
        if folder.name == SCHEDULER_LOGS:
            return folder.parent.resolve()
        folder = folder.parent
    return None


def _described(job: NamedJob) -> str:
    return " ".join(word for word in (job.name, job.state) if word)
