"""The difference of two means, and whether the examples suffice to tell it.

The same examples are compared in pairs: what makes an example hard for both sides then drops out of
the difference. Different examples are compared by the means of the two sides.

Examples that are all equal have no standard error, but others may differ from them. If all values
are from 0 to 1, the interval allows for the share of these that Wilson's interval leaves open
(`other_share`). Reference: R. G. Newcombe, *Interval estimation for the difference between
independent proportions*, Statistics in Medicine 17 (1998), method 10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agenttts.tables.uncertainty import (
    bootstrap,
    interval_of_equal,
    other_share,
    standard_error,
)

Verdict = Literal["better", "worse", "not to be told"]
"""The last one: the two cannot be told apart."""

LEVEL = 0.95

Z = 1.959964
"""The 97.5 % quantile of the normal distribution."""

LEAST_DIFFERENT_PAIRS = 6
"""The fewest pairs of unequal values that can tell a difference.

By the sign test, five pairs that all point the same way still occur by chance with probability
2 x 0.5**5 = 0.06; with six it is 0.03.
"""

LEAST_OF_A_SIDE = 4
"""The fewest examples of each side that can tell a difference of different examples.

By the permutation test, of 3 and 3 values the most extreme order has probability 2/20; of 4 and 4
it is 2/70.
"""

LEAST_COMMON_SHARE = 0.5
"""The least share of the smaller side's examples that has to be common for a paired comparison."""


def verdict_text(verdict: str) -> str:
    """Return a verdict in the words that people read."""
    return "not to be told apart" if verdict == "not to be told" else verdict


@dataclass(frozen=True)
class Difference:
    """The mean of one side minus the mean of the other.

    Attributes:
        first: The mean of the one side, over the examples that are compared.
        second: The mean of the other side.
        difference: ``first - second``.
        low: The lower bound of its 95 % interval; None if a side has fewer than two examples.
        high: The upper bound.
        stderr: Its standard error.
        paired: Whether the same examples are compared.
        examples: Number of examples of the smaller side that are compared.
        verdict: Whether the one side is higher ("better"), lower ("worse"), or neither can be told.
        more_examples: How many more examples each side would need to tell, if the true difference
            and the variation are those measured; None where it can be told already, where there is
            no difference, or where the standard error is not known.
    """

    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    stderr: float | None
    paired: bool
    examples: int
    verdict: Verdict
    more_examples: int | None


def compare(first: Mapping[str, float], second: Mapping[str, float]) -> Difference | None:
    """Return the difference of two sides' means.

    It is paired if at least half of the smaller side's examples are common; then only these are
    compared.

    Args:
        first: The values of the one side, by example.
        second: The values of the other side, by example.

    Returns:
        The difference; None if a side has no values.
    """
    if not first or not second:
        return None
    common = [example for example in first if example in second]
    if len(common) >= max(1, LEAST_COMMON_SHARE * min(len(first), len(second))):
        return _paired([first[e] for e in common], [second[e] for e in common])
    return _unpaired(list(first.values()), list(second.values()))


def _paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    differences = [a - b for a, b in zip(first, second, strict=True)]
    different = sum(1 for value in differences if value != 0)
    stderr = standard_error(differences)
    return _judged(
        _mean(first),
        _mean(second),
        _mean(differences),
        None if stderr is None else _paired_bounds(first, second),
        stderr,
        examples=len(first),
        paired=True,
        # Examples that are needed until enough pairs differ, if their share stays as it is.
        least=math.ceil(LEAST_DIFFERENT_PAIRS * len(first) / different) if different else 0,
    )


def _paired_bounds(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    differences = [a - b for a, b in zip(first, second, strict=True)]
    equal = len(set(differences)) == 1
    if equal and (one := differences[0]) in (-1.0, 0.0, 1.0) and _are_shares(first, second):
        # In a share of other pairs, the difference may be anything from -1 to 1.
        other = other_share(len(differences))
        return one - other * (1.0 + one), one + other * (1.0 - one)
    found = bootstrap(differences)
    return None if found is None else (found.low, found.high)


def _unpaired(first: Sequence[float], second: Sequence[float]) -> Difference:
    errors = (standard_error(first), standard_error(second))
    difference = _mean(first) - _mean(second)
    stderr = None if None in errors else math.hypot(*(error or 0.0 for error in errors))
    bounds = None
    if stderr is not None:
        shares = _are_shares(first, second)
        up, down = _half_widths(first, shares=shares), _half_widths(second, shares=shares)
        bounds = (
            difference - math.hypot(up[0], down[1]),
            difference + math.hypot(up[1], down[0]),
        )
    return _judged(
        _mean(first),
        _mean(second),
        difference,
        bounds,
        stderr,
        examples=min(len(first), len(second)),
        paired=False,
        least=LEAST_OF_A_SIDE,
    )


def _are_shares(first: Sequence[float], second: Sequence[float]) -> bool:
    return all(0.0 <= value <= 1.0 for value in (*first, *second))


def _half_widths(values: Sequence[float], *, shares: bool) -> tuple[float, float]:
    """Return how far the mean of other examples may be below and above that of these.

    ``shares`` says that the values, and those of the other side, are from 0 to 1.
    """
    error = standard_error(values)
    if shares and error == 0.0 and (bounds := interval_of_equal(values[0], len(values))):
        return values[0] - bounds[0], bounds[1] - values[0]
    return Z * (error or 0.0), Z * (error or 0.0)


def _judged(
    first: float,
    second: float,
    difference: float,
    bounds: tuple[float, float] | None,
    stderr: float | None,
    *,
    examples: int,
    paired: bool,
    least: int,
) -> Difference:
    low, high = bounds or (None, None)
    verdict: Verdict = "not to be told"
    if bounds is not None and examples >= least:
        if bounds[0] > 0:
            verdict = "better"
        elif bounds[1] < 0:
            verdict = "worse"
    more = None
    if verdict == "not to be told" and difference and stderr is not None:
        needed = math.ceil(examples * (Z * stderr / difference) ** 2)
        more = max(1, max(needed, least) - examples)
    return Difference(first, second, difference, low, high, stderr, paired, examples, verdict, more)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
