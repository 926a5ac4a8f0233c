"""The kernel of the surrogate: the insights as a covariance.

A stage's effect is an offset a model (insight 1; models of like size are alike) plus a curve over
samples (insight 2), partly shared by its models. The stages' effects add up and, to a fitted
degree, multiply (insight 3): ``sum S_i + eta·sum S_i·S_j + …``, the ANOVA kernel of Stitson et al.
(1997). With a fitted quality model (`agenttts.search.quality`) its mean and covariance are added,
and the effects describe only the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agenttts.search.curves import curve_prior
from agenttts.search.encoding import ChoiceGrid, Rows
from agenttts.search.gaussian import Floats, matern

# Octaves of samples over which curves of no particular shape change.
_LENGTH_OCTAVES = 2.0

# Prior means: the advantage of a model over one that is a standard deviation of sizes smaller, in
# standard deviations of an offset; the rise over samples, in standard deviations of a curve.
_SIZE_ADVANTAGE_SDS, _CURVE_RISE_SDS = 0.5, 0.8

# Added to the log variance of effects that describe only what the quality model leaves unexplained.
_RESIDUAL_LOG_VARIANCE = -3.0

# Prior variance of the noise that trials with equal leading choices share.
_SHARED_SAMPLES_VARIANCE = 0.01

# Share of a model's offset that goes with its size, in e-foldings of parameters.
_BY_SIZE = 0.4


@dataclass(frozen=True)
class Points:
    """Allocations as the kernel takes them.

    They are choice numbers, and where there is a quality model, mean and features of its prediction
    in the surrogate's units (`agenttts.search.quality.QualityModel.at`).
    """

    rows: Rows
    mean: Floats | None = None
    features: Floats | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | Rows) -> Points:
        if self.mean is None or self.features is None:
            return Points(self.rows[index])
        return Points(self.rows[index], self.mean[index], self.features[index])


class EffectKernel:
    """Kernel values for many settings of the hyperparameters at a time.

    A setting is a vector of logs and logits: an offset's and a curve's variance a stage, then what
    models share of their curves, the share of shapeless curves, the degree of coupling, the noise
    that trials with equal leading choices share, and the noise. ``explained``: the points come with
    predictions of a quality model. ``shared``: the noise of the trials is not known by example,
    so that what trials with equal leading choices share of it is fitted.
    """

    def __init__(
        self,
        grid: ChoiceGrid,
        *,
        curves: bool,
        coupling: bool,
        explained: bool = False,
        shared: bool = True,
    ) -> None:
        self._curves = curves
        self._coupling = coupling
        self._explained = explained
        self._stages = len(grid.choices)
        # Of the stages but the last: what the last one does is a trial's own.
        self._shared = self._stages - 1 if shared else 0
        self._widths = [len(stage.samples) for stage in grid.space.stages]
        self._shapes: list[Floats] = []
        self._smooth: list[Floats] = []
        self._near: list[Floats] = []
        self._prior_mean: list[Floats] = []
        self._sizes = grid.sizes
        for stage in grid.space.stages:
            counts = np.array(stage.samples, dtype=np.float64)
            octaves = np.log2(counts)
            prior_mean, moments = curve_prior(counts)
            self._prior_mean.append(prior_mean)
            self._shapes.append(moments)
            self._smooth.append(
                matern(np.abs(octaves[:, None] - octaves[None, :]) / _LENGTH_OCTAVES)
            )
            sizes = np.log([model.params for model in stage.models])
            self._near.append(np.exp(-0.5 * (sizes[:, None] - sizes[None, :]) ** 2))

    def prior(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the hyperparameters before any trial."""
        stages = self._stages
        less = _RESIDUAL_LOG_VARIANCE if self._explained else 0.0
        offsets, curves = np.full(stages, -0.3 + less), np.full(stages, -0.6 + less)
        mean = np.concatenate(
            [offsets, curves, [0.0, -2.5, -1.2, np.log(_SHARED_SAMPLES_VARIANCE), np.log(0.003)]]
        )
        sd = np.concatenate([np.full(2 * stages, 0.8), [1.0, 1.0, 1.0, 1.5, 2.5]])
        return mean, sd

    def __call__(self, settings: Floats, a: Points, b: Points) -> Floats:
        """Values between ``a`` and ``b``, shape (settings, a, b)."""
        factors = []
        for stage in range(self._stages):
            # Few distinct choices in many rows: compute by choice, then gather.
            left, rows = np.unique(a.rows[:, stage], return_inverse=True)
            right, columns = np.unique(b.rows[:, stage], return_inverse=True)
            factor = self._factor(settings, stage, self._effect(settings, stage, left, right))
            # One axis at a time takes a fifth of the time of both at once.
            factors.append(np.take(np.take(factor, columns, axis=2), rows, axis=1))
        effects = self._combine(settings, factors)
        if self._shared:
            effects = effects + _column(settings, -2, 2) * self._equal_leading_stages(
                a.rows, b.rows
            )
        if a.features is None or b.features is None:
            return effects
        both: Floats = effects + a.features @ b.features.T
        return both

    def mean(self, settings: Floats, a: Points) -> Floats:
        """Prior mean of ``a``, shape (settings, a).

        Larger models score higher, and samples help.
        """
        if a.mean is not None:
            return np.broadcast_to(a.mean, (len(settings), len(a)))
        expected = np.zeros((len(settings), len(a)))
        for stage, width in enumerate(self._widths):
            models, counts = a.rows[:, stage] // width, a.rows[:, stage] % width
            ahead = _SIZE_ADVANTAGE_SDS * self._sizes[stage][models]
            expected += np.sqrt(_column(settings, stage, 1)) * ahead
            if self._curves:
                rise = _CURVE_RISE_SDS * self._prior_mean[stage][counts]
                expected += np.sqrt(_column(settings, self._stages + stage, 1)) * rise
        return expected

    def variance(self, settings: Floats, a: Points) -> Floats:
        """The values of every point of ``a`` with itself, shape (settings, a)."""
        factors = []
        for stage, width in enumerate(self._widths):
            effect = _column(settings, stage, 1) * np.ones(len(a))
            if self._curves:
                shapeless = _share(_column(settings, 2 * self._stages + 1, 1))
                shape = np.diag(self._shapes[stage])[a.rows[:, stage] % width]
                curve = (1.0 - shapeless) * shape + shapeless
                effect = effect + _column(settings, self._stages + stage, 1) * curve
            factors.append(self._factor(settings, stage, effect))
        effects = self._combine(settings, factors)
        effects = effects + _column(settings, -2, 1) * self._shared
        if a.features is None:
            return effects
        both: Floats = effects + np.square(a.features).sum(axis=1)
        return both

    def _equal_leading_stages(self, a: Rows, b: Rows) -> Floats:
        """Number of leading stages with equal choices, shape (a, b).

        Two such trials share their samples, and so their noise.
        """
        equal = np.ones((len(a), len(b)), dtype=bool)
        stages = np.zeros((len(a), len(b)))
        for stage in range(self._shared):
            equal &= a[:, stage][:, None] == b[:, stage][None, :]
            stages += equal
        return stages

    def _effect(self, settings: Floats, stage: int, left: Rows, right: Rows) -> Floats:
        """S_i between choices of one stage."""
        width = self._widths[stage]
        models = np.ix_(left // width, right // width)
        counts = np.ix_(left % width, right % width)
        near = self._near[stage][models]
        same = np.eye(len(self._near[stage]))[models]
        effect = _column(settings, stage, 2) * ((1.0 - _BY_SIZE) * same + _BY_SIZE * near)
        if self._curves:
            shared = _share(_column(settings, 2 * self._stages, 2))
            shapeless = _share(_column(settings, 2 * self._stages + 1, 2))
            curve = (1.0 - shapeless) * self._shapes[stage][counts]
            curve = curve + shapeless * self._smooth[stage][counts]
            own = (1.0 - shared) * same + shared * near
            effect = effect + _column(settings, self._stages + stage, 2) * own * curve
        return effect

    def _factor(self, settings: Floats, stage: int, effect: Floats) -> Floats:
        """``1 + eta·S_i``, a factor of `_combine`; the first is divided by eta."""
        if not self._coupling:
            return effect
        eta = self._coupling_degree(settings, effect)
        factor: Floats = 1.0 + eta * effect if stage else 1.0 / eta + effect
        return factor

    def _combine(self, settings: Floats, factors: list[Floats]) -> Floats:
        """The sum of the effects and their products.

        A constant is added unless the quality model has one.
        """
        level = 0.0 if self._explained else 1.0
        combined = factors[0]
        for factor in factors[1:]:
            combined = combined * factor if self._coupling else combined + factor
        if not self._coupling:
            return combined + level
        return combined + (level - 1.0 / self._coupling_degree(settings, combined))

    def _coupling_degree(self, settings: Floats, like: Floats) -> Floats:
        return _column(settings, 2 * self._stages + 2, like.ndim - 1)


def _column(settings: Floats, number: int, axes: int) -> Floats:
    values: Floats = np.exp(settings[:, number]).reshape(-1, *(1,) * axes)
    return values


def _share(odds: Floats) -> Floats:
    share: Floats = odds / (1.0 + odds)
    return share
