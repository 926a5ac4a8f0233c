"""The insight rules: the method without an LLM.

From the archive alone, the rules propose, recommend and explain. The surrogate
(`agenttts.search.surrogate`) predicts the score of every allocation; candidates are the feasible
set, thinned where it is large, and everything next to the best allocations: a stage's choice
exchanged (insight 2), budget shifted between two stages (insight 3). They are chosen by the value
of the information that a trial gives (`agenttts.search.acquisition`), except where trials fail
(`agenttts.search.failures`). When no insight is switched on, proposals are drawn at random.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import Field

from agenttts.search.acquisition import choose, initial_design
from agenttts.search.base import Proposal, Searcher
from agenttts.search.confidence import confidence_of
from agenttts.search.encoding import Rows
from agenttts.search.failures import Failures
from agenttts.search.findings import findings
from agenttts.search.gaussian import differ
from agenttts.search.initial import DEFAULT_SAMPLE_CAP
from agenttts.search.moves import describe
from agenttts.search.surrogate import Surrogate
from agenttts.space import Allocation
from agenttts.spec.section import Options
from agenttts.tables.confidence import Confidence

ALL_INSIGHTS = (1, 2, 3)

# Sizes: of the feasible set, which is thinned to it, and of the random parts of that set and of the
# best trials' neighbours that are compared.
_MOST_ROWS, MOST_COMPARED, _MOST_NEIGHBOURS = 20_000, 700, 700
_BEST_EXPLORED = 3

# From this number of trials on the rules say how sure a recommendation is.
_MIN_TRIALS_TO_JUDGE = 8

# The best trials that may be extended by further examples.
_MOST_EXTENDED = 12
_EXTENDED = "further examples, to tell it from its rivals"


class AgentTTSOptions(Options):
    """The options of `agenttts`."""

    insights: Annotated[
        Sequence[Annotated[int, Field(ge=1, le=3)]], Field(description="a list of 1, 2, 3")
    ] = ALL_INSIGHTS
    """Which of the three insights are on, for ablations.

    Without 1 the initial trials are as many uniform draws. Without 2 the rules know no curve over
    samples. Without 3 they change one stage at a time.
    """
    initial_cap: Annotated[int, Field(ge=1, description="1 or more samples")] = DEFAULT_SAMPLE_CAP
    """The most samples at which an initial trial compares models (the paper's 60)."""


class InsightRules(Searcher):
    """Proposals, recommendation and guidelines from the archive alone."""

    knows_confidence = True
    options_model = AgentTTSOptions
    options: AgentTTSOptions
    _model: Surrogate | None = None
    _fitted_to: object = None

    def propose_by_rules(
        self,
        n: int,
        *,
        preferred: Sequence[Proposal] = (),
        also: Sequence[Proposal] = (),
        pending: Sequence[Allocation] = (),
    ) -> list[Proposal]:
        """Up to ``n`` new feasible allocations, most promising first.

        Fewer only when the space is exhausted.

        ``also`` are further candidates, in the space and new, judged like the rules' own.
        ``preferred`` are an agent's proposals, likewise new: each that is worth at least half of
        the best candidate is taken before it. Candidates are valued as if the trials ``pending``
        will score as expected.
        """
        rng = random.Random(f"insights/{self.seed}/{len(self.archive.known)}")
        chosen: dict[Allocation, Proposal] = {}
        model = self.model()
        if model is None and self._curves and self._coupling:
            chosen = self._initial_design(n, rng)
        elif model is None or not (self._curves or self._coupling):
            chosen = {proposal.allocation: proposal for proposal in preferred[:n]}
        else:
            offered = {proposal.allocation: proposal for proposal in preferred}
            named = {**offered, **{p.allocation: p for p in also if p.allocation not in offered}}
            grid = self._evidence.grid
            out = grid.encode(a for a in pending if a in self.space)
            first = grid.encode(named)
            rows = self._candidates(model, first, rng)
            best = self.best(tried=True) or next(iter(model.tried))
            keys = grid.keys(first[: len(offered)])

            def most_valuable(part: Rows, count: int) -> list[int]:
                # The preferred ones lead the candidates, and so what is left of them leads every
                # part.
                own = int(np.isin(grid.keys(part), keys).sum())
                return choose(model, part, count, preferred=own, pending=out)

            for number in self.failures().pick(rows, n, most_valuable):
                allocation = grid.decode(rows[number])
                if allocation in self.archive:
                    reason = _EXTENDED
                else:
                    reason = describe(self.space, best, allocation)
                own = Proposal(allocation, "insight", reason)
                chosen[allocation] = named.get(allocation, own)
        self._draw(n, chosen, rng)
        if len(chosen) < n and model is not None:  # all allocations are known
            for number in self._extendable(model)[: n - len(chosen)]:
                allocation = model.trials[number].allocation
                chosen.setdefault(allocation, Proposal(allocation, "insight", _EXTENDED))
        return list(chosen.values())

    def best(self, *, tried: bool = False) -> Allocation | None:
        """The known allocation with the highest *expected* score (ties: the cheaper).

        With ``tried`` it is the best one that a trial of its own has evaluated.

        The expected score weighs a score against those of similar allocations, the more the noisier
        the scores are.
        """
        model = self.model()
        if model is None or not self._curves:
            # Without curves the model gives all sample counts the same score: only the trials'
            # scores tell them apart.
            top_score = self.archive.best(tried=tried)
            return top_score.allocation if top_score else None
        scores = {t.allocation: t.score for t in model.trials if not (tried and t.stored)}
        means = {a: mean for a, mean in model.tried.items() if a in scores}
        top = max(means, key=lambda a: (means[a], -self.space.cost(a), a), default=None)
        if top is None:
            return None
        # Means equal up to rounding are a tie, and so are equal scores whose means differ by
        # little.
        rounding = 1e-6 * float(np.ptp(model.evidence.scores))
        equal = [
            allocation
            for allocation, mean in means.items()
            if means[top] - mean <= rounding
            or (scores[allocation] == scores[top] and means[top] - mean < 0.1 * model.noise)
        ]
        return min(equal, key=lambda allocation: (self.space.cost(allocation), allocation))

    def confidence(self, recommended: Allocation, within: float) -> Confidence | None:
        """How sure a recommendation is; None where that is not known.

        It is not known from too few trials, nor while all scores are equal (often 0): they do not
        say by how much other allocations may differ. Allocations near which trials fail are no
        rivals.
        """
        model = self.model()
        if model is None or not self.knows_confidence or recommended not in self.space:
            return None
        if sum(not trial.stored for trial in model.trials) < _MIN_TRIALS_TO_JUDGE:
            return None
        evidence, grid = self._evidence.read(), self._evidence.grid
        if not differ(evidence.scores.tolist(), float(evidence.scores.std())):
            return None
        rows = self._outlook(model, np.random.default_rng(self.seed))
        failed = np.isin(grid.keys(rows), grid.keys(evidence.failed))
        rows = rows[~failed & ~self.failures().avoided(rows)]
        rows = np.unique(np.concatenate([model.points.rows, rows]), axis=0)
        chosen = grid.encode([recommended])
        return confidence_of(model, chosen, rows, within, self.seed)

    def findings(self) -> list[str]:
        """Findings on models, samples and budget from the trials so far, a few sentences."""
        model, best = self.model(), self.best(tried=True)
        if model is None or best is None:
            return []
        return findings(model, best)

    def model(self) -> Surrogate | None:
        """The surrogate fitted to the results; None before any trial scored.

        It is kept until results are told.
        """
        evidence = self._evidence.read()
        if not evidence.trials:
            return None
        first = None if self.fidelity is None else self.fidelity.first
        known = self._model
        if known is None or self._fitted_to is not evidence.trials or known.new_examples != first:
            known = Surrogate(
                evidence, curves=self._curves, coupling=self._coupling, new_examples=first
            )
            self._model, self._fitted_to = known, evidence.trials
        return known

    def failures(self) -> Failures:
        """What the failed trials say."""
        return Failures(self._evidence.read())

    @property
    def _curves(self) -> bool:
        return 2 in self.options.insights

    @property
    def _coupling(self) -> bool:
        return 3 in self.options.insights

    @cached_property
    def _rows(self) -> Rows:
        return self._evidence.grid.feasible(_MOST_ROWS)

    def _initial_design(self, n: int, rng: random.Random) -> dict[Allocation, Proposal]:
        """Proposals before any score is known, around those that are out."""
        draw = np.random.default_rng(rng.randrange(2**32))
        grid, taken = self._evidence.grid, self._evidence.read().known
        rows = self._new(_some(self._rows, MOST_COMPARED, draw), taken)
        reason = "spread over models and samples, because no score is known yet"
        picked = self.failures().pick(
            rows, n, lambda part, count: initial_design(grid, taken, part, count)
        )
        allocations = [grid.decode(rows[number]) for number in picked]
        return {a: Proposal(a, "explore", reason) for a in allocations}

    def _candidates(
        self,
        model: Surrogate,
        named: Rows,
        rng: random.Random,
    ) -> Rows:
        """Rows of new allocations, ``named`` ones first, and of extendable ones, last.

        The others are shuffled, so that ties fall at random.
        """
        draw = np.random.default_rng(rng.randrange(2**32))
        rows = self._outlook(model, draw)
        rows = np.concatenate([named, rows[draw.permutation(len(rows))]])
        new = self._new(rows, self._evidence.read().known)
        return np.concatenate([new, model.points.rows[self._extendable(model)]])

    def _extendable(self, model: Surrogate) -> list[int]:
        """Numbers of the best trials that may be scored on further examples."""
        if self.fidelity is None:
            return []
        waiting = set(self.archive.pending)
        fidelity = self.fidelity
        ranked = ((number, model.trials[number].allocation) for number in model.ranking)
        may = (n for n, a in ranked if a not in waiting and fidelity.may_extend(self.archive, a))
        return list(itertools.islice(may, _MOST_EXTENDED))

    def _outlook(self, model: Surrogate, draw: np.random.Generator) -> Rows:
        """Some of the feasible set, and of what is next to the best allocations."""
        parents = model.points.rows[model.ranking[:_BEST_EXPLORED]]
        near = self._evidence.grid.around(parents, shifts=self._coupling)
        near = _some(near, _MOST_NEIGHBOURS, draw)
        return np.concatenate([_some(self._rows, MOST_COMPARED, draw), near])

    def _new(self, rows: Rows, taken: Rows) -> Rows:
        """``rows`` without repetitions and without those ``taken``, in their order."""
        grid = self._evidence.grid
        keys = grid.keys(rows)
        position = np.sort(np.unique(keys, return_index=True)[1])
        new: Rows = rows[position[~np.isin(keys[position], grid.keys(taken))]]
        return new

    def _draw(
        self,
        n: int,
        chosen: dict[Allocation, Proposal],
        rng: random.Random,
    ) -> None:
        """Fill ``chosen`` up to ``n`` by uniform draws."""
        failures = self.failures()
        while len(chosen) < n:
            new = self._feasible.draw(
                rng, self.archive, chosen, avoids=lambda a: failures.avoids(a, chosen)
            )
            if new is None:
                return
            chosen[new] = Proposal(new, "explore", "drawn at random")


def _some(rows: Rows, most: int, draw: np.random.Generator) -> Rows:
    if len(rows) <= most:
        return rows
    return rows[draw.choice(len(rows), most, replace=False)]
