"""A small space of two stages, and a table of results for it."""

import numpy as np
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


def by_example(examples: int = 40) -> pl.DataFrame:
    """`grid` with the scores of every row by example, 0 or 1; their means differ by chance only."""
    rng = np.random.default_rng(5)
    difficulty = rng.random(examples)
    lists = [
        (0.5 * difficulty + 0.5 * rng.random(examples) < score).astype(float).tolist()
        for score in grid()["score"]
    ]
    return grid().drop("score").with_columns(pl.Series("examples", lists))
