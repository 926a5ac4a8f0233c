"""A trial's tokens by example, from its table of examples."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from agenttts.tables.schema import read_examples


def example_tokens(path: Path) -> dict[int, float]:
    """Return the tokens that the allocation takes for each example.

    They are prompt and generated tokens of all stages, reused ones included.

    Args:
        path: The trial's ``examples.parquet``.

    Returns:
        The tokens by the number of the example among those of the trial, from 0.

    Raises:
        UserError: The table is missing or damaged; the message names the path.
    """
    table = read_examples(path, ("example", "prompt_tokens", "decode_tokens"))
    sums = table.group_by("example", maintain_order=True).agg(
        tokens=pl.col("prompt_tokens").sum() + pl.col("decode_tokens").sum()
    )
    return {number: float(tokens) for number, tokens in enumerate(sums["tokens"])}
