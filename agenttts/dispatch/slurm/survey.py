"""What Slurm tells of a cluster: partitions, nodes, GPUs, the user's accounts."""

from __future__ import annotations

import getpass
import grp
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field

from agenttts.dispatch.base import QueueUnavailable
from agenttts.dispatch.sizing.mig import mig_memory
from agenttts.dispatch.slurm.cluster_config import check_cluster_meant
from agenttts.dispatch.slurm.commands import run_slurm
from agenttts.dispatch.slurm.partitions import (
    SHOW_PARTITIONS,
    Partition,
    account_parents,
    read_partitions,
    short_host_name,
)
from agenttts.errors import MissingRequirement

_NODES = "%R|%c|%m|%D|%G|%f|%F"


@dataclass(frozen=True)
class Nodes:
    """Nodes of one kind in a partition.

    Attributes:
        partition: The partition.
        count: The number of such nodes.
        cpus: CPUs of a node.
        memory_mb: Memory of a node that Slurm hands out, in MiB.
        gpus: GPUs of a node.
        gpu_type: The type of the GPUs; empty if Slurm does not name it.
        features: The features that ``--constraint`` takes.
        other_types: The types of its other GPUs or MIG devices, which ``gpus`` does not count.
        out: The number of such nodes that are down, drained or otherwise unable to run jobs.
    """

    partition: str
    count: int
    cpus: int
    memory_mb: int
    gpus: int = 0
    gpu_type: str = ""
    features: str = ""
    other_types: tuple[str, ...] = ()
    out: int = 0

    @property
    def usable(self) -> int:
        """The number of such nodes that run jobs or may run them."""
        return self.count - self.out


@dataclass(frozen=True)
class Survey:
    """A cluster as Slurm describes it from here.

    Attributes:
        name: The cluster's name; empty if Slurm does not tell.
        select_type: slurm.conf's SelectType; empty as for ``name``.
        partitions: The partitions by name.
        nodes: The kinds of nodes.
        accounts: The user's accounts; empty without accounting.
        default_account: The account of jobs that name none; empty as for ``accounts``.
        qos: The QOS that the user may use.
        problems: What could not be asked, and why.
        parents: Each account's parent, in lower case, as far as Slurm tells.
        groups: The user's groups, in lower case; None if they are not known.
        host: This host, as Slurm names it; None if it is not known.
    """

    name: str
    select_type: str
    partitions: Mapping[str, Partition]
    nodes: tuple[Nodes, ...]
    accounts: tuple[str, ...] = ()
    default_account: str = ""
    qos: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    parents: Mapping[str, str] = field(default_factory=dict)
    groups: frozenset[str] | None = None
    host: str | None = None


def here() -> bool:
    """Return whether this machine has Slurm's commands."""
    return shutil.which("sinfo") is not None and shutil.which("scontrol") is not None


def cluster_name() -> str | None:
    """Return the cluster's name, which may be empty; None if no cluster answers."""
    try:
        return _setting(run_slurm(["scontrol", "show", "config"]), "ClusterName")
    except (MissingRequirement, QueueUnavailable):
        return None


def survey() -> Survey:
    """Ask Slurm about the cluster that this machine belongs to.

    Raises:
        QueueUnavailable: It does not answer.
        MissingRequirement: Its commands are not here, or the user's variables name another cluster.
    """
    config = run_slurm(["scontrol", "show", "config"])
    check_cluster_meant(config)
    partitions = read_partitions(run_slurm(SHOW_PARTITIONS))
    nodes = kinds_of_nodes()
    accounts, default, qos, problem = _associations()
    return Survey(
        _setting(config, "ClusterName"),
        _setting(config, "SelectType"),
        partitions,
        nodes,
        accounts,
        default,
        qos,
        (problem,) if problem else (),
        account_parents() or {},
        _groups(),
        short_host_name(),
    )


def kinds_of_nodes() -> tuple[Nodes, ...]:
    """Return the kinds of nodes of all partitions.

    Raises:
        QueueUnavailable: Slurm does not answer.
        MissingRequirement: Its commands are not here.
    """
    return read_nodes(run_slurm(["sinfo", "--all", "--noheader", "--exact", "--format", _NODES]))


