"""Acquisition: which untried allocations to try next.

The value of a candidate is the expected rise of the highest posterior mean among tried allocations
once the candidate has been tried, its own included (the knowledge gradient of Frazier et al. 2009,
restricted to tried allocations). Without noise it is the expected improvement; with noise it also
values trials that tell good allocations apart. Within a batch the model is conditioned on each
pick's expected score before the next pick ("kriging believer", Ginsbourger et al. 2010): the means
stay, the uncertainty around the pick shrinks, and the batch spreads out. Pending trials are
conditioned on before the first pick.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from agenttts.search.encoding import ChoiceGrid, Rows
from agenttts.search.gaussian import Floats, expected_improvement
from agenttts.search.kernel import EffectKernel, Points
from agenttts.search.surrogate import Surrogate

# Candidates kept by expected improvement before values are computed, and tried allocations that may
# turn out best.
_SCREENED, _RIVALS = 250, 12

# A preferred proposal is taken when it is worth this share of the best candidate.
_MIN_RELATIVE_VALUE = 0.5

# Equally likely outcomes of a trial over which its value is averaged.
_OUTCOMES = np.array([NormalDist().inv_cdf((i + 0.5) / 12) for i in range(12)])


def choose(
    model: Surrogate,
    candidates: Rows,
    n: int,
    *,
    preferred: int = 0,
    pending: Rows | None = None,
) -> list[int]:
    """Numbers of up to ``n`` candidates, the most valuable first; ties: the earlier.

    The first ``preferred`` candidates (an agent's proposals) are taken before the others as long as
    one is worth at least half of the best. The model is conditioned on the trials
    ``pending`` (rows that are not candidates) before the first pick, as on each pick before the
    next.
    """
    if n < 1 or not len(candidates):
        return []
    state = _Batch(model, candidates, preferred, pending)
    picks: list[int] = []
    while True:
        values = state.values()
        best = int(values.argmax())
        pick = best
        if preferred:
            own = state.pending + int(values[state.preferred].argmax())
            if values[own] > -np.inf and values[own] >= _MIN_RELATIVE_VALUE * values[best]:
                pick = own
        picks.append(int(state.numbers[pick]))
        if len(picks) == min(n, len(state.numbers) - state.pending):
            return picks
        state.condition_on(pick)


class _Batch:
    """The posterior over the candidates while a batch fills.

    Arrays lead with the ensemble's members.
    """

    def __init__(
        self, model: Surrogate, candidates: Rows, preferred: int, pending: Rows | None
    ) -> None:
        self._model = model
        # Pending trials lead the candidates, the preferred ones follow.
        self.pending = 0 if pending is None else len(pending)
        self.preferred = slice(self.pending, self.pending + preferred)
        if pending is not None:
            candidates = np.concatenate([pending, candidates])
        points = model.at(candidates)
        settings = model.settings
        mean, whitened = model.predict(points)
        variance = model.kernel.variance(settings, points) - np.square(whitened).sum(axis=2)
        variance = np.maximum(variance, 1e-12)
        tried = model.expected
        improvement = model.weights @ expected_improvement(
            mean, np.sqrt(variance), tried.max(axis=1, keepdims=True)
        )
        keys = model.grid.keys(model.points.rows)
        tried_again = np.isin(model.grid.keys(candidates), keys)
        tried_again[: self.preferred.stop] = True
        always = int(tried_again.sum())
        improvement[tried_again] = np.inf
        kept = np.sort(np.argsort(-improvement, kind="stable")[: _SCREENED + always])
        self.numbers = kept - self.pending
        self._points: Points = points[kept]
        self._whitened = whitened[:, kept]
        self._mean = mean[:, kept]
        self._variance = variance[:, kept]
        self._open = np.ones(len(kept), dtype=bool)
        self._noise = model.trial_noise
        rivals = np.argsort(-(model.weights @ tried), kind="stable")[:_RIVALS]
        self._rival_mean = tried[:, rivals]
        explained = self._whitened @ np.swapaxes(model.whitened[:, rivals], 1, 2)
        # Posterior covariance between candidates and rivals.
        self._shared = model.kernel(settings, self._points, model.points[rivals]) - explained
        for number in range(self.pending):
            self.condition_on(number)

    def values(self) -> Floats:
        """Value of every candidate, -inf for those taken."""
        sd = np.sqrt(self._variance + self._noise[:, None])
        rivals = self._rival_mean.max(axis=1)[:, None]
        own = self._mean[..., None] + (self._variance / sd)[..., None] * _OUTCOMES
        moved = (self._shared / sd[..., None])[..., None] * _OUTCOMES
        others = (self._rival_mean[:, None, :, None] + moved).max(axis=2)
        gain = np.maximum(own, others).mean(axis=2) - rivals
        # Candidates of almost equal value are ordered by their expected score.
        value: Floats = self._model.weights @ (np.maximum(gain, 0.0) + 1e-9 * self._mean)
        return np.where(self._open, value, -np.inf)

    def condition_on(self, pick: int) -> None:
        """Condition on the pick scoring as expected; it may be recommended from now on."""
        settings = self._model.settings
        points = self._points[pick : pick + 1]
        prior = self._model.kernel(settings, self._points, points)[:, :, 0]
        explained = np.einsum("hmn,hn->hm", self._whitened, self._whitened[:, pick])
        shared = prior - explained
        pivot = self._variance[:, pick] + self._noise
        # Rivals' covariance with the pick is the pick's row of `_shared`.
        change = shared[:, :, None] * self._shared[:, pick][:, None, :] / pivot[:, None, None]
        own = shared * (1.0 - self._variance[:, pick] / pivot)[:, None]
        self._shared = np.concatenate([self._shared - change, own[:, :, None]], axis=2)
        self._rival_mean = np.concatenate([self._rival_mean, self._mean[:, pick : pick + 1]], 1)
        entry = shared / np.sqrt(pivot)[:, None]
        self._whitened = np.concatenate([self._whitened, entry[:, :, None]], axis=2)
        self._variance = np.maximum(self._variance - np.square(entry), 1e-12)
        self._open[pick] = False


def initial_design(grid: ChoiceGrid, taken: Rows, candidates: Rows, n: int) -> list[int]:
    """Numbers of up to ``n`` candidates to try while no score is known.

    ``taken`` are the trials that were made or are pending.

    Each has the highest upper confidence bound (mean plus one standard deviation) under the mean of
    the kernel's prior, conditioned on all before it. The design spreads over models and samples
    where good scores are likely.
    """
    kernel = EffectKernel(grid, curves=True, coupling=True)
    setting = kernel.prior()[0][None, :]
    points = Points(np.concatenate([taken, candidates]))
    noise = float(np.exp(setting[0, -1]))
    prior_mean = kernel.mean(setting, points)[0]
    variance = kernel.variance(setting, points)[0]
    explained = np.zeros((len(points), 0))
    open_ = np.arange(len(points)) >= len(taken)
    picks: list[int] = []
    while True:
        step = explained.shape[1]
        if step < len(taken):
            pick = step
        else:
            upper_confidence_bound = np.where(
                open_, prior_mean + np.sqrt(np.maximum(variance, 0.0)), -np.inf
            )
            pick = int(upper_confidence_bound.argmax())
            if len(picks) == n or not open_[pick]:
                return picks
            picks.append(pick - len(taken))
            open_[pick] = False
        shared = kernel(setting, points, points[pick : pick + 1])[0, :, 0]
        entry = (shared - explained @ explained[pick]) / np.sqrt(variance[pick] + noise)
        variance = variance - np.square(entry)
        explained = np.concatenate([explained, entry[:, None]], axis=1)
