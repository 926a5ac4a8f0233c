"""Shares: in what order to draw samples that others draw at the same time.

Trials of one iteration often begin alike, start at the same moment and miss the same samples. Each first draws for a part
of the prompts of its own, then helps the others with theirs, from the far end; between calls it leaves out what they
have stored meanwhile (`agenttts.inference.sampler`). Nobody waits and nothing is promised: where a peer never starts or
ends early, the others draw its part as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# A share is drawn in about so many calls of at least this many samples: smaller ones leave vLLM's batch half empty. (The own
# part may be smaller all the same: one such call, for what it saves when all are in step.)
_CALLS, _LEAST = 4, 256


@dataclass(frozen=True)
class Share:
    """The share of peer number ``position`` (from 0) of ``peers`` that draw from the same prompts at once."""

    position: int = 0
    peers: int = 1

    def parts(self, keys: Sequence[str]) -> list[list[str]]:
        """All of ``keys`` in the order to draw them, the own part first; every peer has to be given the same ones."""
        bounds = [len(keys) * peer // self.peers for peer in range(self.peers + 1)]
        parts = [list(keys[a:b]) for a, b in pairwise(bounds)]
        others = [parts[(self.position + step) % self.peers] for step in range(1, self.peers)]
        return [parts[self.position], *([*reversed(part)] for part in others)]

    def call_size(self, missing: int, most: int) -> int:
        """Samples of one engine call, of ``missing`` in all and ``most`` at a time: few enough for peers to take turns."""
        if self.peers == 1:
            return most
        return min(most, max(_LEAST, -(-missing // (_CALLS * self.peers))))


ALONE = Share()
