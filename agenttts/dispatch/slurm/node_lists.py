"""Lists of nodes in Slurm's format.

They may be in a file. A request's list of excluded nodes and its list of wanted nodes are made to
fit each other and jobs of one node. Pure.
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
_NUMBERED = re.compile(r"(.*?\D)(\d{1,9})", re.ASCII)


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


def several(nodelist: str | None) -> bool:
    """Return whether a profile lets its jobs choose between nodes that it names."""
    return nodelist is not None and not is_file(nodelist) and len(node_names(nodelist)) > 1


def request_lists(
    exclude: str | None, nodelist: str | None, avoided: Sequence[str], cluster: Sequence[str] = ()
) -> tuple[str | None, str | None]:
    """Return what a request excludes and what it asks for.

    A job takes one node, and Slurm's ``--nodelist`` asks for all nodes that it names. So if
    ``nodelist`` names several, all others of the cluster are excluded instead. The avoided ones
    among the several are excluded too, unless all of them are avoided: then they may be used
    nevertheless, because the profile allows no others.

    A single node is asked for, and not excluded. A list that is a file is not changed.

    Args:
        exclude: The nodes that the profile excludes.
        nodelist: The nodes that the profile allows.
        avoided: Further nodes to avoid.
        cluster: All nodes of the cluster; needed if ``nodelist`` names several.
    """
    if is_file(exclude):
        return exclude, nodelist
    wanted = [] if nodelist is None or is_file(nodelist) else node_names(nodelist)
    present = set(wanted) & set(cluster)
    if len(wanted) < 2 or not present:
        return _joined(exclude, [name for name in avoided if name not in wanted]), nodelist
    kept = (present - set(avoided)) or present
    named = kept | set(node_names(exclude) if exclude else ())
    others = [name for name in cluster if name not in named]
    return _joined(exclude, compressed(others)), None


def compressed(names: Sequence[str]) -> list[str]:
    """Return the items of a list of nodes, with consecutive numbers as ranges.

    Only numbers at the end of a name become ranges, because Slurm allows nothing after them.
    """
    numbers: dict[tuple[str, int], set[int]] = {}
    items: dict[str, None] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is None:
            items[name] = None
        else:
            numbers.setdefault((match[1], len(match[2])), set()).add(int(match[2]))
    for (stem, width), found in numbers.items():
        pairs = [(f"{first:0{width}}", f"{last:0{width}}") for first, last in _spans(found)]
        spans = ",".join(first if first == last else f"{first}-{last}" for first, last in pairs)
        items[f"{stem}{spans}" if len(found) == 1 else f"{stem}[{spans}]"] = None
    return list(items)


def common_nodes(exclude: str | None, nodelist: str | None) -> list[str]:
    """Return the nodes that a profile both excludes and asks for."""
    if exclude is None or nodelist is None or is_file(exclude) or is_file(nodelist):
        return []
    both = set(node_names(exclude))
    return [name for name in node_names(nodelist) if name in both]


def _joined(exclude: str | None, more: Sequence[str]) -> str | None:
    return ",".join(filter(None, (exclude, *more))) or None


def _spans(numbers: Collection[int]) -> list[tuple[int, int]]:
    """Return the first and the last number of each run of consecutive ones."""
    ordered = sorted(numbers)
    firsts = [n for n in ordered if n - 1 not in numbers]
    lasts = [n for n in ordered if n + 1 not in numbers]
    return list(zip(firsts, lasts, strict=True))


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
