"""How a profile's controller runs, and whether a process of this host is still the one that a run's file names."""

from __future__ import annotations

from typing import Literal

from agenttts.dispatch.profile import Profile
from agenttts.files.processes import command_line, is_dying, process_identity

ControllerKind = Literal["slurm", "local", "in_process"]

ELSEWHERE = "ELSEWHERE"
"""The state of a controller on another host, whose processes cannot be seen from here."""


def controller_kind(profile: Profile) -> ControllerKind:
    """How a profile's controller runs: as a job of Slurm, as a process of its own here, or in the launching process."""
    if profile.kind == "slurm" and profile.controller.where == "here":
        return "local"
    return profile.kind


def is_process(pid: str, mark: bytes, identity: str | None) -> bool:
    """Whether the process ``pid`` of this host is the one that had this ``identity`` when it was started.

    ``mark`` is what its command line holds; ``identity`` is that of `agenttts.files.processes.process_identity`, None where an
    older version did not write it down.
    """
    if mark not in command_line(pid) or is_dying(pid):
        return False
    return identity is None or process_identity(pid) == identity
