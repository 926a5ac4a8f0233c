"""The archive: trials, pending allocations, and the guidelines written from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agenttts.space import Allocation, SearchSpace


@dataclass(frozen=True)
class TrialResult:
    """What the archive keeps of a trial.

    ``score`` is None when the trial failed; 0 is a result.

    ``metrics`` holds the task's metrics; a stage's own are keyed ``STAGE.METRIC``. ``cost`` is in
    budget units. ``stderr`` is the score's standard error over its examples, where it is known.
    ``blamed``: a failure was the allocation's own, not the machine's or the queue's.
    """

    allocation: Allocation
    score: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: float = 0.0
    source: str = ""
    stderr: float | None = None
    blamed: bool = True


@dataclass(frozen=True)
class Scored:
    """A trial that counts: a finite score, and an allocation in the space."""

    allocation: Allocation
    score: float
    cost: float
    metrics: Mapping[str, float]
    stderr: float | None = None

    def stage_value(self, stage: str) -> float | None:
        """The stage's own metric (keys ``STAGE.METRIC``).

        It is the mean when the stage has several, and None without any.
        """
        values = [
            value
            for key, value in self.metrics.items()
            if key.startswith(f"{stage}.") and math.isfinite(value)
        ]
        return math.fsum(values) / len(values) if values else None


class Archive:
    """History of a search.

    Everything a searcher knows is here, so that telling it again rebuilds the searcher.

    An allocation is *known* once it was proposed or told; known ones are never proposed again,
    failed ones included. A failure that was not the allocation's own (``blamed`` false) is not
    kept: the allocation may be proposed again. Results for allocations outside the space (a budget
    lowered since) are kept but never recommended.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.guidelines: list[str] = []
        self._results: dict[Allocation, TrialResult] = {}
        self._known: set[Allocation] = set()
        self._scored: dict[Allocation, Scored] = {}

    def __contains__(self, allocation: object) -> bool:
        return allocation in self._known

    @property
    def known(self) -> frozenset[Allocation]:
        """Every allocation proposed or told so far."""
        return frozenset(self._known)

    @property
    def known_count(self) -> int:
        """How many allocations were proposed or told so far."""
        return len(self._known)

    @property
    def pending(self) -> tuple[Allocation, ...]:
        """The allocations that are known and not told, in their order: trials that are out."""
        return tuple(sorted(a for a in self._known if a not in self._results))

    @property
    def results(self) -> Sequence[TrialResult]:
        """Every result told, failed ones included, in the order told."""
        return tuple(self._results.values())

    @property
    def scored(self) -> Sequence[Scored]:
        """The trials that count, in the order told."""
        return tuple(self._scored.values())

    def add(self, results: Iterable[TrialResult]) -> None:
        """Take in results.

        A later score replaces an earlier one; a failure never erases a score.
        """
        for result in results:
            allocation = result.allocation
            self._known.add(allocation)
            failed = result.score is None or not math.isfinite(result.score)
            if failed and allocation in self._scored:
                continue
            if failed and not result.blamed:
                if allocation not in self._results:
                    self._known.discard(allocation)
                continue
            self._results[allocation] = result
            if result.score is not None and not failed and allocation in self.space:
                cost = self.space.cost(allocation)
                self._scored[allocation] = Scored(
                    allocation, result.score, cost, result.metrics, result.stderr
                )

    def add_pending(self, allocations: Iterable[Allocation]) -> None:
        """Register allocations that are out for evaluation. What was told already stays told."""
        self._known.update(allocations)

    def best(self) -> Scored | None:
        """The highest score (ties: the cheaper allocation); None before any trial scored."""
        return min(self.scored, key=lambda t: (-t.score, t.cost, t.allocation), default=None)

    def by_model(self, stage: str) -> dict[str, list[Scored]]:
        """The trials that count, grouped by the model that ``stage`` used.

        The models are in the stage's order.
        """
        groups: dict[str, list[Scored]] = {m.name: [] for m in self.space.stage(stage).models}
        for trial in self.scored:
            groups[trial.allocation[stage].model].append(trial)
        return groups

    def write_guidelines(self, guidelines: Iterable[str]) -> None:
        """Keep guidelines that are not yet written down, in order."""
        self.guidelines.extend(g for g in dict.fromkeys(guidelines) if g not in self.guidelines)
