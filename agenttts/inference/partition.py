"""The order in which simultaneous trials draw their common samples.

Trials that run together often have the same first choices, start at the same moment and lack the
same samples. The prompts are divided between them. Each trial draws the samples of its own share
first, then samples of the other shares, from the ends of these. Between calls it leaves out the
samples that others have stored meanwhile (`agenttts.inference.sampler`). Trials do not block on
each other: if one never starts or ends early, the others draw its share as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# A share is drawn in about `_CALLS` engine calls of at least `_LEAST` samples each, because smaller
# calls do not fill vLLM's batch. A share with fewer samples is drawn in one call.
_CALLS, _LEAST = 4, 256


@dataclass(frozen=True)
class SamplePartition:
    """The share of peer ``position`` (from 0) of ``peers`` with the same prompts."""

    position: int = 0
    peers: int = 1

    def shares(self, keys: Sequence[str]) -> list[list[str]]:
        """Return all of ``keys`` in the order to draw them, the own share first.

        Every peer must be given the same keys in the same order.
        """
        bounds = [len(keys) * peer // self.peers for peer in range(self.peers + 1)]
        shares = [list(keys[a:b]) for a, b in pairwise(bounds)]
        others = [shares[(self.position + step) % self.peers] for step in range(1, self.peers)]
        return [shares[self.position], *([*reversed(share)] for share in others)]

    def call_size(self, missing: int, most: int) -> int:
        """Return the samples of one engine call; at most ``most``.

        With peers a call is smaller, so that between calls each peer finds what the others have
        stored.

        Args:
            missing: The missing samples in all.
            most: The largest call.
        """
        if self.peers == 1:
            return most
        return min(most, max(_LEAST, -(-missing // (_CALLS * self.peers))))


ALONE = SamplePartition()
