"""Check the partitions that a profile names with ``scontrol show partition``."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agenttts.dispatch.base import QueueUnavailable
from agenttts.dispatch.check import Check
from agenttts.dispatch.profile import JobResources
from agenttts.dispatch.slurm.commands import run_slurm
from agenttts.dispatch.slurm.node_lists import node_names
from agenttts.dispatch.slurm.syntax import minutes
from agenttts.errors import MissingRequirement, counted

SHOW_PARTITIONS = ["scontrol", "--all", "show", "partition", "--oneliner"]
"""Shows every partition on a line of its own, also hidden ones."""

_PAIR = re.compile(r"(\w+)=(\S*)")
_UNLIMITED = {"", "UNLIMITED", "INFINITE", "NONE", "(null)"}
_ALL = {"", "ALL", "NONE", "(NULL)", "N/A"}
_SHOWN = 20


@dataclass(frozen=True)
class Partition:
    """A partition's limits; None means no limit.

    ``state`` is UP, DOWN, DRAIN or INACTIVE. ``accounts``, ``qos`` and ``groups`` are those whose
    jobs it takes, in lower case; None for all. ``denied_accounts`` and ``denied_qos`` are those
    whose jobs it refuses.
    """

    name: str
    default: bool = False
    max_minutes: int | None = None
    max_nodes: int | None = None
    state: str = "UP"
    nodes: str = ""
    submit_nodes: str = "ALL"
    """AllocNodes: the nodes from which jobs for it may be submitted."""
    min_nodes: int = 0
    accounts: frozenset[str] | None = None
    denied_accounts: frozenset[str] = frozenset()
    qos: frozenset[str] | None = None
    denied_qos: frozenset[str] = frozenset()
    groups: frozenset[str] | None = None
    reserved: bool = False
    """ReqResv: it takes only jobs of a reservation."""
    hidden: bool = False
    """Hidden: Slurm's commands show it only with ``--all``."""
    root_only: bool = False
    """RootOnly: it takes only jobs of root and of Slurm's own user."""
    node_list: str = ""
    """The names of its nodes, in Slurm's format."""
    whole_nodes: bool = False
    """Whether each job gets a whole node.

    ``OverSubscribe=EXCLUSIVE`` says so; from Slurm 26.11 on, ``Exclusive=NODE`` or ``TOPO``.
    """

    @property
    def submit_hosts(self) -> frozenset[str] | None:
        """The names in ``submit_nodes``; None for all, or if they cannot be read."""
        return None if self.submit_nodes.upper() in _ALL else _expanded(self.submit_nodes)

    def takes_jobs_from(self, nodes: str) -> bool:
        """Return whether jobs may be submitted from all of ``nodes``, a Slurm list."""
        names = _expanded(nodes)
        return self.submit_hosts is None or (names is not None and names <= self.submit_hosts)


def read_partitions(answer: str) -> dict[str, Partition]:
    """Read the answer of `SHOW_PARTITIONS`.

    Lines of another form are skipped.
    """
    found = {}
    for line in answer.splitlines():
        fields = dict(_PAIR.findall(line))
        name = fields.get("PartitionName")
        if name:
            found[name] = Partition(
                name,
                default=fields.get("Default") == "YES",
                max_minutes=_minutes(fields.get("MaxTime", "")),
                max_nodes=_count(fields.get("MaxNodes", "")),
                state=fields.get("State", "UP"),
                nodes=fields.get("TotalNodes", ""),
                submit_nodes=fields.get("AllocNodes", "ALL"),
                min_nodes=_count(fields.get("MinNodes", "")) or 0,
                accounts=_names_in(fields.get("AllowAccounts", "")),
                denied_accounts=_names_in(fields.get("DenyAccounts", "")) or frozenset(),
                qos=_names_in(fields.get("AllowQos", "")),
                denied_qos=_names_in(fields.get("DenyQos", "")) or frozenset(),
                groups=_names_in(fields.get("AllowGroups", "")),
                reserved=fields.get("ReqResv") == "YES",
                hidden=fields.get("Hidden") == "YES",
                root_only=fields.get("RootOnly") == "YES",
                node_list=fields.get("Nodes", ""),
                whole_nodes=fields.get("OverSubscribe") == "EXCLUSIVE"
                or fields.get("Exclusive") in ("NODE", "TOPO"),
            )
    return found


def read_parents(answer: str) -> dict[str, str]:
    """Return each account's parent account, in lower case.

    ``answer`` is that of ``sacctmgr show assoc`` with ``format=account,parentname``.
    """
    pairs = (line.strip().lower().split("|") for line in answer.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and all(pair)}


