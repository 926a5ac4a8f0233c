"""The archive: trials, pending allocations, and the guidelines written from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agenttts.space import Allocation, SearchSpace
from agenttts.tables.schema import stage_metrics

# The source of results that the stored samples of other trials gave, without a trial.
STORED = "stored"

# Larger values, of either sign, do not count: models of the scores need their squares.
_LARGEST_VALUE = 1e100


@dataclass(frozen=True)
class TrialResult:
    """What the archive keeps of a trial.

    ``score`` is None when the trial failed; 0 is a result.

    ``metrics`` holds the task's metrics; a stage's own are keyed ``STAGE.METRIC``. ``cost`` is in
    budget units. ``stderr`` and ``metrics_stderr`` are the standard errors of the score and of the
    metrics over the examples, where they are known.
    ``blamed``: a failure was the allocation's own, not the machine's or the queue's. ``examples``
    are the scores by number of the example, where they are known; ``score`` is their mean.
    """

    allocation: Allocation
    score: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: float = 0.0
    source: str = ""
    stderr: float | None = None
    blamed: bool = True
    examples: Mapping[int, float] | None = None
    metrics_stderr: Mapping[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether there is no score that counts."""
        return self.score is None or not _counts(self.score)

    def joined(self, earlier: TrialResult) -> TrialResult:
        """Return the result on these examples and an earlier one's."""
        if (
            not self.examples
            or not earlier.examples
            or earlier.examples.keys() <= self.examples.keys()
        ):
            return self
        old, new = len(earlier.examples.keys() - self.examples.keys()), len(self.examples)
        examples = {**earlier.examples, **self.examples}
        metrics = {
            name: (new * value + old * earlier.metrics[name]) / (new + old)
            for name, value in self.metrics.items()
            if name in earlier.metrics
        }
        errors = {
            name: math.hypot(new * error, old * earlier.metrics_stderr[name]) / (new + old)
            for name, error in self.metrics_stderr.items()
            if name in earlier.metrics_stderr
        }
        score = math.fsum(examples.values()) / len(examples)
        return replace(
            self,
            score=score,
            metrics=metrics,
            stderr=None,
            examples=examples,
            metrics_stderr=errors,
        )


@dataclass(frozen=True)
class Scored(TrialResult):
    """A trial that counts: its score does, and its allocation is in the space.

    ``cost`` is that of the space.
    """

    score: float

    @property
    def stored(self) -> bool:
        """Whether the samples of another trial gave the score."""
        return self.source == STORED

    def stage_value(self, stage: str) -> float | None:
        """The stage's own metric (keys ``STAGE.METRIC``).

        It is the mean when the stage has several, and None without any.
        """
        return self._stage_mean(stage, self.metrics)

    def stage_stderr(self, stage: str) -> float | None:
        """Standard error of the stage's metric, the mean of several; None if not known."""
        return self._stage_mean(stage, self.metrics_stderr)

    def _stage_mean(self, stage: str, values: Mapping[str, float]) -> float | None:
        stages = [choice.stage for choice in self.allocation.choices]
        own = [v for v in stage_metrics(values, stage, stages).values() if _counts(v)]
        return math.fsum(own) / len(own) if own else None


def _counts(value: float) -> bool:
    return abs(value) <= _LARGEST_VALUE  # false for NaN


