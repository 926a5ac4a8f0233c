"""Bayesian optimisation with a Gaussian process over the feasible set.

It is the strong baseline: it does not use the insights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import Field
from typing_extensions import override

from agenttts.search.archive import Scored
from agenttts.search.base import Proposal, Searcher
from agenttts.search.encoding import Rows
from agenttts.search.evidence import Evidence
from agenttts.search.failures import Failures
from agenttts.search.gaussian import (
    Floats,
    Posterior,
    expected_improvement,
    log_evidence,
    matern,
    search_settings,
    unit_of,
)
from agenttts.space import Allocation
from agenttts.spec.section import Options

# Allocations whose improvement is computed at most; larger feasible sets are thinned in
# log(samples).
_MOST_ROWS = 20_000

# Fitting is cubic in the trials: past this many, only the best are fitted.
_MOST_TRIALS = 200

# Log noise variance relative to the scale, at least and at most.
_NOISE = (np.log(1e-6), np.log(2.0))


class GaussianProcessOptions(Options):
    """The options of `gp`."""

    initial: Annotated[int, Field(ge=1, description="1 or more random trials")] = 5
    """How many uniform draws come first."""


class GaussianProcessSearcher(Searcher):
    """A Gaussian process with expected improvement.

    Matérn-5/2 over scaled log(samples) and one-hot models, with a length each.

    Hyperparameters by the marginal likelihood (with a weak prior on lengths). Batches by the
    kriging believer. Recommends the tried allocation with the highest expected score. Regions where
    trials fail are avoided (`agenttts.search.failures`).
    """

    name = "gp"
    seed_role = "the initial trials, from which the others follow"
    options_model = GaussianProcessOptions
    options: GaussianProcessOptions
    _fitted: tuple[Sequence[Scored], MaternModel] | None = None

    def best(self, *, tried: bool = False) -> Allocation | None:
        """The known allocation with the highest expected score.

        Ties: the better score, then the cheaper.
        """
        if not self.archive.scored:
            return None
        model = self._model()
        pairs = zip(model.trials, model.expected.tolist(), strict=True)
        expected = [(trial, mean) for trial, mean in pairs if not (tried and trial.stored)]
        if not expected:
            return super().best(tried=tried)
        most = max(mean for _, mean in expected)
        tied = [trial for trial, mean in expected if mean >= most - 1e-9]
        return min(tied, key=lambda t: (-t.score, t.cost, t.allocation)).allocation

    @override
    def _propose(self, n: int) -> list[Proposal]:
        pending = self._evidence.read().pending  # before the batch's own draws
        tried = len(self.archive.tried)
        drawn = n if not self.archive.scored else max(0, min(n, self.options.initial - tried))
        chosen = self._drawn(drawn, "initial trial, drawn at random")
        if len(chosen) < n and self.archive.scored:
            model = self._model()
            evidence = self._evidence.read()  # with the draws, which are pending now
            grid = evidence.grid
            rows = self._rows[~np.isin(grid.keys(self._rows), grid.keys(evidence.known))]
            failures = Failures(evidence)

            def most_promising(part: Rows, count: int) -> list[int]:
                return model.choose(part, count, pending)

            for number in failures.pick(rows, n - len(chosen), most_promising):
                allocation = grid.decode(rows[number])
                chosen.append(Proposal(allocation, "model", "largest expected improvement"))
            self.add_pending(proposal.allocation for proposal in chosen)
            # A thinned set may be used up before the space is.
            chosen += self._drawn(n - len(chosen), "drawn at random")
        return chosen

    def _model(self) -> MaternModel:
        evidence = self._evidence.read()
        if self._fitted is None or self._fitted[0] is not evidence.trials:
            self._fitted = (evidence.trials, MaternModel(evidence))
        return self._fitted[1]

    @cached_property
    def _rows(self) -> Rows:
        return self._evidence.grid.feasible(_MOST_ROWS)


class MaternModel:
    """The process fitted to trials (at least one)."""

    def __init__(self, evidence: Evidence) -> None:
        best = np.argsort(-evidence.scores, kind="stable")[:_MOST_TRIALS]
        evidence = evidence.part(np.sort(best).tolist())
        self.trials, self._rows = evidence.trials, evidence.rows
        self._grid = grid = evidence.grid
        self._stages = len(grid.choices)
        self._inputs = [_scaled(np.log2(samples)) for samples in grid.samples]
        scores = evidence.scores
        targets = (scores - scores.mean()) / unit_of(scores.tolist(), float(scores.std()))
        self._fit(targets)

    def choose(self, rows: Rows, n: int, pending: Rows) -> list[int]:
        """Numbers of up to ``n`` of ``rows`` by expected improvement.

        The model is conditioned on the expected score of each pick before the next, and of the
        trials ``pending`` before the first.
        """
        if not len(rows):
            return []
        rows = np.concatenate([pending, rows])
        incumbent = self.expected.max()
        prior = self._kernel(self._setting, rows, self._rows)
        whitened = self._posterior.whiten(prior)
        mean = self._posterior.mean(whitened)[0]
        scale = self._posterior.scale[0]
        explained = whitened[0]
        variance = np.maximum(0.0, 1.0 - np.square(explained).sum(axis=1))
        open_ = np.arange(len(rows)) >= len(pending)
        picks: list[int] = []
        for step in range(len(rows)):
            pick = step
            if step >= len(pending):
                improvement = expected_improvement(mean, scale * np.sqrt(variance), incumbent)
                pick = int(np.where(open_, improvement + 1e-12 * mean, -np.inf).argmax())
                picks.append(pick - len(pending))
            if len(picks) == n:
                break
            open_[pick] = False
            incumbent = max(incumbent, mean[pick])
            shared = self._kernel(self._setting, rows, rows[pick : pick + 1])[0, :, 0]
            entry = (shared - explained @ explained[pick]) / np.sqrt(variance[pick] + self._noise)
            variance = np.maximum(0.0, variance - np.square(entry))
            explained = np.concatenate([explained, entry[:, None]], axis=1)
        return picks

    def _fit(self, targets: Floats) -> None:
        # Log lengths: of samples relative to their whole range, of models relative to 1.
        mean = np.repeat([np.log(0.5), 0.0], self._stages)
        rng = np.random.default_rng(0)

        def draw(count: int) -> Floats:
            lengths = mean + rng.standard_normal((count, len(mean)))
            noise = rng.uniform(*_NOISE, (count, 1))
            return np.concatenate([lengths, noise], axis=1)

        def log_posterior(settings: Floats) -> Floats:
            kernels = self._kernel(settings, self._rows, self._rows)
            noises = np.repeat(_noise(settings)[:, None], len(targets), axis=1)
            prior = -0.5 * np.square(settings[:, :-1] - mean).sum(axis=1)
            fitted: Floats = prior + log_evidence(kernels, noises, targets)
            return fitted

        few = len(targets) > 80
        found, _ = search_settings(
            log_posterior, draw, rng, first=32 if few else 96, rounds=4, each=8 if few else 32
        )
        self._setting = found[:1]
        self._noise = float(_noise(self._setting)[0])
        kernel = self._kernel(self._setting, self._rows, self._rows)
        noises = np.full((1, len(targets)), self._noise)
        self._posterior = Posterior(kernel, noises, targets)
        self.expected: Floats = self._posterior.mean(self._posterior.whiten(kernel))[0]

    def _kernel(self, settings: Floats, a: Rows, b: Rows) -> Floats:
        squared = np.zeros((len(settings), len(a), len(b)))
        for stage in range(self._stages):
            inputs, models = self._inputs[stage], self._grid.models[stage]
            apart = inputs[a[:, stage]][:, None] - inputs[b[:, stage]][None, :]
            # One-hot vectors of different models are sqrt(2) apart.
            differ = 2.0 * (models[a[:, stage]][:, None] != models[b[:, stage]][None, :])
            weights = np.exp(-2.0 * settings)
            squared += weights[:, stage, None, None] * np.square(apart)
            squared += weights[:, self._stages + stage, None, None] * differ
        kernel: Floats = matern(np.sqrt(squared))
        return kernel


def _scaled(values: Floats) -> Floats:
    width = float(values.max() - values.min())
    scaled: Floats = (values - values.min()) / (width or 1.0)
    return scaled


def _noise(settings: Floats) -> Floats:
    noise: Floats = np.exp(np.clip(settings[:, -1], *_NOISE))
    return noise
