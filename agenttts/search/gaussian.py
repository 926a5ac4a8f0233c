"""Gaussian processes in numpy, several settings of the hyperparameters at a time.

Arrays lead with the members of the ensemble: ``h`` settings, ``n`` observations, ``m`` points to
predict. Reference: Rasmussen & Williams, *Gaussian Processes for Machine Learning* (2006), chapters
2 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_erf = np.frompyfunc(math.erf, 1, 1)

# Added to every diagonal for numerical stability.
_JITTER = 1e-9


def log_evidence(
    kernels: Floats, noises: Floats, targets: Floats, *, scaled: bool = True
) -> Floats:
    """Log marginal likelihood of ``targets`` under each kernel, shape (h,).

    ``targets`` is (n,) or (h, n), the kernels (h, n, n); the values are up to a constant.

    ``noises`` are in the kernel's unit: variances (h, n), or covariances (h, n, n). When
    ``scaled``, the kernel is right up to a factor: it takes its most likely value, held by one
    pseudo-observation of 1.
    """
    lower = _factor(kernels, noises)
    solved = np.linalg.solve(lower, np.broadcast_to(targets, noises.shape[:2])[..., None])[..., 0]
    count = targets.shape[-1]
    quadratic = np.einsum("hn,hn->h", solved, solved)
    log_determinant = np.log(np.einsum("hnn->hn", lower)).sum(axis=1)
    if not scaled:
        plain: Floats = -0.5 * quadratic - log_determinant
        return plain
    evidence: Floats = (
        -0.5 * (count + 1.0) * np.log((quadratic + 1.0) / (count + 1.0)) - log_determinant
    )
    return evidence


def search_settings(
    log_posterior: Callable[[Floats], Floats],
    draw: Callable[[int], Floats],
    rng: np.random.Generator,
    *,
    first: int,
    rounds: int,
    each: int,
) -> tuple[Floats, Floats]:
    """Settings with a high posterior, best first, and their log posteriors.

    ``first`` draws from the prior, then ``rounds`` of ``each`` perturbations of the best eight. A
    population rather than a gradient: the surface is cheap, low-dimensional and has several modes.
    """
    settings = draw(first)
    values = log_posterior(settings)
    spread = settings.std(axis=0)
    for turn in range(rounds):
        best = np.argsort(-values, kind="stable")[:8]
        parents = settings[best[np.arange(each) % len(best)]]
        step = spread * 0.6 * 0.6**turn
        moved = parents + rng.standard_normal(parents.shape) * step
        settings = np.concatenate([settings[best], moved])
        values = np.concatenate([values[best], log_posterior(moved)])
    order = np.argsort(-values, kind="stable")
    return settings[order], values[order]


class Posterior:
    """Conditioned processes.

    ``kernels`` (h, n, n), ``noises`` (h, n) or (h, n, n), ``targets`` (n,) or (h, n).
    """

    def __init__(
        self, kernels: Floats, noises: Floats, targets: Floats, *, scaled: bool = True
    ) -> None:
        lower = _factor(kernels, noises)
        self._inverse = np.linalg.inv(lower)
        values = np.broadcast_to(targets, noises.shape[:2])
        self._solved = np.einsum("hij,hj->hi", self._inverse, values)
        count = targets.shape[-1]
        quadratic = np.einsum("hn,hn->h", self._solved, self._solved)
        self._mean_weights = np.einsum("hi,hij->hj", self._solved, self._inverse)
        self.scale: Floats = np.sqrt((quadratic + 1.0) / (count + 1.0))
        if not scaled:
            self.scale = np.ones(len(kernels), dtype=np.float64)

    def whiten(self, against: Floats) -> Floats:
        """Kernel values (h, m, n) in the observations' coordinates.

        ``against`` are the values between points and observations.

        Their products give what the observations explain: ``whitened(a) · whitened(b)`` is the
        covariance taken away.
        """
        whitened: Floats = against @ np.swapaxes(self._inverse, 1, 2)
        return whitened

    def mean(self, whitened: Floats) -> Floats:
        """Expected values (h, m)."""
        mean: Floats = np.einsum("hmn,hn->hm", whitened, self._solved)
        return mean

    def mean_alone(self, against: Floats) -> Floats:
        """Expected values (h, m) from kernel values, where no variance is needed.

        It is linear in the observations for every point; `whiten` is quadratic.
        """
        mean: Floats = np.einsum("hmn,hn->hm", against, self._mean_weights)
        return mean


def expected_improvement(mean: Floats, sd: Floats, incumbent: Floats) -> Floats:
    """Of normal variables over ``incumbent`` (Jones et al. 1998)."""
    safe = np.maximum(sd, 1e-12)
    z = (mean - incumbent) / safe
    density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    below = 0.5 * (1.0 + _erf(z / math.sqrt(2.0)).astype(np.float64))
    improvement: Floats = safe * (z * below + density)
    return np.where(sd > 1e-12, improvement, np.maximum(0.0, mean - incumbent))


def matern(distance: Floats) -> Floats:
    """Matérn-5/2 correlation."""
    scaled = math.sqrt(5.0) * distance
    correlation: Floats = (1.0 + scaled + scaled * scaled / 3.0) * np.exp(-scaled)
    return correlation


def unit_of(values: Sequence[float], spread: float) -> float:
    """``spread`` as a unit: 1 where the values differ by rounding alone."""
    return spread if differ(values, spread) else 1.0


def differ(values: Sequence[float], spread: float) -> bool:
    """Whether values of this ``spread`` differ by more than rounding.

    Differences of values up to 1 have rounding errors of about 1e-16.
    """
    return spread > max(1e-15, 1e-9 * max(map(abs, values)))


def _factor(kernels: Floats, noises: Floats) -> Floats:
    padded = kernels.copy()
    along = np.arange(kernels.shape[1])
    largest = np.maximum(1.0, padded[:, along, along].max(axis=1, keepdims=True))
    if noises.ndim == kernels.ndim:
        padded += noises
    else:
        padded[:, along, along] += noises
    padded[:, along, along] += _JITTER * largest
    lower: Floats = np.linalg.cholesky(padded).astype(np.float64)
    return lower
