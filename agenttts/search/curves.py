"""What is believed of a curve over samples before any trial: it rises, flattens, and may turn down (insight 2).

The belief is a population of such curves; the covariance over the population is the kernel with which the surrogate
compares sample counts. It knows more than smoothness: most of what 60 samples gain is gained by 10, and past saturation
only slow change is left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CURVES = 600


def curve_prior(counts: Floats) -> tuple[Floats, Floats]:
    """Mean (c,) of the population at ``counts`` and second moments (c, c), the moments' mean diagonal being 1.

    Curves are 0 at the least count: what a model reaches there is its offset, which the surrogate holds apart.
    """
    curves = population(counts)
    level = float(np.sqrt(np.square(curves).mean())) or 1.0
    curves = curves / level
    moments: Floats = curves.T @ curves / len(curves)
    return curves.mean(axis=0), moments


def population(counts: Floats) -> Floats:
    """Curves at ``counts``, shape (curves, c): 1 - s^-pace, less a fall for every octave past a turning point."""
    rng = np.random.default_rng(20)
    pace = np.exp(rng.uniform(np.log(0.2), np.log(2.0), _CURVES))[:, None]
    turn = np.exp(rng.uniform(np.log(3.0), np.log(80.0), _CURVES))[:, None]
    fall = np.where(rng.random(_CURVES) < 0.5, 0.0, rng.uniform(0.0, 0.25, _CURVES))[:, None]
    relative = counts[None, :] / counts.min()
    rise = 1.0 - relative**-pace
    curves: Floats = rise - fall * np.maximum(0.0, np.log2(counts[None, :] / turn))
    return curves - curves[:, :1]
