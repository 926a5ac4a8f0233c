"""A small space of two stages, and a table of results for it."""

import polars as pl

from agenttts.space import Model, SearchSpace, Stage

SPACE = SearchSpace(
    (
        Stage("a", (Model("s", 3e9), Model("l", 70e9)), 256, 64, tuple(range(1, 21))),
        Stage("b", (Model("s", 3e9), Model("l", 70e9)), 256, 64, tuple(range(1, 21))),
    ),
    260,
)


def grid() -> pl.DataFrame:
    """Every model combination at a few sample counts."""
    rows = [
        {
            "a.model": m, "a.samples": i, "b.model": n, "b.samples": j,
            "score": (0.2 if m == "s" else 0.3) + 0.01 * i + (0.1 if n == "s" else 0.2) + 0.02 * j,
            "a.f1": 0.1 * i,
        }
        for m in "sl" for n in "sl" for i in (1, 5, 10) for j in (1, 4)
    ]  # fmt: skip
    return pl.DataFrame(rows)
