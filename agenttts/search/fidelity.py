"""Which examples a trial is scored on.

A trial costs its allocation's compute on every example. Few examples give a noisy score, but more
allocations can be tried. Examples are in random order, cut into blocks. A new trial is scored on
the block that trials have used least, so that the search does not depend on the same few examples.
A trial is extended by a block that others have used, because scores on common examples can be
compared best.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from agenttts.errors import UserError, counted
from agenttts.search.archive import Archive
from agenttts.space import Allocation


@dataclass(frozen=True)
class Fidelity:
    """How many examples a trial is scored on.

    Args:
        first: Examples of a new trial, and of each extension.
        most: The most examples of an allocation.
        total: All examples that there are.

    Raises:
        UserError: ``first`` is over ``most``, or ``most`` over ``total``.
    """

    first: int
    most: int
    total: int

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.most <= self.total:
            raise UserError(
                f"examples: first {self.first}, most {self.most} do not fit "
                f"{counted(self.total, 'example')}; "
                f"valid: 1 <= first <= most <= {self.total}"
            )

    @cached_property
    def order(self) -> tuple[int, ...]:
        """All examples in random order, the same in every search."""
        order = list(range(self.total))
        random.Random("examples").shuffle(order)
        return tuple(order)

    @cached_property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """The examples in blocks of ``first``; the last one has some of the first."""
        starts = range(0, self.total, self.first)
        order = self.order * 2
        return tuple(tuple(order[start : start + self.first]) for start in starts)

    def may_extend(self, archive: Archive, allocation: Allocation) -> bool:
        """Return whether an allocation may be scored on further examples.

        It may not once that has failed.
        """
        seen = archive.examples_of(allocation)
        return len(seen) < self.most and not archive.failed_on(allocation)

    def next_block(self, archive: Archive, allocation: Allocation) -> tuple[int, ...]:
        """Return the examples on which an allocation is scored next; empty at the most."""
        seen = archive.examples_of(allocation)
        left = self.most - len(seen)
        new = [block for block in self.blocks if not seen.issuperset(block)]
        if left < 1 or not new:
            return ()
        used = archive.uses()
        sign = -1 if seen else 1
        block = min(new, key=lambda block: sign * sum(used.get(e, 0) for e in block) / len(block))
        return tuple(example for example in block if example not in seen)[:left]

    def common(self, archive: Archive, allocations: Sequence[Allocation]) -> tuple[int, ...]:
        """Return the examples on which allocations can be compared.

        These are all that one of them was scored on, at most ``most``. Those that more of them were
        scored on come first.
        """
        counts = Counter(e for allocation in allocations for e in archive.examples_of(allocation))
        order = {example: place for place, example in enumerate(self.order)}
        ranked = sorted(counts, key=lambda example: (-counts[example], order[example]))
        return tuple(sorted(ranked[: self.most])) or tuple(sorted(self.blocks[0]))
