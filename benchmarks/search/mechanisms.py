"""The mechanisms of agenttts' surrogate and rules, each with a way to switch it off.

The switches replace a function of the package while a search runs. The package has no options for
them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from agenttts.search import (
    acquisition,
    agenttts,
    evidence,
    failures,
    insights,
    kernel,
    quality,
    surrogate,
)
from agenttts.search.encoding import ChoiceGrid, Rows
from agenttts.search.gaussian import Floats, expected_improvement, matern
from agenttts.search.noise import ExampleNoise, example_noise

# What problems have: scores by example, stage metrics and scores rounded by few examples, failing
# trials.
BY_EXAMPLE, METRICS, FAILING = "by example", "metrics", "failing"


@dataclass(frozen=True)
class Mechanism:
    """A mechanism of the search.

    Attributes:
        code: Where it is: a module of `agenttts.search`, or ``MODULE:NAME``.
        off: Replacements that switch it off: (object, attribute, replacement).
        needs: What a problem must have for it to matter; None: nothing.
        searcher: Its searcher, as in items.py, in place of ``agenttts:25:400:stored``.
    """

    code: tuple[str, ...] = ()
    off: tuple[tuple[Any, str, Any], ...] = ()
    needs: str | None = None
    searcher: str | None = None

    @property
    def lines(self) -> int:
        """Lines of code, docstrings and comments included."""
        return sum(len(inspect.getsource(_named(place)).splitlines()) for place in self.code)

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Run without the mechanism."""
        patches = [patch.object(*replacement) for replacement in self.off]
        for each in patches:
            each.start()
        try:
            yield
        finally:
            for each in patches:
                each.stop()


def _named(place: str) -> Any:
    module, _, names = place.partition(":")
    found: Any = importlib.import_module(f"agenttts.search.{module}")
    for name in names.split(".") if names else ():
        found = getattr(found, name)
    return found


def _nothing(*_: object, **__: object) -> None:
    return None


def _unexplained(grid: ChoiceGrid, **options: Any) -> kernel.EffectKernel:
    """The kernel without predictions of a quality model."""
    return kernel.EffectKernel(grid, **{**options, "explained": False})


def _no_effects(self: kernel.EffectKernel, settings: Floats, factors: list[Floats]) -> Floats:
    """Effects that are 0 everywhere, so that the curves alone are left."""
    return 0.0 * sum(factors[1:], factors[0])


def _unpaired(trials: Sequence[Any], rows: Rows) -> ExampleNoise | None:
    """The noise of scores as if no two trials shared examples."""
    found = example_noise(trials, rows)
    if found is None:
        return None
    return ExampleNoise(np.diag(np.diag(found.covariance)), found.per_example)


def _shapeless(counts: Floats) -> tuple[Floats, Floats]:
    """Smooth curves in place of the population of saturating ones."""
    octaves = np.log2(counts)
    return np.zeros(len(counts)), matern(np.abs(octaves[:, None] - octaves[None, :]) / 2.0)


def _improvements(self: Any) -> Floats:
    """Expected improvement of the candidate's own posterior mean."""
    spread = self._variance / np.sqrt(self._variance + self._noise[:, None])
    best = self._rival_mean.max(axis=1)[:, None]
    value = self._model.weights @ (
        expected_improvement(self._mean, spread, best) + 1e-9 * self._mean
    )
    return np.where(self._open, value, -np.inf)


class _NoFailures(failures.Failures):
    """No region is avoided."""

    def _blame(self, results: int) -> None:
        """Blame nothing."""


MECHANISMS: dict[str, Mechanism] = {
    "nothing": Mechanism(),
    "quality model (the response as curves)": Mechanism(
        ("quality", "surrogate:_quality_model", "surrogate:_observed", "surrogate:_Scale"),
        (
            (surrogate, "_quality_model", _nothing),
            (surrogate, "EffectKernel", _unexplained),
        ),
    ),
    "kernel of effects": Mechanism(
        ("kernel:EffectKernel", "curves"), ((kernel.EffectKernel, "_combine", _no_effects),)
    ),
    "curves' shape in the kernel": Mechanism(
        ("curves",), ((kernel, "curve_prior", _shapeless),)
    ),
    "eight settings (one)": Mechanism((), ((surrogate, "_MEMBERS", 1),)),
    "three starts of the curves' fit (one)": Mechanism((), ((quality, "_FIT_STARTS", 1),)),
    "failures": Mechanism(
        ("failures",),
        ((insights, "Failures", _NoFailures),),
        FAILING,
    ),
    "pairing over common examples": Mechanism(
        ("noise:example_noise", "noise:_correlation", "noise:_nested", "noise:_groups"),
        ((evidence, "example_noise", _unpaired),),
        BY_EXAMPLE,
    ),
    "examples as fidelity (always 50)": Mechanism(
        ("fidelity",), needs=BY_EXAMPLE, searcher="agenttts:50:50:stored"
    ),
    "extensions (25 examples each)": Mechanism(
        ("insights:InsightRules._extendable", "fidelity:Fidelity.may_extend"),
        needs=BY_EXAMPLE,
        searcher="agenttts:25:25:stored",
    ),
    "stored trials": Mechanism(("stored",), needs=BY_EXAMPLE, searcher="agenttts:25:400"),
    "knowledge gradient (expected improvement)": Mechanism(
        (), ((acquisition._Batch, "values", _improvements),)
    ),
    "initial comparison of models": Mechanism(
        ("initial",), ((agenttts, "initial_trials", lambda *_: []),)
    ),
}  # fmt: skip
"""By what is switched off; in brackets what takes its place."""

DELETED = {
    "exploration where scores stand still": 73,
    "untried recommendations": 23,
    "steps of a response": 91,
    "noise from the scores' step": 14,
    "noise of equal leading choices": 24,
}
"""Mechanisms that the package no longer has, with their lines; their runs are kept in the log."""
