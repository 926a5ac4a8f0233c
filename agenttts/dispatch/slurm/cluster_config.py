"""Which cluster this machine belongs to, and whose jobs can be seen there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from agenttts.dispatch.run_jobs import RunJobs, is_user, user_name
from agenttts.dispatch.slurm.commands import run_slurm
from agenttts.errors import MissingRequirement

_CLUSTER_NAME = re.compile(r"^ClusterName *= *(\S+)", re.MULTILINE)
_PRIVATE = re.compile(r"^PrivateData *= *(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class ClusterConfig:
    """What ``scontrol show config`` tells of the cluster.

    Attributes:
        name: Its name; '' if Slurm does not tell.
        hides_jobs: Whether users do not see the jobs of others (slurm.conf(5), PrivateData).
    """

    name: str = ""
    hides_jobs: bool = False


def cluster_config() -> ClusterConfig:
    """Return what the cluster's configuration tells.

    A process keeps the first answer.
    """
    key = (os.environ.get("SLURM_CONF"), os.environ.get("PATH"))
    if key not in _CONFIGS:
        try:
            said = run_slurm(["scontrol", "show", "config"])
        except MissingRequirement:  # callers that need Slurm report it
            return ClusterConfig()
        name, private = _CLUSTER_NAME.search(said), _PRIVATE.search(said)
        hidden = private is not None and bool({"jobs", "all"} & set(private[1].split(",")))
        _CONFIGS[key] = ClusterConfig(name[1] if name else "", hidden)
    return _CONFIGS[key]


# The keys are the values of the variables that decide which cluster the commands ask.
_CONFIGS: dict[tuple[str | None, str | None], ClusterConfig] = {}


def other_cluster(run: RunJobs) -> str:
    """Return this machine's cluster if it is another one than the run's; '' otherwise."""
    here = cluster_config().name if run.cluster else ""
    return here if here and here.lower() != run.cluster.lower() else ""


def hidden_users(run: RunJobs) -> tuple[str, ...]:
    """Return the users of a run whose jobs this user cannot see."""
    others = run.other_users
    hides = bool(others) and os.getuid() != 0 and cluster_config().hides_jobs
    return tuple(user for user in others if hides or not is_user(user))


def elsewhere_sentence(run: RunJobs, what: str = "its jobs") -> str:
    """Return why this process does not see all jobs of a run; '' if it does."""
    if here := other_cluster(run):
        owner = f", of user {run.users[0]}" if run.users else ""
        return f"{what} on cluster {run.cluster}{owner}; this machine is of cluster {here}"
    if hidden := hidden_users(run):
        return (
            f"{what} of user {', '.join(hidden)}, whose jobs {user_name()} cannot see here "
            "(PrivateData in Slurm's configuration, or an unknown user)"
        )
    return ""


def check_cluster_meant(config: str) -> None:
    """Check that the user's variables do not send jobs to another cluster.

    sbatch would take these variables as its option ``--clusters`` (sbatch(1)). This package removes
    them from the environment of Slurm's commands, so that jobs go to this host's cluster.

    Args:
        config: The answer of ``scontrol show config``.

    Raises:
        MissingRequirement: One of the variables names clusters, but not this host's cluster.
    """
    found = _CLUSTER_NAME.search(config)
    if found is None:
        return
    for variable in ("SBATCH_CLUSTERS", "SLURM_CLUSTERS"):
        names = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
        # Slurm writes the names of clusters in lower case.
        if names and not {found[1].lower(), "all"} & {name.lower() for name in names}:
            raise MissingRequirement(
                f"{variable} names another cluster ({', '.join(names)}) than this machine's "
                f"({found[1]}); the controller watches jobs of its own cluster only",
                fix=f"run on a login node of the other cluster, or unset {variable}",
            )
