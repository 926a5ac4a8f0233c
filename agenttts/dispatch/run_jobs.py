"""What tells the jobs of one run from other jobs that have the same numbers.

Every cluster numbers its jobs for itself, and a user's other jobs are in the same queue.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunJobs:
    """Where and whose the jobs of a run are. What is not known is empty.

    Attributes:
        directories: The run's directory, and where it was before it was moved.
        ids: The unique ids in the batch tokens of its jobs.
        cluster: The cluster that has its jobs.
        users: The users that have submitted its jobs.
    """

    directories: tuple[Path, ...] = ()
    ids: tuple[str, ...] = ()
    cluster: str = ""
    users: tuple[str, ...] = ()

    @property
    def other_users(self) -> tuple[str, ...]:
        """The users besides the one of this process."""
        me = user_name()
        return tuple(user for user in self.users if user != me)


UNKNOWN_RUN = RunJobs()
"""The jobs of a run of which nothing is known, and other jobs."""


def user_name() -> str:
    """Return the user of this process; the number of a user whose name is not known.

    Environment variables count only where this machine does not know the user, as some nodes do
    not: ``su`` and ``sudo`` may keep those of another user.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return os.environ.get("LOGNAME") or os.environ.get("USER") or str(os.getuid())


def is_user(name: str) -> bool:
    """Return whether this machine knows a user."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return name.isdecimal()
    return True
