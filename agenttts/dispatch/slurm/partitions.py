"""What ``scontrol show partition`` says of the partitions that a profile names, against what the profile asks of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agenttts.dispatch.check import Check
from agenttts.dispatch.slurm.queue import run_slurm
from agenttts.dispatch.slurm.syntax import minutes

_PAIR = re.compile(r"(\w+)=(\S*)")
_UNLIMITED = {"", "UNLIMITED", "INFINITE", "NONE", "(null)"}
_SHOWN = 20


@dataclass(frozen=True)
class Partition:
    """A partition's limits; None where it has none. ``state`` is UP, DOWN, DRAIN or INACTIVE."""

    name: str
    default: bool = False
    max_minutes: int | None = None
    max_nodes: int | None = None
    state: str = "UP"
    nodes: str = ""
    submit_nodes: str = "ALL"
    """AllocNodes: where jobs for it may be submitted."""


def read_partitions(answer: str) -> dict[str, Partition]:
    """The partitions in the answer of ``scontrol --all show partition --oneliner``; lines of another form are skipped."""
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
            )
    return found


def partition_checks(what: str, named: str | None, time: str) -> list[Check]:
    """The checks of the partition (or partitions, with commas between) of ``what``, the profile's section.

    ``named`` None: the cluster's default; ``time``: the section's time limit. Raises `QueueUnavailable`.
    """
    answer = run_slurm(["scontrol", "--all", "show", "partition", "--oneliner"])
    return judge_partitions(what, named, time, read_partitions(answer))


def judge_partitions(
    what: str, named: str | None, time: str, known: dict[str, Partition]
) -> list[Check]:
    """`partition_checks`, given what the cluster has."""
    label = f"{what} partition"
    if named is None:
        chosen = [partition for partition in known.values() if partition.default]
        if not chosen:
            return [
                Check(
                    label,
                    False,
                    "the profile names none and the cluster has no default",
                    f"set {what}.partition in the profile (there are: {_names(known)})",
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
                    f"there is no partition '{missing[0]}' (there are: {_names(known)})",
                    f"set {what}.partition in the profile",
                )
            ]
        chosen = [known[name] for name in names]
    # Of several, Slurm takes the one where a job starts first: one that fits is enough.
    verdicts = [_judge(label, what, partition, time) for partition in chosen]
    fitting = [verdict for verdict in verdicts if verdict.ok]
    if not fitting:
        return verdicts
    return [v if v.ok else Check(v.what, None, f"{v.detail}; jobs go to the other") for v in verdicts]  # fmt: skip


def _judge(label: str, what: str, partition: Partition, time: str) -> Check:
    asked = minutes(time)
    most = partition.max_minutes
    shown = f"{partition.name}{' (the default)' if partition.default else ''}"
    if partition.state != "UP":
        return Check(
            label,
            False,
            f"{shown} is {partition.state}",
            "wait until 'sinfo' shows it up, or choose another in the profile",
        )
    if most is not None and asked > most:
        return Check(
            label,
            False,
            f"{shown} lets jobs run for {_time(most)} (MaxTime) and {what}.time is {time}: they would never start",
            f"set {what}.time: {_time(most)} or less in the profile, or choose another partition",
        )
    if partition.max_nodes == 0:
        return Check(
            label,
            False,
            f"{shown} gives a job no node (MaxNodes=0)",
            f"choose another {what}.partition",
        )
    limit = "no time limit" if most is None else f"MaxTime {_time(most)}"
    return Check(label, True, f"{shown}: {partition.nodes} nodes, {limit}, {what}.time {time}")


def _names(known: dict[str, Partition]) -> str:
    names = list(known)
    return (
        ", ".join(names[:_SHOWN])
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        or "none"
    )


def _minutes(text: str) -> int | None:
    if text.upper() in _UNLIMITED:
        return None
    try:
        return minutes(text)
    except ValueError:  # a form that Slurm may yet invent: no limit is told from it
        return None


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _time(total: int) -> str:
    """Minutes as Slurm writes them."""
    days, rest = divmod(total, 24 * 60)
    text = f"{rest // 60:02}:{rest % 60:02}:00"
    return f"{days}-{text}" if days else text
