"""What the trials say about the whole space: expected scores with their uncertainty.

A Gaussian process in plain Python (a few dozen trials need no linear-algebra library). Its kernel states the method's
insights: a stage's effect is an offset a model plus a smooth curve over log2(samples), partly shared between the
stage's models (insight 2); where an earlier stage reports a metric of its own, choices that hand on equally good
results are alike; and the effects of different stages combine by product (insight 3: what one stage
gets changes what pays at another), ``k(a, b) = prod_i (1 + S_i(a_i, b_i))``. Smoothness and noise are chosen by the
marginal likelihood, the scale in closed form. Reference: Rasmussen & Williams, *Gaussian Processes for Machine
Learning*, chapters 2 and 5; the product kernel is the ANOVA kernel of Stitson et al. (1997).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import mul

from agenttts.search.archive import Scored
from agenttts.space import Allocation, Choice

# Octaves of samples over which a stage's curve changes, and noise variance as a share of the scores' variance.
_LENGTHS = (2.0, 4.0, 8.0)
_NOISES = (1e-4, 1e-2, 5e-2, 0.2, 0.6)

# Before the scores say otherwise: noise as from about 100 examples, give or take a factor of e^2.
_USUAL_NOISE, _NOISE_SPREAD = 0.03, 2.0

# How a stage's effect divides into: its model's offset, a curve all its models share, the model's own curve.
_OFFSET, _SHARED, _OWN = 0.4, 0.2, 0.4

# Share of a stage's effect that is explained by its own metric where trials report one, and from how many trials.
_HANDED, _ENOUGH = 0.5, 4

# Fitting is cubic in the trials. Past this many, the best and the latest ones stand for the rest.
_MOST_TRIALS = 64


@dataclass(frozen=True)
class Expectation:
    """Expected score of an allocation and the standard deviation of that expectation (noise not included)."""

    mean: float
    sd: float


class EffectModel:
    """Expected scores, fitted to the trials that count.

    ``curves=False`` leaves sample counts out (no insight 2), ``coupling=False`` makes the stages' effects add up
    (no insight 3). Needs at least one trial.
    """

    def __init__(
        self, trials: Sequence[Scored], *, curves: bool = True, coupling: bool = True
    ) -> None:
        # By allocation, so that the order in which results came in changes nothing.
        chosen = sorted(_representative(trials), key=lambda trial: trial.allocation)
        self._allocations = [trial.allocation for trial in chosen]
        scores = [trial.score for trial in chosen]
        self._centre = statistics.fmean(scores)
        self._unit = statistics.pstdev(scores) or 1.0
        self._curves = curves
        self._coupling = coupling
        self._handed = _handed_on(chosen) if curves and coupling else {}
        self._rows: dict[Choice, list[float]] = {}
        self._fit([(score - self._centre) / self._unit for score in scores])

    @property
    def noise(self) -> float:
        """Standard deviation of one score around the expected one, in score units."""
        return self._scale * math.sqrt(self._noise)

    @cached_property
    def tried(self) -> Mapping[Allocation, float]:
        """Expected scores of the fitted trials, the highest first (ties: as `Allocation` orders)."""
        means = {allocation: self.mean(allocation) for allocation in self._allocations}
        return dict(sorted(means.items(), key=lambda item: (-item[1], item[0])))

    def mean(self, allocation: Allocation) -> float:
        """The expected score alone: cheaper than `expect`."""
        return self._centre + self._unit * _dot(self._against_trials(allocation), self._weights)

    def expect(self, allocation: Allocation) -> Expectation:
        """The expected score of one allocation, tried or not."""
        solved = _forward(self._factor, self._against_trials(allocation))
        return self._expectation(solved)

    def choose(self, candidates: Sequence[Allocation], n: int) -> list[int]:
        """Indices of up to ``n`` candidates worth trying next, the most promising first.

        Each pick has the largest expected improvement over the best tried allocation's expected score. Before the
        next pick the model believes that the last one scored as expected, which leaves the means as they are and
        takes away the uncertainty around it: a batch spreads out ("kriging believer", Ginsbourger et al. 2010).
        """
        incumbent = max(self.tried.values())
        solved = [_forward(self._factor, self._against_trials(c)) for c in candidates]
        expected = [self._expectation(row) for row in solved]
        means = [e.mean for e in expected]
        variances = [(e.sd / self._scale) ** 2 for e in expected]
        open_ = set(range(len(candidates)))
        picks: list[int] = []
        while open_ and len(picks) < n:
            pick = max(
                open_,
                key=lambda i: (
                    _improvement(means[i], self._scale * math.sqrt(variances[i]), incumbent),
                    means[i],
                    -i,
                ),
            )
            picks.append(pick)
            open_.discard(pick)
            incumbent = max(incumbent, means[pick])
            # One more row of the Cholesky factor: the believed observation.
            pivot = math.sqrt(variances[pick] + self._noise)
            for i in open_:
                shared = self._kernel(candidates[i], candidates[pick])
                entry = (shared - _dot(solved[i], solved[pick])) / pivot
                solved[i].append(entry)
                variances[i] = max(0.0, variances[i] - entry * entry)
        return picks

    def _fit(self, targets: list[float]) -> None:
        best: tuple[float, float, float, list[list[float]], list[float], float] | None = None
        count = len(targets)
        for length in _LENGTHS if self._curves else _LENGTHS[:1]:
            self._length = length
            self._rows.clear()
            kernel = [self._against_trials(allocation) for allocation in self._allocations]
            for noise in _NOISES:
                factor = _cholesky(kernel, noise)
                solved = _forward(factor, targets)
                # A weak prior (one pseudo-observation) keeps the scale sane with very few trials.
                scale = (_dot(solved, solved) + 1.0) / (count + 1.0)
                log_determinant = sum(math.log(row[-1]) for row in factor)
                evidence = -0.5 * (count + 1.0) * math.log(scale) - log_determinant
                evidence -= 0.5 * (math.log(noise / _USUAL_NOISE) / _NOISE_SPREAD) ** 2
                if best is None or evidence > best[0]:
                    best = (evidence, length, noise, factor, solved, scale)
        assert best is not None
        _, self._length, self._noise, self._factor, self._targets, scale = best
        self._scale = self._unit * math.sqrt(scale)
        self._weights = _backward(self._factor, self._targets)
        self._rows.clear()

    def _expectation(self, solved: Sequence[float]) -> Expectation:
        mean = self._centre + self._unit * _dot(solved, self._targets)
        variance = max(0.0, 1.0 - _dot(solved, solved))
        return Expectation(mean, self._scale * math.sqrt(variance))

    def _against_trials(self, allocation: Allocation) -> list[float]:
        """Kernel values between ``allocation`` and every trial; rows a choice are kept, candidates share them."""
        prefixes = [allocation.choices[: index + 1] for index in range(len(allocation.choices))]
        rows = [self._row(prefix) for prefix in prefixes]
        return [self._combine(effects) for effects in zip(*rows, strict=True)]

    def _row(self, prefix: tuple[Choice, ...]) -> list[float]:
        """S_i between the last stage of ``prefix`` and that stage of every trial."""
        index, choice = len(prefix) - 1, prefix[-1]
        if choice not in self._rows:
            self._rows[choice] = [self._alike(choice, a.choices[index]) for a in self._allocations]
        handed = self._handed.get(index)
        if handed is None:
            return self._rows[choice]
        likeness = handed.likeness_to_trials(prefix)
        return [_mixed(a, b) for a, b in zip(self._rows[choice], likeness, strict=True)]

    def _kernel(self, a: Allocation, b: Allocation) -> float:
        effects = [self._alike(x, y) for x, y in zip(a.choices, b.choices, strict=True)]
        for index, handed in self._handed.items():
            likeness = handed.likeness(a.choices[: index + 1], b.choices[: index + 1])
            effects[index] = _mixed(effects[index], likeness)
        return self._combine(effects)

    def _alike(self, a: Choice, b: Choice) -> float:
        """How alike two choices of one stage are, 0 to 1."""
        same = 1.0 if a.model == b.model else 0.0
        if not self._curves:
            return same
        shape = _matern(abs(math.log2(a.samples / b.samples)) / self._length)
        return _OFFSET * same + _SHARED * shape + _OWN * same * shape

    def _combine(self, effects: Sequence[float]) -> float:
        """One kernel value, 1 for equal allocations."""
        if self._coupling:
            product = math.prod(1.0 + effect for effect in effects)
            return product * 0.5 ** len(effects)
        return (1.0 + math.fsum(effects)) / (1.0 + len(effects))


class _HandedOn:
    """What a stage hands on: its own metric, smoothed over the choices up to and with it."""

    def __init__(self, measured: Sequence[Scored], prefixes: Sequence[tuple[Choice, ...]]) -> None:
        self._model = EffectModel(measured)
        self._spread = statistics.pstdev(trial.score for trial in measured)
        self._quality: dict[tuple[Choice, ...], float] = {}
        self._trials = [self._expected(prefix) for prefix in prefixes]

    def likeness(self, a: tuple[Choice, ...], b: tuple[Choice, ...]) -> float:
        """1 where both hand on equally good results, falling to 0."""
        return self._near(self._expected(a), self._expected(b))

    def likeness_to_trials(self, prefix: tuple[Choice, ...]) -> list[float]:
        """`likeness` to every trial's prefix."""
        expected = self._expected(prefix)
        return [self._near(expected, other) for other in self._trials]

    def _near(self, a: float, b: float) -> float:
        distance = (a - b) / self._spread
        return math.exp(-0.5 * distance * distance)

    def _expected(self, prefix: tuple[Choice, ...]) -> float:
        if prefix not in self._quality:
            self._quality[prefix] = self._model.mean(Allocation(prefix))
        return self._quality[prefix]


