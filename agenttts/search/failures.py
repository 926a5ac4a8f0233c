"""Which allocations are not proposed because trials failed, and for how long.

A failure has no score to model, but it has possible causes (*suspects*): its combination of models,
and for every stage its model with as many samples or more. A region with a scored trial is never
excluded. Failures are assigned first to the suspect that has the most of them. A suspect's region
is excluded from its second failure on, and tried again each time the number of results doubles, so
that two chance failures do not exclude it for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agenttts.search.encoding import Mask, Rows
from agenttts.search.evidence import Evidence
from agenttts.space import Allocation

# Failures from which on a region is excluded; with f of them it stays so until there are
# _BASE_RESULTS * 2^f results.
_MIN_FAILURES, _BASE_RESULTS = 2, 8


@dataclass(frozen=True)
class _Suspect:
    """A region: for some stages, which of their choices lie in it.

    ``failures`` are numbers of failed trials in it.

    ``rank`` orders suspects of equally many failures, the likelier first.
    """

    masks: dict[int, Mask]
    failures: frozenset[int]
    rank: tuple[float, ...]

    def holds(self, rows: Rows) -> Mask:
        inside = np.ones(len(rows), dtype=bool)
        for stage, mask in self.masks.items():
            inside &= mask[rows[:, stage]]
        return inside


class Failures:
    """The suspects of the evidence. Nothing is excluded while no trial failed."""

    def __init__(self, evidence: Evidence) -> None:
        self._grid = evidence.grid
        self._failed, self._scored = evidence.failed, evidence.rows
        self._out = evidence.pending
        self._excluded: list[_Suspect] = []
        self._suspected: list[_Suspect] = []
        if len(self._failed):
            self._blame(evidence.evaluated)

    def avoids(self, allocation: Allocation, picked: Iterable[Allocation] = ()) -> bool:
        """`avoided`, of one allocation of the space."""
        return bool(self.avoided(self._grid.encode([allocation]), self._grid.encode(picked))[0])

    def avoided(self, rows: Rows, picked: Rows | None = None) -> Mask:
        """Which ``rows`` are not to be proposed.

        They lie in an excluded region, or in one with unexplained failures that another trial (one
        of ``picked``, or a pending one) tests already.
        """
        avoided = np.zeros(len(rows), dtype=bool)
        waiting = self._out if picked is None else np.concatenate([self._out, picked])
        for suspect in self._excluded:
            avoided |= suspect.holds(rows)
        for suspect in self._suspected:
            if suspect.holds(waiting).any():
                avoided |= suspect.holds(rows)
        return avoided

    def pick(self, rows: Rows, n: int, choose: Callable[[Rows, int], Sequence[int]]) -> list[int]:
        """Numbers of up to ``n`` of ``rows`` by ``choose(rows, n)``, avoided ones last.

        ``choose`` is given a part of the rows, in their order, and returns numbers within that
        part, the best first.
        """
        picked: list[int] = []
        while len(picked) < min(n, len(rows)):
            left = np.setdiff1d(np.arange(len(rows)), picked)
            open_ = left[~self.avoided(rows[left], rows[picked])]
            if not len(open_):
                last = choose(rows[left], n - len(picked))
                return picked + [int(left[number]) for number in last]
            found = choose(rows[open_], n - len(picked))
            for number in found:
                row = int(open_[number])
                if self.avoided(rows[[row]], rows[picked])[0]:
                    break  # an earlier pick tests this region: choose again without it
                picked.append(row)
            if not found:
                break
        return picked

    def _blame(self, results: int) -> None:
        """Assign the failures to suspects, the one with the most failures first."""
        suspects = list(self._suspects())
        open_ = set(range(len(self._failed)))
        while True:
            ranked = max(
                suspects,
                key=lambda suspect: (len(suspect.failures & open_), suspect.rank),
                default=None,
            )
            if ranked is None or len(ranked.failures & open_) < _MIN_FAILURES:
                break
            excluded = results < _BASE_RESULTS * 2 ** len(ranked.failures)
            (self._excluded if excluded else self._suspected).append(ranked)
            open_ -= ranked.failures
        self._suspected += [suspect for suspect in suspects if suspect.failures & open_]

    def _suspects(self) -> Iterator[_Suspect]:
        stages = range(len(self._grid.choices))
        for stage in stages:
            yield from self._of_stage(stage)
        if len(stages) > 1:  # with one stage the combination is its model
            models = self._models(self._failed)
            for combination in np.unique(models, axis=0):
                yield from self._of_combination(combination)

    def _of_stage(self, stage: int) -> Iterator[_Suspect]:
        """The suspects of a stage: a model from a sample count on.

        The count is halfway (in log) between the most samples that scored and the fewest that
        failed, so that a limit is found within a few trials.
        """
        models, samples = self._grid.models[stage], self._grid.samples[stage]
        failed, scored = self._failed[:, stage], self._scored[:, stage]
        for number, model in enumerate(self._grid.space.stages[stage].models):
            worked = samples[scored[models[scored] == number]]
            most = float(worked.max()) if len(worked) else 0.0
            guilty = (models[failed] == number) & (samples[failed] > most)
            if not guilty.any():
                continue
            fewest = float(samples[failed[guilty]].min())
            limit = np.sqrt(max(most, float(samples.min())) * fewest)
            mask = (models == number) & (samples >= limit) & (samples > most)
            failures = frozenset(np.flatnonzero(guilty).tolist())
            yield _Suspect({stage: mask}, failures, (0.0, -most, model.params, -stage))

    def _of_combination(self, combination: Rows) -> Iterator[_Suspect]:
        """The suspects of a combination of models.

        It is all of the combination when it never scored, else the part from the counts of a failed
        trial on.
        """
        here = np.flatnonzero((self._models(self._failed) == combination).all(axis=1))
        worked = self._scored[(self._models(self._scored) == combination).all(axis=1)]
        same = [self._grid.models[i] == model for i, model in enumerate(combination)]
        if not len(worked):
            yield _Suspect(dict(enumerate(same)), frozenset(here.tolist()), (1.0,))
            return
        counts = self._counts(self._failed)
        for trial in here:
            masks = {
                i: mask & (self._grid.samples[i] >= counts[trial, i]) for i, mask in enumerate(same)
            }
            above = _Suspect(masks, frozenset(), (0.5,))
            if not above.holds(worked).any():
                inside = np.flatnonzero(above.holds(self._failed))
                yield _Suspect(masks, frozenset(inside.tolist()), above.rank)

    def _models(self, rows: Rows) -> Rows:
        return np.stack([m[rows[:, i]] for i, m in enumerate(self._grid.models)], axis=1)

    def _counts(self, rows: Rows) -> NDArray[np.float64]:
        return np.stack([s[rows[:, i]] for i, s in enumerate(self._grid.samples)], axis=1)
