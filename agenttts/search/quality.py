"""The quality model: the insights as curves with parameters.

It is fitted to scores and stage metrics together.

The quality of a stage's own work is, for each of its models, a curve over samples: a start (insight
1; larger models tend to be ahead), a rise that flattens, and a slow fall past a turning point
(insight 2). What a stage hands on rises with its own quality and with what it is given (insight 3):
``own·(1 - need·(1 - given))``, to a small part mixed with what is given. A trial's stage metrics
are observations of what its stages hand on, its score of what the last one does.

The fit is the most likely setting of the parameters (Levenberg-Marquardt, from several starts at a
time). Around it the model is taken as linear in them (Laplace's approximation), which makes it a
Gaussian process: see `QualityModel.at`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from agenttts.search.encoding import ChoiceGrid, Rows
from agenttts.search.gaussian import Floats

# Parameters of a stage, then of each of its models: mean and standard deviation before any trial.
# ``start`` is the logit of quality at the least count, ``rise`` that of the share of the rest that
# samples can gain; their slopes go with size (in standard deviations of its log). ``pace`` and
# ``turn`` are logs, ``fall`` is the log of the loss for every octave past it; ``need`` and
# ``mixed`` are logits.
_OF_STAGE = {
    "start": (0.0, 1.5),
    "start by size": (0.4, 0.4),
    "rise": (-0.9, 0.8),
    "rise by size": (-0.3, 0.4),
    "need": (0.3, 1.0),
    "mixed": (-2.5, 1.0),
}
_OF_MODEL = {
    "start": (0.0, 0.4),
    "rise": (0.0, 0.7),
    "pace": (math.log(0.8), 0.5),
    "turn": (math.log(15.0), 0.9),
    "fall": (math.log(0.005), 1.2),
}
_START, _START_BY_SIZE, _RISE, _RISE_BY_SIZE, _NEED, _MIXED = range(len(_OF_STAGE))

# Observed quality of a stage is above its start, on average by this many logits.
_ABOVE_START = 0.3

# Sharpness of turning points: a larger number bends within fewer octaves.
_SHARPNESS = 3.0

# Starts of the fit and its most steps; it ends when no start gains this much log posterior in a
# step.
_FIT_STARTS, _MAX_FIT_STEPS, _MIN_FIT_GAIN = 3, 30, 1e-2

# Most standard deviations between a parameter and its prior mean, and most of them in one step.
_MAX_DEVIATION_SDS, _MAX_STEP_SDS = 6.0, 3.0


@dataclass(frozen=True)
class Observed:
    """Observed outputs of ``stage`` (its number) in trials of ``rows``.

    ``values`` are from 0 to 1; ``noise`` is the covariance of their noise, shape (rows, rows).
    """

    stage: int
    rows: Rows
    values: Floats
    noise: Floats

    @cached_property
    def precision(self) -> Floats:
        """The inverse of the noise covariance."""
        precision: Floats = np.linalg.inv(self.noise).astype(np.float64)
        return precision


class QualityModel:
    """The quality model over a grid, fitted to at most one ``observed`` a stage.

    As a Gaussian process it is conditioned on the stages' metrics, but not on the scores (those of
    the last stage). The scores decide where it is linearised, and the surrogate conditions on them.
    """

    def __init__(self, grid: ChoiceGrid, observed: Sequence[Observed]) -> None:
        self._grid = grid
        self._offsets: list[int] = []
        prior: list[tuple[float, float]] = []
        for stage in grid.space.stages:
            self._offsets.append(len(prior))
            prior += _OF_STAGE.values()
            for _ in stage.models:
                prior += _OF_MODEL.values()
        self._prior_mean: Floats = np.array([mean for mean, _ in prior])
        self._prior_sd: Floats = np.array([sd for _, sd in prior])
        for seen in observed:
            level = float(np.clip(seen.values.mean(), 0.02, 0.98))
            self._prior_mean[self._offsets[seen.stage] + _START] = (
                math.log(level / (1.0 - level)) - _ABOVE_START
            )
        self._setting = self._fit(observed)
        last = len(self._offsets) - 1
        metrics = [seen for seen in observed if seen.stage != last]
        _, precision, gradient = self._quadratic(self._setting, metrics)
        covariance = np.linalg.inv(precision[0])
        self._shift: Floats = covariance @ gradient[0]
        root: Floats = np.linalg.cholesky(0.5 * (covariance + covariance.T)).astype(np.float64)
        self._root = root

    def at(self, rows: Rows) -> tuple[Floats, Floats]:
        """Mean (m,) of the score of ``rows``, and features (m, p).

        The products of two rows' features are their covariance.
        """
        value, slope = self._handed(self._setting, rows, len(self._offsets) - 1)
        return value[0] + slope[0] @ self._shift, slope[0] @ self._root

    def _fit(self, observed: Sequence[Observed]) -> Floats:
        """The most likely setting, shape (1, parameters)."""
        rng = np.random.default_rng(11)
        drawn = rng.standard_normal((_FIT_STARTS, len(self._prior_mean)))
        drawn[0] = 0.0
        settings = self._prior_mean + 0.7 * self._prior_sd * drawn
        cost, curvature, gradient = self._quadratic(settings, observed)
        damping = np.full(_FIT_STARTS, 1e-2)
        along = np.arange(len(self._prior_mean))
        low, high = (
            self._prior_mean - _MAX_DEVIATION_SDS * self._prior_sd,
            self._prior_mean + _MAX_DEVIATION_SDS * self._prior_sd,
        )
        for _ in range(_MAX_FIT_STEPS):
            damped = curvature.copy()
            damped[:, along, along] *= 1.0 + damping[:, None]
            step = np.linalg.solve(damped, gradient[..., None])[..., 0]
            stride = _MAX_STEP_SDS * self._prior_sd
            moved = np.clip(settings + np.clip(step, -stride, stride), low, high)
            new_cost, new_curvature, new_gradient = self._quadratic(moved, observed)
            better = new_cost < cost
            gain = float(np.where(better, cost - new_cost, 0.0).max())
            settings = np.where(better[:, None], moved, settings)
            curvature = np.where(better[:, None, None], new_curvature, curvature)
            gradient = np.where(better[:, None], new_gradient, gradient)
            cost = np.where(better, new_cost, cost)
            damping = np.clip(damping * np.where(better, 0.3, 5.0), 1e-6, 1e6)
            if better.any() and gain < _MIN_FIT_GAIN:
                break
        best = int(cost.argmin())
        likeliest: Floats = settings[best : best + 1]
        return likeliest

    def _quadratic(
        self, settings: Floats, observed: Sequence[Observed]
    ) -> tuple[Floats, Floats, Floats]:
        """Negative log posterior (k,) of ``settings``, its curvature and gradient.

        The posterior is up to a constant, the curvature by Gauss and Newton; the gradient is that
        of the log posterior.
        """
        off = (settings - self._prior_mean) / self._prior_sd
        cost = 0.5 * np.square(off).sum(axis=1)
        curvature = np.tile(np.diag(self._prior_sd**-2.0), (len(settings), 1, 1))
        gradient = -off / self._prior_sd
        for seen in observed:
            value, slope = self._handed(settings, seen.rows, seen.stage)
            residual = seen.values - value
            cost = cost + 0.5 * ((residual @ seen.precision) * residual).sum(axis=1)
            weighted = np.swapaxes(slope, 1, 2) @ seen.precision
            curvature += weighted @ slope
            gradient = gradient + (weighted @ residual[..., None])[..., 0]
        return cost, curvature, gradient

    def _handed(self, settings: Floats, rows: Rows, stage: int) -> tuple[Floats, Floats]:
        """What ``stage`` hands on (k, rows), and its slopes (k, rows, parameters)."""
        own, own_slope = self._stage_quality(settings, rows, stage)
        if stage == 0:
            return own, own_slope
        given, given_slope = self._handed(settings, rows, stage - 1)
        at = self._offsets[stage]
        need = _logistic(settings[:, at + _NEED, None])
        mixed = _logistic(settings[:, at + _MIXED, None])
        passed = 1.0 - need * (1.0 - given)
        product = own * passed
        slope = ((1.0 - mixed) * passed)[..., None] * own_slope
        slope += ((1.0 - mixed) * own * need + mixed)[..., None] * given_slope
        slope[..., at + _NEED] = (1.0 - mixed) * own * (given - 1.0) * need * (1.0 - need)
        slope[..., at + _MIXED] = (given - product) * mixed * (1.0 - mixed)
        return (1.0 - mixed) * product + mixed * given, slope

    def _stage_quality(self, settings: Floats, rows: Rows, stage: int) -> tuple[Floats, Floats]:
        """Quality of a stage's own work, its model's curve at its count, and its slopes."""
        at = self._offsets[stage]
        choice = rows[:, stage]
        model = self._grid.models[stage][choice]
        counts = self._grid.samples[stage][choice]
        relative = counts / self._grid.samples[stage].min()
        size = self._grid.sizes[stage][model]
        mine = at + len(_OF_STAGE) + len(_OF_MODEL) * model
        start_at, rise_at, pace_at, turn_at, fall_at = (mine + i for i in range(len(_OF_MODEL)))

        def of_stage(level: int, by_size: int) -> Floats:
            value: Floats = settings[:, at + level, None] + settings[:, at + by_size, None] * size
            return value

        start = _logistic(of_stage(_START, _START_BY_SIZE) + settings[:, start_at])
        rise = _logistic(of_stage(_RISE, _RISE_BY_SIZE) + settings[:, rise_at])
        pace = np.exp(settings[:, pace_at])
        left = relative**-pace
        octaves = (np.log(counts) - settings[:, turn_at]) / math.log(2.0)
        past = np.logaddexp(0.0, _SHARPNESS * octaves) / _SHARPNESS
        fall = np.exp(settings[:, fall_at])

        by_start = start * (1.0 - start) * (1.0 - rise * (1.0 - left))
        by_rise = (1.0 - start) * rise * (1.0 - rise) * (1.0 - left)
        slope = np.zeros((len(settings), len(rows), settings.shape[1]))
        row = np.arange(len(rows))
        slope[:, row, at + _START] = slope[:, row, start_at] = by_start
        slope[:, row, at + _START_BY_SIZE] = by_start * size
        slope[:, row, at + _RISE] = slope[:, row, rise_at] = by_rise
        slope[:, row, at + _RISE_BY_SIZE] = by_rise * size
        slope[:, row, pace_at] = (1.0 - start) * rise * left * np.log(relative) * pace
        slope[:, row, turn_at] = fall * _logistic(_SHARPNESS * octaves) / math.log(2.0)
        slope[:, row, fall_at] = -fall * past
        return start + (1.0 - start) * rise * (1.0 - left) - fall * past, slope


def _logistic(x: Floats) -> Floats:
    share: Floats = 1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0)))
    return share
