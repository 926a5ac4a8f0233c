"""The checks of a cluster by ``doctor``.

They cover Slurm's commands, the profile's partitions and requests, and accounting.
"""

from __future__ import annotations

import shutil
import socket

from agenttts.dispatch.base import QueueUnavailable
from agenttts.dispatch.check import COMMAND_SECONDS, Check, check
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.slurm.cluster_config import check_cluster_meant
from agenttts.dispatch.slurm.commands import query_environment, run_slurm
from agenttts.dispatch.slurm.partitions import (
    SHOW_PARTITIONS,
    above_time_limit,
    partition_checks,
    read_partitions,
)
from agenttts.dispatch.slurm.survey import kinds_of_nodes
from agenttts.dispatch.slurm.tried_request import (
    command_problem,
    request_check,
    request_words,
    sbatch_test,
)
from agenttts.errors import MissingRequirement
from agenttts.files.commands import ask

_COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "sinfo")


def cluster_checks(profile: Profile) -> list[Check]:
    """Return the checks of the profile's cluster, from a login node."""
    checks = [check("Slurm", _slurm)]
    if profile.controller.where == "job":
        checks += _section("controller", profile, profile.controller, 0)
    else:
        host = socket.gethostname()
        checks.append(Check("controller", None, f"a process on the host that launches ({host})"))
    checks += _section("trial", profile, profile.trial, profile.gpus_per_node)
    if profile.gpus_per_node and profile.trial.gpu_request != "none":
        checks += _types_of_gpus(profile.trial)
    return [*checks, Check("accounting (sacct)", None, _sacct())]


def slurm_problems(profile: Profile, resources: JobResources, gpus: int) -> dict[str, str | None]:
    """Return what keeps a controller from using Slurm's commands here.

    Args:
        profile: The cluster's profile.
        resources: The section whose request Slurm tests; nothing is submitted.
        gpus: The GPUs of the request.

    Returns:
        The problem of each command; None if it works.
    """
    commands = [
        ["squeue", "--me"],
        ["scontrol", "show", "config"],
        ["scancel", "--version"],
        ["sacct", "-X", "-n"],
    ]
    try:
        refused = command_problem(sbatch_test(request_words(profile, resources, gpus)))
    except MissingRequirement as error:
        refused = str(error)
    return {"sbatch": refused, **{command[0]: command_problem(command) for command in commands}}


def _slurm() -> str:
    for command in _COMMANDS:
        if shutil.which(command) is None:
            raise MissingRequirement(
                f"{command} is not on PATH", fix="run on a login node of the cluster"
            )
    check_cluster_meant(run_slurm(["scontrol", "show", "config"]))
    said = run_slurm(["scontrol", "ping"]).split("\n")
    return next((line.strip() for line in said if line.strip()), "scontrol answers")


def _section(what: str, profile: Profile, resources: JobResources, gpus: int) -> list[Check]:
    """Check a section's partitions and its request for ``gpus`` GPUs.

    As at launch, ``sbatch --test-only`` has the last word: a QOS may allow more than the partition,
    and a plugin may choose the partition. Only time limits are judged although sbatch accepts them.
    """
    try:
        partitions = partition_checks(what, resources)
    except MissingRequirement as error:
        return [Check(f"{what} partition", False, error.what, error.fix)]
    request = request_check(what, profile, resources, gpus)
    if any(found.ok is False for found in partitions):
        if request.ok is False or above_time_limit(what, resources) is not None:
            return partitions
        partitions = [
            Check(found.what, None, f"{found.detail}; sbatch accepts the job nevertheless")
            for found in partitions
        ]
    return [*partitions, request]


def _types_of_gpus(resources: JobResources) -> list[Check]:
    """Return a remark if jobs may get GPUs of several types.

    It is empty if not, or if that is not known. Models are sized for one memory, so that a large
    one would fail on the smaller GPUs.
    """
    if resources.gpu_type or resources.constraint or resources.nodelist:
        return []
    try:
        named = resources.partition or next(
            p.name for p in read_partitions(run_slurm(SHOW_PARTITIONS)).values() if p.default
        )
        nodes = [n for n in kinds_of_nodes() if n.gpus and n.partition in named.split(",")]
    except (QueueUnavailable, MissingRequirement, StopIteration):
        return []  # the other checks say it
    types = sorted({kind or "(no type)" for n in nodes for kind in (n.gpu_type, *n.other_types)})
    if len(types) < 2:
        return []
    detail = (
        f"{named} has GPUs of several types ({', '.join(types)}), and a job may get any: set "
        "trial.gpu_type (or constraint, nodelist) in the profile, and gpu_memory_gb for that type"
    )
    return [Check("types of GPUs", None, detail)]


def _sacct() -> str:
    if shutil.which("sacct"):
        answer = ask(["sacct", "-X", "-n"], COMMAND_SECONDS, query_environment())
        if answer.problem is not None:
            return (
                f"sacct {answer.problem}; until it answers, the end of a job that squeue no longer "
                "shows is not known ('sacctmgr ping' shows whether slurmdbd is up)"
            )
        if answer.succeeded:
            return "available"
    return "not available; job states are read from squeue alone, which is enough"
