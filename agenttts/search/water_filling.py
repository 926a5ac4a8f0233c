"""Split a budget over stages by water-filling: first where it brings most.

The idea is that of ZEBRA (arXiv 2605.20485).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Option(Generic[T]):
    """One choice of a stage: what it costs and what it is worth.

    The worth of an allocation is the sum over its stages.
    """

    cost: float
    worth: float
    choice: T


def water_fill(stages: Sequence[Sequence[Option[T]]], budget: float) -> list[Option[T]] | None:
    """Return one option for each stage, together within the budget; None if none fits.

    Every stage starts with its cheapest option. Steps along the stages' concave hulls are taken in
    the order of worth per cost while they fit. Then single stages are exchanged as long as that is
    worth more. The result is at most one step of a hull below the best split.
    """
    hulls = [_hull(options) for options in stages]
    taken = [hull[0] for hull in hulls]
    spent = sum(option.cost for option in taken)
    if spent > budget:
        return None
    steps = sorted(
        (-(after.worth - before.worth) / (after.cost - before.cost), number, place)
        for number, hull in enumerate(hulls)
        for place, (before, after) in enumerate(itertools.pairwise(hull))
    )
    for _, number, place in steps:
        before, after = hulls[number][place], hulls[number][place + 1]
        # A step that did not fit stops its stage; the other stages go on.
        if taken[number] is before and spent + after.cost - before.cost <= budget:
            taken[number] = after
            spent += after.cost - before.cost
    while True:
        left = budget - spent
        better = [
            (option.worth - taken[number].worth, number, option)
            for number, options in enumerate(stages)
            for option in options
            if option.worth > taken[number].worth and option.cost - taken[number].cost <= left
        ]
        if not better:
            return taken
        _, number, option = max(better, key=lambda item: item[0])
        spent += option.cost - taken[number].cost
        taken[number] = option


def _hull(options: Sequence[Option[T]]) -> list[Option[T]]:
    """Return the options on the upper concave hull of worth over cost, cheapest first."""
    hull: list[Option[T]] = []
    for option in sorted(options, key=lambda o: (o.cost, -o.worth)):
        if hull and option.worth <= hull[-1].worth:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(before: Option[T], after: Option[T]) -> float:
    return (after.worth - before.worth) / (after.cost - before.cost)