def partition_checks(what: str, resources: JobResources) -> list[Check]:
    """Check the partitions of the profile's section ``what``.

    A section may name several partitions, separated by commas. If it names none, the cluster's
    default is checked.

    Raises:
        QueueUnavailable: Slurm does not answer.
    """
    return judge_partitions(what, resources, _known(), account_parents(), short_host_name())


def why_refused(what: str, resources: JobResources) -> Check | None:
    """Return why no partition of a section would take its jobs; None if one may.

    A partition that is down comes back. Without an answer of Slurm it is not known.
    """
    try:
        known = {name: replace(found, state="UP") for name, found in _known().items()}
    except MissingRequirement:
        return None
    if not known:
        return None
    verdicts = judge_partitions(what, resources, known, account_parents(), short_host_name())
    return verdicts[0] if all(v.ok is False for v in verdicts) else None


def above_time_limit(what: str, resources: JobResources) -> Check | None:
    """Return why the time of a job keeps it from starting; None if it may start.

    A QOS may allow more time than the partition.
    """
    if resources.qos is not None:
        return None
    found = why_refused(what, resources)
    if found is None or why_refused(what, resources.model_copy(update={"time": "1"})) is not None:
        return None
    return found


def _known() -> dict[str, Partition]:
    return read_partitions(run_slurm(SHOW_PARTITIONS))


def short_host_name() -> str:
    """Return the name that Slurm compares with AllocNodes on this host."""
    return socket.gethostname().partition(".")[0]


def account_parents() -> dict[str, str] | None:
    """Return each account's parent; None if the cluster does not tell."""
    if shutil.which("sacctmgr") is None:
        return None
    try:
        answer = run_slurm(
            [
                "sacctmgr",
                "--noheader",
                "--parsable2",
                "show",
                "assoc",
                "user=",
                "format=account,parentname",
            ]
        )
    except QueueUnavailable:
        return None
    return read_parents(answer)


def judge_partitions(
    what: str,
    resources: JobResources,
    known: dict[str, Partition],
    parents: Mapping[str, str] | None = None,
    host: str | None = None,
) -> list[Check]:
    """Do the checks of `partition_checks` on what is known of the cluster.

    Args:
        what: The section's name.
        resources: The section.
        known: The cluster's partitions by name.
        parents: Each account's parent; None if they are not known.
        host: The host that submits, as Slurm names it; None if it does not matter.
    """
    named = resources.partition
    label = f"{what} partition"
    if named is None:
        chosen = [partition for partition in known.values() if partition.default]
        if not chosen:
            return [
                Check(
                    label,
                    False,
                    "the profile does not name a partition, and the cluster has no default",
                    f"set {what}.partition in the profile; valid: {_names(known)}",
                )
            ]
    else:
        names = named.split(",")
        missing = [name for name in names if name not in known]
        if missing:
            return [
                Check(
                    label,
                    False,
                    f"partition '{missing[0]}' does not exist; valid: {_names(known)}",
                    f"set {what}.partition in the profile",
                )
            ]
        chosen = [known[name] for name in names]
    # Of several partitions, Slurm uses the one where the job starts first. One that fits is enough.
    verdicts = [_judge(label, what, partition, resources, parents, host) for partition in chosen]
    fitting = [verdict for verdict in verdicts if verdict.ok]
    if not fitting:
        return verdicts
    return [
        v
        if v.ok
        else Check(v.what, None, f"{v.detail}; jobs run in another of the named partitions")
        for v in verdicts
    ]


