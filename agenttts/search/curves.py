"""Prior over curves of the score over samples (insight 2).

Curves rise, flatten, and may turn down.

The prior is a population of such curves. Its covariance is the kernel with which the surrogate
compares sample counts. It states more than smoothness: 10 samples reach most of the gain of 60, and
scores change slowly past saturation.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from agenttts.search.gaussian import Floats

_CURVES = 600


def curve_prior(counts: Floats) -> tuple[Floats, Floats]:
    """Mean (c,) of the population at ``counts``, and its second moments (c, c).

    The mean diagonal of the second moments is 1.

    Curves are 0 at the least count: the score there is the model's offset, a separate effect of the
    surrogate.
    """
    return _prior_at(tuple(counts.tolist()))


# Every fit of a surrogate asks for the same few counts, and computing them takes 10 ms (2026-11).
@lru_cache(maxsize=64)
def _prior_at(at: tuple[float, ...]) -> tuple[Floats, Floats]:
    counts = np.array(at)
    # A curve is 1 - s^-pace, less a fall for every octave past a turning point.
    rng = np.random.default_rng(20)
    pace = np.exp(rng.uniform(np.log(0.2), np.log(2.0), _CURVES))[:, None]
    turn = np.exp(rng.uniform(np.log(3.0), np.log(80.0), _CURVES))[:, None]
    fall = np.where(rng.random(_CURVES) < 0.5, 0.0, rng.uniform(0.0, 0.25, _CURVES))[:, None]
    rise = 1.0 - (counts[None, :] / counts.min()) ** -pace
    curves = rise - fall * np.maximum(0.0, np.log2(counts[None, :] / turn))
    curves = curves - curves[:, :1]
    level = float(np.sqrt(np.square(curves).mean())) or 1.0
    curves = curves / level
    moments: Floats = curves.T @ curves / len(curves)
    mean: Floats = curves.mean(axis=0)
    mean.flags.writeable = moments.flags.writeable = False  # all callers get the same arrays
    return mean, moments
