"""Lists of nodes in Slurm's format.

They may be in a file. A request's list of excluded nodes and its list of wanted nodes are made to
fit each other. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import product

from agenttts.dispatch.slurm import syntax

_MOST_NODES = 100_000
_PART = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
_BALANCED = re.compile(r"(?:[^\[\]]|\[[^\[\]]*\])*")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


def node_names(text: str) -> list[str]:
    """Return the names in a list such as ``n[1-4,07],gpu9``, each once.

    Raises:
        ValueError: The text is not a list of nodes.
    """
    names: dict[str, None] = {}
    if _BALANCED.fullmatch(text) is None:
        raise ValueError(
            f"{text!r} is not a valid list of nodes; valid: names and ranges, e.g. n[1-4,7],gpu9"
        )
    for item in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", syntax.nodes(text)):
        parts = [_numbers(m[1]) if m[2] is None else [m[2]] for m in _PART.finditer(item)]
        count = 1
        for part in parts:
            count *= len(part)
        if len(names) + count > _MOST_NODES:
            raise ValueError(f"{text!r} lists more than {_MOST_NODES} nodes")
        names |= dict.fromkeys("".join(choice) for choice in product(*parts))
    if not names:
        raise ValueError(
            f"{text!r} does not name a node; valid: names and ranges, e.g. n[1-4,7],gpu9"
        )
    return list(names)


def names_of_file(text: str) -> str:
    """Return the list of nodes in a file for ``--exclude`` or ``--nodelist``.

    The file has lines of names, with ``#`` before comments.

    Raises:
        ValueError: The file holds something else.
    """
    words = [word for line in text.splitlines() for word in line.partition("#")[0].split()]
    listed = ",".join(word.strip(",") for word in words if word.strip(","))
    if "/" in listed:
        raise ValueError(
            f"{listed[:80]!r} is not a valid list of nodes; valid: names and ranges, e.g. n[1-4,7]"
        )
    node_names(listed)
    return listed


def is_file(text: str | None) -> bool:
    """Return whether sbatch takes a list of nodes for the name of a file."""
    return text is not None and "/" in text


def request_lists(
    exclude: str | None, nodelist: str | None, avoided: Sequence[str]
) -> tuple[str | None, str | None]:
    """Return what a request excludes and what it asks for, given nodes to avoid.

    A node that is asked for cannot be excluded too. So the avoided nodes are removed from
    ``nodelist``. If all of its nodes are avoided, they are asked for nevertheless, because the
    profile allows no others. A list that is a file is not changed.
    """
    if is_file(exclude) or is_file(nodelist) or nodelist is None:
        return excluded(exclude, nodelist, avoided), nodelist
    wanted = node_names(nodelist)
    left = [name for name in wanted if name not in avoided]
    if left and len(left) < len(wanted):
        nodelist, wanted = ",".join(left), left
    return _joined(exclude, avoided, wanted), nodelist


def excluded(exclude: str | None, nodelist: str | None, avoided: Sequence[str]) -> str | None:
    """Return what a job that already asks for ``nodelist`` can exclude."""
    if is_file(exclude):
        return exclude
    wanted = [] if nodelist is None or is_file(nodelist) else node_names(nodelist)
    return _joined(exclude, avoided, wanted)


def common_nodes(exclude: str | None, nodelist: str | None) -> list[str]:
    """Return the nodes that a profile both excludes and asks for."""
    if exclude is None or nodelist is None or is_file(exclude) or is_file(nodelist):
        return []
    both = set(node_names(exclude))
    return [name for name in node_names(nodelist) if name in both]


def _joined(exclude: str | None, avoided: Sequence[str], wanted: Collection[str]) -> str | None:
    kept = [name for name in avoided if name not in wanted]
    return ",".join(filter(None, (exclude, *kept))) or None


def _numbers(text: str) -> list[str]:
    """Return the numbers in ``1-4,07``, with the width in which they are written."""
    found: list[str] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"[{text}] is not a valid list of numbers; valid: e.g. [1-4,7]")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 <= last - first < _MOST_NODES:
            raise ValueError(f"[{text}] is not a valid list of numbers; valid: e.g. [1-4,7]")
        found += [f"{number:0{len(match[1])}}" for number in range(first, last + 1)]
    return found