def _judge(
    label: str,
    what: str,
    partition: Partition,
    resources: JobResources,
    parents: Mapping[str, str] | None,
    host: str | None,
) -> Check:
    time = resources.time
    asked = minutes(time)
    most = partition.max_minutes
    shown = f"{partition.name}{' (the default)' if partition.default else ''}"
    if partition.state != "UP":
        return Check(
            label,
            False,
            f"{shown} is {partition.state}",
            "wait until 'sinfo' shows it as up, or choose another partition in the profile",
        )
    if most is not None and asked > most:
        unless = f" unless the QOS {resources.qos} allows it" if resources.qos else ""
        return Check(
            label,
            False,
            f"{what}.time is {time}, and the limit of {shown} is {_time(most)} (MaxTime): "
            f"jobs would never start{unless}",
            f"set {what}.time: {_time(most)} or less in the profile, or choose another partition",
        )
    if partition.max_nodes == 0:
        return Check(
            label,
            False,
            f"{shown} runs no jobs (MaxNodes=0)",
            f"choose another {what}.partition",
        )
    if partition.min_nodes > 1:
        return Check(
            label,
            False,
            f"{shown} accepts only jobs of {partition.min_nodes} or more nodes (MinNodes), "
            "and every job of a run uses one",
            f"choose another {what}.partition",
        )
    if partition.reserved and resources.reservation is None:
        return Check(
            label,
            False,
            f"{shown} accepts only jobs with a reservation (ReqResv)",
            f"set {what}.reservation in the profile ('scontrol show reservation' lists them), "
            "or choose another partition",
        )
    if partition.root_only and os.geteuid() != 0:
        return Check(
            label,
            False,
            f"{shown} accepts only jobs of root (RootOnly)",
            f"choose another {what}.partition",
        )
    if host is not None and not partition.takes_jobs_from(host):
        return Check(
            label,
            False,
            f"{shown} accepts only jobs that are submitted on {partition.submit_nodes} "
            f"(AllocNodes), and this is {host}",
            f"run on one of these hosts, or choose another {what}.partition",
        )
    limit = "no time limit" if most is None else f"MaxTime {_time(most)}"
    detail = f"{shown}: {counted(partition.nodes, 'node')}, {limit}, {what}.time {time}"
    notes = ["gives each job a whole node"] if partition.whole_nodes else []
    for key, named, allowed, denied, above in (
        ("account", resources.account, partition.accounts, partition.denied_accounts, parents),
        ("qos", resources.qos, partition.qos, partition.denied_qos, None),
    ):
        problem = _refused(key, named, allowed, denied, above)
        if problem is None:
            continue
        sure, text = problem
        if sure:
            return Check(
                label,
                False,
                f"{shown} {text}: jobs would be refused or never start",
                f"set {what}.{key} or {what}.partition in the profile ('sacctmgr show assoc "
                "user=$USER format=account,qos,defaultqos' lists what you have)",
            )
        notes.append(text)
    return Check(label, True, "; it ".join([detail, *notes]))


def _refused(
    key: str,
    named: str | None,
    allowed: frozenset[str] | None,
    denied: frozenset[str],
    parents: Mapping[str, str] | None,
) -> tuple[bool, str] | None:
    """Return whether a partition refuses the accounts (or QOS) in ``named``.

    In Slurm, an allowed account allows the accounts below it too (slurm.conf(5), AllowAccounts).
    Slurm does not look at denied accounts if others are allowed.

    The result is whether the refusal is certain, and a text that says what the partition takes. It
    is None if nothing is refused.
    """
    given = [name.strip().lower() for name in (named or "").split(",") if name.strip()]
    word = "accounts" if key == "account" else "QOS"
    if allowed is not None:
        if any(allowed & set(with_parents(name, parents or {})) for name in given):
            return None
        text = f"accepts only jobs of the {word} {_listed(allowed)}"
        if not given:
            return False, f"{text} (the profile does not name the {key}; jobs use your default)"
        text += f", and the profile's {key} is {named}"
        # A cluster may show a user only some accounts. For an account that it does not show, the
        # accounts above it are not known.
        sure = key != "account" or (parents is not None and all(name in parents for name in given))
        return sure, text if sure else f"{text} (an account below one of them is accepted too)"
    if given and denied.issuperset(given):
        return (
            True,
            f"does not accept jobs of the {word} {_listed(denied)}, and the profile's {key} "
            f"is {named}",
        )
    return None


def with_parents(name: str, parents: Mapping[str, str]) -> list[str]:
    """Return an account and those above it."""
    line = [name]
    while (above := parents.get(line[-1])) is not None and above not in line:
        line.append(above)
    return line


def _listed(names: frozenset[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more


def _names_in(text: str) -> frozenset[str] | None:
    """Return the names in a list of accounts or QOS; None for all."""
    if text.upper() in _ALL:
        return None
    return frozenset(name.lower() for name in text.split(",") if name)


def _names(known: dict[str, Partition]) -> str:
    names = list(known)
    return (
        ", ".join(names[:_SHOWN])
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        or "none"
    )


def _expanded(nodes: str) -> frozenset[str] | None:
    """Return the names in a list of nodes; None if it is of an unknown form."""
    try:
        return frozenset(node_names(nodes))
    except ValueError:
        return None


def _minutes(text: str) -> int | None:
    if text.upper() in _UNLIMITED:
        return None
    try:
        return minutes(text)
    except ValueError:  # an unknown form, perhaps of a later Slurm: it counts as no limit
        return None


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _time(total: int) -> str:
    """Return a number of minutes in Slurm's format."""
    days, rest = divmod(total, 24 * 60)
    text = f"{rest // 60:02}:{rest % 60:02}:00"
    return f"{days}-{text}" if days else text
