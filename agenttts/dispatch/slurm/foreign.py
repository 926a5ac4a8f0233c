"""Which rows of the queue are of other jobs with the numbers of a run's jobs.

A number is not enough: a second cluster on the same file system gives the same numbers, and a copy
of a run names the jobs of its original. A site may rewrite comments, and a run may be moved, so a
row is the run's own unless its comment or its batch file shows that it is not.
"""

from __future__ import annotations

import os
from pathlib import Path

from agenttts.dispatch.run_jobs import RunJobs
from agenttts.dispatch.slurm.queue_reader import QueueRow

# The first word of the comments of this package's jobs.
_OURS = "agenttts"
_BATCH = "batch="


def why_foreign(row: QueueRow, run: RunJobs) -> str:
    """Return why a row is not of the run's jobs; '' if it may be.

    A batch file that does not exist counts only if the comment has no mark of the run: the run may
    have been moved, or the queue names its directory otherwise than this host.
    """
    words = row.comment.split()
    marks = [word for word in words if word.startswith(_BATCH)] if _OURS in words else []
    own = any(f"-{known}-" in f"{mark}-" for mark in marks for known in run.ids)
    if marks and run.ids and not own:
        return f"its comment has {marks[0]}, which is of another run"
    file = row.batch_file
    if file is None or not run.directories or _is_inside(file.parent, run.directories):
        return ""
    if own and not _exists(file):
        return ""
    return f"its batch file is {file}, which is not in the run's directory"


# Folders that were found in directories. A run has many jobs with few folders, and is polled often.
# That one is not inside is not kept: a link cannot be followed while its file system is in trouble.
_INSIDE: set[tuple[Path, tuple[Path, ...]]] = set()


def _is_inside(folder: Path, directories: tuple[Path, ...]) -> bool:
    """Return whether a folder is in one of the directories, perhaps by a link."""
    if (folder, directories) in _INSIDE:
        return True
    found = _is_found_inside(folder, directories)
    if found:
        _INSIDE.add((folder, directories))
    return found


def _is_found_inside(folder: Path, directories: tuple[Path, ...]) -> bool:
    named, real = Path(os.path.normpath(folder)), Path(os.path.realpath(folder))
    return any(
        named.is_relative_to(directory)
        or real.is_relative_to(os.path.realpath(directory))
        or any(_is_same(place, directory) for place in (real, *real.parents))
        for directory in directories
    )


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # this user may not look there
        return False


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # not on this host
        return False
