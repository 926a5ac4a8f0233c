"""What ``doctor`` checks of a cluster from the login node: Slurm's commands, the profile's partitions, accounting."""

from __future__ import annotations

import shutil
import socket

from agenttts.dispatch.controller_process import controller_kind
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.slurm.queue import query_environment, run_slurm
from agenttts.doctor.check import Check, check
from agenttts.doctor.partitions import partition_checks
from agenttts.doctor.tried_request import COMMAND_SECONDS, request_check, run_command
from agenttts.errors import MissingRequirement

_COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "sinfo")


def cluster_checks(profile: Profile) -> list[Check]:
    """The checks of the profile's cluster; none where it has no cluster."""
    if profile.kind != "slurm":
        return []
    checks = [check("Slurm", _slurm)]
    if controller_kind(profile) == "slurm":
        checks += _section("controller", profile, profile.controller, 0)
    else:
        host = socket.gethostname()
        checks.append(Check("controller", None, f"a process of the host that launches ({host})"))
    checks += _section("trial", profile, profile.trial, profile.gpus_per_node)
    return [*checks, Check("accounting (sacct)", None, _sacct())]


def _slurm() -> str:
    for command in _COMMANDS:
        if shutil.which(command) is None:
            raise MissingRequirement(
                f"{command} is not on PATH", fix="run on a login node of the cluster"
            )
    said = run_slurm(["scontrol", "ping"]).split("\n")
    return next((line.strip() for line in said if line.strip()), "scontrol answers")


def _section(what: str, profile: Profile, resources: JobResources, gpus: int) -> list[Check]:
    """A section's partitions, and, where they fit, its request for ``gpus`` GPUs."""
    try:
        partitions = partition_checks(what, resources)
    except MissingRequirement as error:
        return [Check(f"{what} partition", False, error.what, error.fix)]
    if any(found.ok is False for found in partitions):
        return partitions
    return [*partitions, request_check(what, profile, resources, gpus)]


def _sacct() -> str:
    if shutil.which("sacct"):
        done = run_command(["sacct", "-X", "-n"], query_environment(), COMMAND_SECONDS)
        if isinstance(done, str):
            return (
                f"{done}: what became of jobs that squeue no longer shows is not known until it answers ('sacctmgr ping' "
                "says whether slurmdbd is up)"
            )
        if done.returncode == 0:
            return "available"
    return "not available; job states come from squeue alone, which is enough"
