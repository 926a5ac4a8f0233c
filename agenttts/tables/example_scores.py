"""A trial's scores by example, from its table of examples."""

from __future__ import annotations

import math
from pathlib import Path

from agenttts.tables.schema import metric_names, read_examples


def example_scores(path: Path, main_metric: str) -> dict[int, float] | None:
    """Return a trial's scores by example; None if the table does not have them.

    Args:
        path: The trial's ``examples.parquet``.
        main_metric: The metric that is the score, ``STAGE.METRIC``.

    Returns:
        The scores by number of the frozen example, from 0. Examples without a score are left out.

    Raises:
        UserError: The table is missing, damaged or another one.
    """
    table = read_examples(path)
    stage, _, metric = main_metric.partition(".")
    if metric not in metric_names(table):
        return None
    # A stage has one row for each example, in the order of the frozen examples.
    values = table.filter(table["stage"] == stage)["metrics"].struct.field(metric)
    scores = {
        number: value
        for number, value in enumerate(values.to_list())
        if value is not None and math.isfinite(value)
    }
    return scores or None