def _mixed(alike: float, likeness: float) -> float:
    return (1.0 - _HANDED) * alike + _HANDED * likeness


def _handed_on(trials: Sequence[Scored]) -> dict[int, _HandedOn]:
    """By stage number, for every stage but the last that reports a metric of its own in enough trials."""
    found: dict[int, _HandedOn] = {}
    for index, choice in enumerate(trials[0].allocation.choices[:-1]):
        measured = [
            Scored(Allocation(trial.allocation.choices[: index + 1]), value, trial.cost, {})
            for trial in trials
            if (value := trial.stage_value(choice.stage)) is not None
        ]
        if len(measured) >= _ENOUGH and len({trial.score for trial in measured}) > 1:
            prefixes = [trial.allocation.choices[: index + 1] for trial in trials]
            found[index] = _HandedOn(measured, prefixes)
    return found


def _representative(trials: Sequence[Scored]) -> Sequence[Scored]:
    if len(trials) <= _MOST_TRIALS:
        return trials
    latest = trials[-_MOST_TRIALS // 3 :]
    rest = sorted(trials[: -_MOST_TRIALS // 3], key=lambda t: (-t.score, t.allocation))
    return [*latest, *rest[: _MOST_TRIALS - len(latest)]]


def _improvement(mean: float, sd: float, incumbent: float) -> float:
    """Expected improvement over ``incumbent`` of a normal variable (Jones et al. 1998)."""
    if sd < 1e-12:
        return max(0.0, mean - incumbent)
    z = (mean - incumbent) / sd
    density = math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return sd * (z * 0.5 * math.erfc(-z / math.sqrt(2.0)) + density)


def _matern(distance: float) -> float:
    """Matérn-5/2 correlation."""
    scaled = math.sqrt(5.0) * distance
    return (1.0 + scaled + scaled * scaled / 3.0) * math.exp(-scaled)


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    product: float = sum(map(mul, a, b))
    return product


def _cholesky(kernel: Sequence[Sequence[float]], noise: float) -> list[list[float]]:
    """Lower factor, row by row (row i has i+1 entries), of ``kernel + noise·I``."""
    factor: list[list[float]] = []
    for i, source in enumerate(kernel):
        row: list[float] = []
        for j in range(i):
            # `map` stops at the shorter operand: the j entries known so far.
            row.append((source[j] - _dot(row, factor[j])) / factor[j][j])
        row.append(math.sqrt(max(source[i] + noise - _dot(row, row), 1e-12)))
        factor.append(row)
    return factor


def _forward(factor: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Solve ``factor · x = values``."""
    solved: list[float] = []
    for row, value in zip(factor, values, strict=True):
        solved.append((value - _dot(solved, row)) / row[-1])
    return solved


def _backward(factor: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Solve ``factor transposed · x = values``."""
    solved = list(values)
    for i in range(len(solved) - 1, -1, -1):
        row = factor[i]
        solved[i] /= row[i]
        for j in range(i):
            solved[j] -= row[j] * solved[i]
    return solved