def read_nodes(answer: str) -> tuple[Nodes, ...]:
    """Read an answer of ``sinfo --all --exact --format '%R|%c|%m|%D|%G|%f|%F'``.

    Lines of another form are skipped. ``%F`` is ``allocated/idle/other/total``, and may be missing.
    """
    found = []
    for line in answer.splitlines():
        parts = [part.strip() for part in line.split("|")]
        if len(parts) not in (6, 7):
            continue
        partition, cpus, memory, count, gres, features, *states = parts
        if not (_whole(cpus) and _whole(memory) and _whole(count)):
            continue
        gpus, kind, others = read_gres(gres)
        found.append(
            Nodes(
                partition,
                _number(count),
                _number(cpus),
                _number(memory),
                gpus,
                kind,
                "" if features == "(null)" else features,
                others,
                _out("".join(states)),
            )
        )
    return tuple(found)


def _out(states: str) -> int:
    """Return the third of four numbers with slashes between them; 0 for another form."""
    numbers = states.split("/")
    return int(numbers[2]) if len(numbers) == 4 and numbers[2].isdecimal() else 0


def read_gres(text: str) -> tuple[int, str, tuple[str, ...]]:
    """Return the number of GPUs of a node, their type and others, from sinfo's ``%G``.

    Of several types, the first is the one with the most GPUs; MIG devices only if there is nothing
    else. GPUs of the other types are not counted.
    Examples: ``gpu:a100:4(S:0-1),nvme:1``, ``gpu:4``, ``gpu:2080ti:8``,
    ``gpu:h100:4,gpu:1g.10gb:7``, ``(null)``.
    """
    counts: dict[str, int] = {}
    for part in re.sub(r"\([^)]*\)", "", text).split(","):
        name, *words = part.strip().split(":")
        if name == "gpu":
            # A single number is a count, and the first of two a type, as in gpu:3090:8.
            count = int(words.pop()) if words and words[-1].isdecimal() else 1
            kind = words[0] if words and words[0] != "no_consume" else ""
            counts[kind] = counts.get(kind, 0) + count
    if not counts:
        return 0, "", ()
    kind = max(counts, key=lambda kind: (mig_memory(kind) is None, counts[kind]))
    return counts[kind], kind, tuple(other for other in counts if other != kind)


def read_associations(answer: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return accounts and QOS from an answer of sacctmgr.

    It is that of ``sacctmgr show assoc`` with ``format=account,qos``.
    """
    accounts: dict[str, None] = {}
    qos: dict[str, None] = {}
    for line in answer.splitlines():
        account, separator, names = line.strip().partition("|")
        if separator and account:
            accounts[account] = None
            qos |= dict.fromkeys(name for name in names.split(",") if name)
    return tuple(accounts), tuple(qos)


def _associations() -> tuple[tuple[str, ...], str, tuple[str, ...], str]:
    """Return accounts, the default one, QOS, and why they are not known."""
    if shutil.which("sacctmgr") is None:
        return (), "", (), "sacctmgr is not here, so accounts are not known"
    command = ["sacctmgr", "--noheader", "--parsable2", "show"]
    user = getpass.getuser()
    try:
        answer = run_slurm([*command, "assoc", f"user={user}", "format=account,qos"])
        default = run_slurm([*command, "user", user, "format=defaultaccount"]).strip()
    except QueueUnavailable:
        return (), "", (), "sacctmgr does not answer, so accounts are not known"
    accounts, qos = read_associations(answer)
    first = default.splitlines()[0].strip() if default else ""
    return accounts, first, qos, ""


def _groups() -> frozenset[str] | None:
    """Return the names of the groups of this process; None if none has a name."""
    names = set()
    for number in {os.getegid(), *os.getgroups()}:
        try:
            names.add(grp.getgrgid(number).gr_name.lower())
        except KeyError:  # a group that this machine has no name for
            continue
    return frozenset(names) or None


def _setting(config: str, key: str) -> str:
    for line in config.splitlines():
        name, separator, value = line.partition("=")
        if separator and name.strip() == key:
            return value.strip()
    return ""


def _whole(text: str) -> bool:
    return text.rstrip("+").isdecimal()


def _number(text: str) -> int:
    return int(text.rstrip("+"))
