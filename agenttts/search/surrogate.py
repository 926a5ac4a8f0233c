"""The surrogate: expected scores of all allocations and their uncertainty.

It is fitted to the trials.

It adds a Gaussian process (`agenttts.search.kernel`) to the insights as curves with parameters
(`agenttts.search.quality`). Several hyperparameter settings are averaged, weighted by their
posterior. The noise of scores is taken from the scores by example or from standard errors
(`agenttts.search.noise`), or fitted.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from agenttts.search.encoding import Rows
from agenttts.search.evidence import Evidence
from agenttts.search.gaussian import Floats, Posterior, log_evidence, search_settings, unit_of
from agenttts.search.kernel import EffectKernel, Points
from agenttts.search.noise import squared_errors
from agenttts.search.quality import Observed, QualityModel
from agenttts.space import Allocation

# Hyperparameter settings that are averaged. They are searched by draws from the prior, then by
# rounds of perturbations.
_MEMBERS = 8
_PRIOR_DRAWS, _REFINEMENT_ROUNDS, _PERTURBATIONS_PER_ROUND = 128, 3, 48

# Standard deviation of the log noise variance around its known value, and the prior weight of that
# value. Bounds of the log.
_NOISE_SPREAD, _KNOWN_NOISE_WEIGHT = 0.3, 0.9
_NOISE = (np.log(1e-7), 3.0)

# Fitting is cubic in the trials. Past this many, only the best and the latest are fitted.
_MOST_TRIALS = 300
# Past this many trials fewer settings are tried, so that a proposal stays under a second.
_MANY_TRIALS = 80

# Scores whose range is smaller than this are rescaled before curves are fitted to them.
_MIN_SCORE_RANGE = 1e-3

# Texts show scores to two digits of this share of their range, if they have less noise.
_RANGE_SHARE = 0.01

# Assumed standard error of a stage metric that reports none, and the standard deviation of the
# quality model's error.
_ASSUMED_METRIC_SD, _MODEL_ERROR_SD = 0.02, 0.005


@dataclass(frozen=True)
class Expectation:
    """An expected score and its standard deviation (noise not included)."""

    mean: float
    sd: float


class Surrogate:
    """Expected scores, fitted to the trials of the evidence (at least one).

    ``new_examples`` is the number of examples that a new trial will be scored on.

    ``curves=False`` leaves sample counts out (no insight 2), ``coupling=False`` makes the stages'
    effects add up (no insight 3). Inside, scores are in units of their spread around their mean.
    """

    def __init__(
        self,
        evidence: Evidence,
        *,
        curves: bool = True,
        coupling: bool = True,
        new_examples: int | None = None,
    ) -> None:
        self.new_examples = new_examples
        self.evidence = evidence = _representative(evidence)
        self.trials = evidence.trials
        self.grid = grid = evidence.grid
        scores = evidence.scores.tolist()
        self._centre = statistics.fmean(scores)
        self._unit = unit_of(scores, statistics.pstdev(scores))
        explained = curves and coupling
        self._scale = _Scale.of(scores)
        self._quality = _quality_model(evidence, self._scale) if explained else None
        self.points = self.at(evidence.rows)
        self.kernel = EffectKernel(
            grid,
            curves=curves,
            coupling=coupling,
            explained=explained,
            shared=evidence.example_noise is None,
        )
        self._fit((evidence.scores - self._centre) / self._unit)

    def at(self, rows: Rows) -> Points:
        """Rows as the kernel takes them."""
        if self._quality is None:
            return Points(rows)
        mean, features = self._quality.at(rows)
        unit = self._scale.unit / self._unit
        centre = (self._centre - self._scale.zero) / self._scale.unit
        return Points(rows, unit * (mean - centre), unit * features)

    def predict(self, points: Points) -> tuple[Floats, Floats]:
        """Standardised expected scores (members, points).

        The second result has the points in the observations' coordinates.
        """
        whitened = self.posterior.whiten(self.kernel(self.settings, points, self.points))
        return self.posterior.mean(whitened) + self.kernel.mean(self.settings, points), whitened

    @property
    def noise(self) -> float:
        """Standard deviation of one score around the expected one, in score units."""
        return self._unit * float(np.sqrt(self.weights @ self._noise))

    @cached_property
    def resolution(self) -> float:
        """To what texts show scores: the noise, or a part of the scores' range."""
        return max(self.noise, _RANGE_SHARE * float(np.ptp(self.evidence.scores)))

    @cached_property
    def _means(self) -> Floats:
        """Expected scores of the fitted trials, in the order of `trials`."""
        return self.in_score_units(self.weights @ self.expected)

    @cached_property
    def ranking(self) -> Sequence[int]:
        """Numbers of the fitted trials, the highest expected score first.

        Ties are in the order of `Allocation`.
        """
        ranking: list[int] = np.argsort(-self._means, kind="stable").tolist()
        return ranking

    @cached_property
    def tried(self) -> Mapping[Allocation, float]:
        """Expected scores of the fitted trials, in the order of `ranking`."""
        means = self._means.tolist()
        return {self.trials[number].allocation: means[number] for number in self.ranking}

    def mean(self, allocation: Allocation) -> float:
        """The expected score of one allocation, tried or not."""
        return self.means([allocation])[0]

    def means(self, allocations: Sequence[Allocation]) -> list[float]:
        """Expected scores of allocations of the space's choices, also over its budget."""
        expected = self.posterior_mean(self.grid.encode(allocations))
        means: list[float] = self.in_score_units(expected).tolist()
        return means

    def expect(self, allocation: Allocation) -> Expectation:
        """The expected score of one allocation, and its uncertainty."""
        points = self.at(self.grid.encode([allocation]))
        expected, whitened = self.predict(points)
        means = expected[:, 0]
        prior = self.kernel.variance(self.settings, points)[:, 0]
        variance = np.maximum(0.0, prior - np.square(whitened[:, 0]).sum(axis=1))
        mean = float(self.weights @ means)
        spread = float(np.sqrt(self.weights @ (variance + (means - mean) ** 2)))
        return Expectation(self._centre + self._unit * mean, self._unit * spread)

    def posterior_mean(self, rows: Rows) -> Floats:
        """Expected scores of rows, standardised; shape (rows,)."""
        points = self.at(rows)
        kernels = self.kernel(self.settings, points, self.points)
        means = self.posterior.mean_alone(kernels) + self.kernel.mean(self.settings, points)
        expected: Floats = self.weights @ means
        return expected

    def in_score_units(self, standardised: Floats) -> Floats:
        """Standardised scores as scores."""
        scores: Floats = self._centre + self._unit * standardised
        return scores

    def gain(self, allocation: Allocation, over: Allocation) -> Expectation:
        """Expected gain of an allocation ``over`` another, and its uncertainty."""
        points = self.at(self.grid.encode([allocation, over]))
        expected, whitened = self.predict(points)
        covariance = self.kernel(self.settings, points, points)
        covariance = covariance - whitened @ np.swapaxes(whitened, 1, 2)
        difference = expected[:, 0] - expected[:, 1]
        variance = covariance[:, 0, 0] + covariance[:, 1, 1] - 2.0 * covariance[:, 0, 1]
        mean = float(self.weights @ difference)
        square = np.maximum(0.0, variance) + (difference - mean) ** 2
        return Expectation(self._unit * mean, self._unit * float(np.sqrt(self.weights @ square)))

    def _fit(self, targets: Floats) -> None:
        mean, sd = self.kernel.prior()
        covariance = self.evidence.covariance
        level = float(mean[-1])
        pattern = np.eye(len(targets))
        if covariance is not None:
            relative = covariance / self._unit**2
            level = float(np.log(np.diag(relative).mean()))
            pattern = relative / np.diag(relative).mean()
        known = covariance is not None

        def noises(settings: Floats, part: Rows) -> Floats:
            scale = np.exp(np.clip(settings[:, -1], *_NOISE))
            covariances: Floats = scale[:, None, None] * pattern[np.ix_(part, part)]
            return covariances

        def draw(count: int) -> Floats:
            settings = mean + sd * rng.standard_normal((count, len(mean)))
            if known:
                settings[: count // 2, -1] = level + _NOISE_SPREAD * rng.standard_normal(count // 2)
            return settings

        def log_posterior(settings: Floats) -> Floats:
            offsets = (settings - mean) / sd
            prior = -0.5 * np.square(offsets[:, :-1]).sum(axis=1)
            prior += _log_noise_prior(settings[:, -1], mean[-1], sd[-1], level, known)
            kernels = self.kernel(settings, points, points)
            residual = targets[part] - self.kernel.mean(settings, points)
            fitted: Floats = prior + log_evidence(
                kernels, noises(settings, part), residual, scaled=False
            )
            return fitted

        part = _part_for_settings(targets)
        points = self.points[part]
        rng = np.random.default_rng(0)
        many = len(targets) > _MANY_TRIALS
        settings, fitted = search_settings(
            log_posterior,
            draw,
            rng,
            first=_PRIOR_DRAWS // 4 if many else _PRIOR_DRAWS,
            rounds=_REFINEMENT_ROUNDS,
            each=_PERTURBATIONS_PER_ROUND // 4 if many else _PERTURBATIONS_PER_ROUND,
        )
        self.settings = settings[:_MEMBERS]
        weights = np.exp(fitted[:_MEMBERS] - fitted[0])
        self.weights: Floats = weights / weights.sum()
        every = np.arange(len(targets))
        covariances = noises(self.settings, every)
        self._noise: Floats = np.einsum("hnn->hn", covariances).mean(axis=1)
        kernels = self.kernel(self.settings, self.points, self.points)
        prior_mean = self.kernel.mean(self.settings, self.points)
        self.posterior = Posterior(kernels, covariances, targets - prior_mean, scaled=False)
        self.whitened = self.posterior.whiten(kernels)
        self.expected = self.posterior.mean(self.whitened) + prior_mean

    @property
    def trial_noise(self) -> Floats:
        """Variance of a new trial's noise, shape (members,), standardised."""
        noise = self.evidence.example_noise
        if noise is None or self.new_examples is None:
            return self._noise
        # The members differ only by the level of the noise.
        known = float(np.diag(noise.covariance).mean())
        return self._noise * (noise.per_example / self.new_examples / known)


def _part_for_settings(targets: Floats) -> Rows:
    """Numbers of the trials to which the settings are fitted, at most `_MANY_TRIALS`.

    Half of them are the best, the others are spread over the rest.
    """
    if len(targets) <= _MANY_TRIALS:
        return np.arange(len(targets))
    order = np.argsort(-targets, kind="stable")
    best, rest = order[: _MANY_TRIALS // 2], np.sort(order[_MANY_TRIALS // 2 :])
    spread = rest[np.linspace(0, len(rest) - 1, _MANY_TRIALS // 2).astype(int)]
    return np.sort(np.concatenate([best, spread]))


def _log_noise_prior(noise: Floats, mean: float, sd: float, level: float, known: bool) -> Floats:
    """Log prior of the log noise variance.

    It is broad; when the noise is ``known``, it is concentrated around that level.
    """
    broad: Floats = -0.5 * np.square((noise - mean) / sd) - np.log(sd)
    if not known:
        return broad
    close = -0.5 * np.square((noise - level) / _NOISE_SPREAD) - np.log(_NOISE_SPREAD)
    mixed: Floats = np.logaddexp(
        np.log(_KNOWN_NOISE_WEIGHT) + close, np.log(1.0 - _KNOWN_NOISE_WEIGHT) + broad
    )
    return mixed


@dataclass(frozen=True)
class _Scale:
    """Values as shares: ``value = zero + unit·share``.

    Values from 0 to 1 are kept unless they hardly differ; others are mapped to 0.1 to 0.9.
    """

    zero: float
    unit: float

    @classmethod
    def of(cls, values: Sequence[float]) -> _Scale:
        low, high = min(values), max(values)
        if low >= 0.0 and high <= 1.0 and not 0.0 < high - low < _MIN_SCORE_RANGE:
            return cls(0.0, 1.0)
        unit = unit_of(values, (high - low) / 0.8)
        return cls(low - 0.1 * unit, unit)


def _quality_model(evidence: Evidence, scale: _Scale) -> QualityModel:
    """The quality model fitted to the trials' stage metrics and scores."""
    trials, last = evidence.trials, len(evidence.grid.choices) - 1
    observed: list[Observed] = []
    for number, stage in enumerate(evidence.grid.space.stages[:last]):
        # Trials with equal leading choices share their samples: equal values are one observation.
        seen: dict[tuple[object, ...], tuple[float, int]] = {}
        for at, trial in enumerate(trials):
            value = trial.stage_value(stage.name)
            if value is not None:
                seen[(*trial.allocation.choices[: number + 1], value)] = (value, at)
        if seen:
            values, kept = zip(*seen.values(), strict=True)
            errors = [trials[at].stage_stderr(stage.name) for at in kept]
            rows = evidence.rows[list(kept)]
            observed.append(_observed(number, rows, values, errors, _Scale.of(values)))
    scores, errors = evidence.scores, [trial.stderr for trial in trials]
    final = _observed(last, evidence.rows, scores, errors, scale)
    if evidence.example_noise is not None:
        covariance = evidence.example_noise.covariance / scale.unit**2
        final = replace(final, noise=covariance + _MODEL_ERROR_SD**2 * np.eye(len(trials)))
    return QualityModel(evidence.grid, [*observed, final])


def _observed(
    stage: int,
    rows: Rows,
    values: Floats | Sequence[float],
    errors: Sequence[float | None],
    scale: _Scale,
) -> Observed:
    known = squared_errors(errors) / scale.unit**2
    variance = np.where(np.isnan(known), _ASSUMED_METRIC_SD**2, known) + _MODEL_ERROR_SD**2
    return Observed(stage, rows, (np.array(values) - scale.zero) / scale.unit, np.diag(variance))


def _representative(evidence: Evidence) -> Evidence:
    """The evidence with at most `_MOST_TRIALS` trials: its latest and its best."""
    trials = evidence.trials
    if len(trials) <= _MOST_TRIALS:
        return evidence
    own = [number for number in evidence.told if not trials[number].stored]
    if len(own) > _MOST_TRIALS:
        latest, rest = own[-_MOST_TRIALS // 3 :], own[: -_MOST_TRIALS // 3]
    else:
        latest, rest = own, [number for number, trial in enumerate(trials) if trial.stored]
    rest = sorted(rest, key=lambda number: (-trials[number].score, number))
    return evidence.part(sorted([*latest, *rest[: _MOST_TRIALS - len(latest)]]))