class Archive:
    """History of a search.

    Everything a searcher knows is here, so that telling it again rebuilds the searcher.

    An allocation is *known* once it was proposed or told; known ones are not proposed again, failed
    ones included, except on further examples. A failure that was not the allocation's own
    (``blamed`` false) is not kept: the allocation may be proposed again. Results for allocations
    outside the space (a budget lowered since) are kept but never recommended.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.guidelines: list[str] = []
        self._results: dict[Allocation, TrialResult] = {}
        self._pending: dict[Allocation, tuple[int, ...] | None] = {}
        self._scored: dict[Allocation, Scored] = {}
        self._lost: set[Allocation] = set()
        self._failed_on: dict[Allocation, set[int]] = {}
        # The examples that each allocation is counted with in `_uses`, and what has changed since.
        self._counted: dict[Allocation, frozenset[int]] = {}
        self._uses: Counter[int] = Counter()
        self._recount: set[Allocation] = set()
        self.tells = 0
        """How often results were added."""
        self.asks = 0
        """How often allocations were registered as pending."""

    def __contains__(self, allocation: object) -> bool:
        return allocation in self._results or allocation in self._pending

    @property
    def known(self) -> frozenset[Allocation]:
        """Every allocation proposed or told so far."""
        return frozenset(self._results.keys() | self._pending.keys())

    @property
    def tried(self) -> frozenset[Allocation]:
        """Every allocation proposed or told so far, without the stored ones."""
        return frozenset({r.allocation for r in self.evaluated} | self._pending.keys())

    @property
    def evaluated(self) -> Sequence[TrialResult]:
        """The results of trials in the order told, without the stored ones."""
        return tuple(r for r in self._results.values() if r.source != STORED)

    @property
    def lost(self) -> frozenset[Allocation]:
        """Allocations of which a trial failed, and not by their own fault."""
        return frozenset(self._lost)

    @property
    def pending(self) -> tuple[Allocation, ...]:
        """The allocations whose trials are out, in their order."""
        return tuple(sorted(self._pending))

    @property
    def results(self) -> Sequence[TrialResult]:
        """Every result told, failed ones included, in the order told."""
        return tuple(self._results.values())

    @property
    def scored(self) -> Sequence[Scored]:
        """The trials that count, in the order told."""
        return tuple(self._scored.values())

    def examples_of(self, allocation: Allocation) -> frozenset[int]:
        """The examples on which an allocation was scored, or is being scored."""
        told = self._scored.get(allocation)
        seen = told.examples if told is not None and told.examples else {}
        return frozenset((*seen, *(self._pending.get(allocation) or ())))

    def failed_on(self, allocation: Allocation) -> frozenset[int]:
        """The examples on which trials of an allocation failed by their own fault."""
        return frozenset(self._failed_on.get(allocation, ()))

    def uses(self) -> Mapping[int, int]:
        """How many tried allocations were scored on, or failed on, an example, by example.

        Those that are being scored on it count, too, and stored results do not.
        """
        for allocation in self._recount:
            result = self._results.get(allocation)
            tried = allocation in self._pending or (result is not None and result.source != STORED)
            now = (
                self.examples_of(allocation) | self.failed_on(allocation) if tried else frozenset()
            )
            before = self._counted.get(allocation, frozenset())
            self._uses.update(now - before)
            self._uses.subtract(before - now)
            self._counted[allocation] = now
        self._recount.clear()
        return self._uses

    def add(self, results: Iterable[TrialResult]) -> None:
        """Take in results.

        Scores on further examples are joined with the earlier ones. Without examples a later score
        replaces an earlier one. A failure never erases a score. A stored result of an allocation
        that a trial has evaluated does not make it a stored one.
        """
        self.tells += 1
        for result in results:
            allocation = result.allocation
            self._recount.add(allocation)
            awaited = self._pending.get(allocation)
            # Stored results on other examples than a trial's do not end it.
            known = result.examples or {}
            if result.source != STORED or not awaited or set(awaited) <= known.keys():
                self._pending.pop(allocation, None)
            if result.failed and result.blamed and awaited:
                on = set(awaited) - self.examples_of(allocation)
                self._failed_on.setdefault(allocation, set()).update(on)
            elif not result.failed and allocation in self._failed_on:
                self._failed_on[allocation] -= known.keys()
            if result.failed and not result.blamed:
                self._lost.add(allocation)
            if result.failed and (allocation in self._scored or not result.blamed):
                continue
            earlier = self._results.get(allocation)
            if earlier is not None and not earlier.failed:
                result = result.joined(earlier)
                if result.source == STORED:
                    result = replace(result, source=earlier.source)
            self._results[allocation] = result
            if result.score is not None and not result.failed and allocation in self.space:
                cost = self.space.cost(allocation)
                self._scored[allocation] = Scored(**{**vars(result), "cost": cost})

    def add_pending(
        self, allocations: Iterable[Allocation], examples: Sequence[int] | None = None
    ) -> None:
        """Register allocations whose trials are out.

        A trial that was told is out again only with further examples.
        """
        self.asks += 1
        for allocation in allocations:
            if allocation not in self._results or set(examples or ()) - self.examples_of(
                allocation
            ):
                self._pending[allocation] = tuple(examples) if examples is not None else None
                self._recount.add(allocation)

    def best(self, *, tried: bool = False) -> Scored | None:
        """The highest score (ties: the cheaper allocation); None before any trial scored.

        With ``tried`` it is that of the trials alone, without stored ones.
        """
        may = (trial for trial in self.scored if not (tried and trial.stored))
        return min(may, key=lambda t: (-t.score, t.cost, t.allocation), default=None)

    def write_guidelines(self, guidelines: Iterable[str]) -> None:
        """Keep guidelines that are not yet written down, in order."""
        self.guidelines.extend(g for g in dict.fromkeys(guidelines) if g not in self.guidelines)
