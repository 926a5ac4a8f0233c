"""How sure a searcher is of its recommendation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Confidence:
    """How sure it is that a recommended allocation is as good as the best.

    Attributes:
        within: A share of the best expected score.
        probability: The probability that the recommended allocation's expected score is at most
            this share below the best of all feasible allocations.
        shortfall: By how much it is expected to be below the best, in units of the score. Going on
            with the search can gain at most this.
    """

    within: float
    probability: float
    shortfall: float

    def __str__(self) -> str:
        return (
            f"within {self.within:.3g} of the best (relative) with probability "
            f"{self.probability:.2f}; expected to be {self.shortfall:.3g} below it"
        )


def since_text(trials: int) -> str:
    """Return how many trials a recommendation does not take into account, in words."""
    have, them = ("trial has", "it") if trials == 1 else ("trials have", "them")
    return f"{trials} {have} scored since this recommendation, which does not count {them}"
