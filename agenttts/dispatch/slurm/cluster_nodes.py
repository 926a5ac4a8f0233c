"""The nodes of a cluster, where a profile names several that jobs may use."""

from __future__ import annotations

import re

from agenttts.dispatch.profile import JobResources
from agenttts.dispatch.slurm.commands import run_slurm
from agenttts.dispatch.slurm.node_lists import node_names, several
from agenttts.dispatch.slurm.partitions import SHOW_PARTITIONS
from agenttts.errors import MissingRequirement

_NODES = re.compile(r"(?<!\S)Nodes=(\S+)")


def nodes_in_partitions(answer: str) -> list[str]:
    """Return the nodes of all partitions, each once.

    Args:
        answer: That of `SHOW_PARTITIONS`. Lists of another form are
            skipped, e.g. ``(null)`` of a partition without nodes.
    """
    names: dict[str, None] = {}
    for listed in _NODES.findall(answer):
        try:
            names |= dict.fromkeys(node_names(listed))
        except ValueError:
            continue
    return list(names)


def nodes_besides(resources: JobResources, *, all_known: bool = False) -> list[str]:
    """Return all nodes of the cluster if ``nodelist`` names several, else none.

    They are asked for at each submission, because nodes come and go during a run. Partitions name
    them also where users may not list nodes (``PrivateData=nodes``), and cloud nodes that are
    powered down.

    Args:
        resources: The section.
        all_known: Whether every node that ``nodelist`` names has to be in a partition, else one.

    Raises:
        MissingRequirement: Nodes that ``nodelist`` names are not in any partition.
        QueueUnavailable: Slurm does not answer.
    """
    if resources.nodelist is None or not several(resources.nodelist):
        return []
    found = nodes_in_partitions(run_slurm(SHOW_PARTITIONS))
    wanted = node_names(resources.nodelist)
    present = set(found)
    missing = [name for name in wanted if name not in present]
    if missing and (all_known or len(missing) == len(wanted)):
        raise MissingRequirement(
            f"nodelist names {', '.join(missing[:5])}, and no partition of the cluster has "
            f"{'it' if len(missing) == 1 else 'them'} ('{' '.join(SHOW_PARTITIONS)}')",
            fix="correct nodelist in the profile ('sinfo -N' lists the nodes)",
        )
    return found
