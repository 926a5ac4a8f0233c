"""The evidence: what the results of a search say, as arrays.

Every model and rule takes it. Allocations are encoded here, once for each state of the archive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from agenttts.search.archive import Archive, Scored
from agenttts.search.encoding import ChoiceGrid, Rows
from agenttts.search.gaussian import Floats
from agenttts.search.noise import ExampleNoise, example_noise, squared_errors

# A score is an outlier if it is below the best by more than so many times the best's size and the
# distance of the best to the last of this share of all scores. No score from 0 on can be one.
_OUTLIER_DISTANCE, _REGULAR_SHARE = 100.0, 0.75


@dataclass(frozen=True, eq=False)
class Evidence:
    """Results and pending trials of one state of an archive, those in the space.

    A trial with a score far below all others, such as -1e6 among scores from -60 to -10, counts as
    failed. In units of a spread that contains it, the others would all be equal.

    Attributes:
        grid: Numbers the choices.
        trials: The trials that count, sorted by allocation.
        rows: Their choice numbers, shape (trials, stages).
        failed: Choice numbers of allocations without a score that counts.
        pending: Choice numbers of allocations whose trials are out.
        evaluated: The number of results, without the stored ones.
        told: Numbers of the trials in the order told.
    """

    grid: ChoiceGrid
    trials: Sequence[Scored]
    rows: Rows
    failed: Rows
    pending: Rows
    evaluated: int
    told: Sequence[int] = ()

    @classmethod
    def of(cls, grid: ChoiceGrid, archive: Archive) -> Evidence:
        """Return the evidence of an archive over the grid's space."""
        least = _least_regular([trial.score for trial in archive.scored])
        regular = [trial for trial in archive.scored if trial.score >= least]
        trials = tuple(sorted(regular, key=lambda trial: trial.allocation))
        numbers = {trial.allocation: number for number, trial in enumerate(trials)}
        failed = {result.allocation for result in archive.results} - numbers.keys()
        return cls(
            grid,
            trials,
            grid.encode(trial.allocation for trial in trials),
            grid.encode(sorted(allocation for allocation in failed if allocation in grid.space)),
            _pending(grid, archive),
            len(archive.evaluated),
            [numbers[trial.allocation] for trial in regular],
        )

    def part(self, numbers: Sequence[int]) -> Evidence:
        """Return the evidence with some of its trials."""
        trials = tuple(self.trials[number] for number in numbers)
        return replace(self, trials=trials, rows=self.rows[list(numbers)], told=())

    @cached_property
    def scores(self) -> Floats:
        """The trials' scores."""
        return np.array([trial.score for trial in self.trials], dtype=np.float64)

    @cached_property
    def known(self) -> Rows:
        """Choice numbers of all allocations that were proposed or told."""
        return np.unique(np.concatenate([self.rows, self.failed, self.pending]), axis=0)

    @cached_property
    def example_noise(self) -> ExampleNoise | None:
        """The noise of the scores, if all trials have scores by example."""
        return example_noise(self.trials, self.rows)

    @cached_property
    def covariance(self) -> Floats | None:
        """Covariance of the scores' noise, shape (trials, trials); None: not known."""
        if self.example_noise is not None:
            return self.example_noise.covariance
        known = squared_errors([trial.stderr for trial in self.trials])
        return None if np.isnan(known).any() else np.diag(known)


class EvidenceReader:
    """Reads the evidence of an archive; it is kept until the archive changes."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._last: tuple[int, int, Evidence] | None = None

    @cached_property
    def grid(self) -> ChoiceGrid:
        """Numbers the choices of the space."""
        return ChoiceGrid(self._archive.space)

    def read(self) -> Evidence:
        """Return the evidence; its trials are the same object until results are told."""
        archive, last = self._archive, self._last
        if last is not None and last[0] == archive.tells:
            evidence = last[2]
            if last[1] != archive.asks:
                evidence = replace(evidence, pending=_pending(self.grid, archive))
        else:
            evidence = Evidence.of(self.grid, archive)
        self._last = (archive.tells, archive.asks, evidence)
        return evidence


def _least_regular(scores: Sequence[float]) -> float:
    """Return the least score that is not an outlier."""
    ranked = sorted(scores, reverse=True) or [0.0]
    best, last = ranked[0], ranked[math.ceil(_REGULAR_SHARE * len(ranked)) - 1]
    # Without any size to compare with, e.g. if most scores are 0, none is an outlier.
    unit = max(abs(best), best - last) or math.inf
    return best - _OUTLIER_DISTANCE * unit


def _pending(grid: ChoiceGrid, archive: Archive) -> Rows:
    return grid.encode(a for a in archive.pending if a in archive.space)
