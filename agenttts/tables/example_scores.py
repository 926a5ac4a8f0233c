"""A trial's scores by example, from its table of examples."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from agenttts.errors import UserError
from agenttts.files.trouble import passing_trouble
from agenttts.tables.schema import metric_names, read_examples

log = logging.getLogger(__name__)


def example_ids(path: Path) -> tuple[str, ...]:
    """Return the ids of a trial's examples; none if the table cannot be read."""
    try:
        return tuple(read_examples(path, ("example",))["example"].unique(maintain_order=True))
    except UserError:  # `example_scores` says so
        return ()


def example_scores(path: Path, main_metric: str) -> dict[int, float] | None:
    """Return a trial's scores by example; None if they are not known.

    A table that is missing or damaged is warned of.

    Args:
        path: The trial's ``examples.parquet``.
        main_metric: The metric that is the score, ``STAGE.METRIC``.

    Returns:
        The scores by the number of the example among those of the trial, from 0. Examples without
        a score are left out.

    Raises:
        OSError: The file system is in trouble that may pass.
        UserError: As above.
    """
    try:
        table = read_examples(path, ("stage", "metrics"))
    except (OSError, UserError) as error:
        if passing_trouble(error):
            raise
        log.warning(
            "the scores by example of a trial are not known, so trials are no longer compared by "
            "example: %s; restore the file from a copy",
            error,
        )
        return None
    # The name of a stage may have a dot.
    stages, metrics = table["stage"].unique().to_list(), metric_names(table)
    places = ((s, m) for s in stages for m in metrics if f"{s}.{m}" == main_metric)
    stage, metric = next(places, (None, None))
    if stage is None or metric is None:
        return None
    # A stage has one row for each example, in the order of the trial's examples.
    values = table.filter(table["stage"] == stage)["metrics"].struct.field(metric)
    scores = {
        number: value
        for number, value in enumerate(values.to_list())
        if value is not None and math.isfinite(value)
    }
    return scores or None
