"""A run in MLflow's SQLite store, with one run below it for each trial.

MLflow 3 refuses its older store of many files by default (seen with 3.17).
"""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from agenttts.report.trackers.base import (
    FinishedTable,
    check_new,
    check_sqlite,
    labels_of,
    needed,
    numbers_of,
)

OPTION = "--mlflow"
_EXPERIMENT = "agenttts"
_RESULT = ("score", "score_stderr", "examples")
"""What the run itself has of its best trial."""
_MOST_CHARACTERS = 500
"""MLflow refuses longer values of parameters in some versions."""
_LONGEST_NAME = 250
_INVALID = re.compile(r"[^/\w.\- ]")
"""What a name of MLflow's may not hold (`mlflow/utils/validation.py`)."""
_STATUS = {"done": "FINISHED", "cancelled": "KILLED", None: "RUNNING"}
"""MLflow's word for how a run has ended; any other end is FAILED."""


def check(path: Path) -> None:
    """Check that MLflow's store can be written to a path.

    Raises:
        MissingRequirement: MLflow is not installed.
        UserError: Something is there, its directory does not exist, or its name cannot be used.
    """
    check_new(path, OPTION)
    check_sqlite(path, OPTION)
    for module in ("mlflow", "sqlalchemy", "alembic"):
        needed(module, "mlflow")


def write_mlflow(table: FinishedTable, path: Path) -> int:
    """Write the runs, and return the number of trials.

    Call `check` first.

    Args:
        table: The run.
        path: A new file; ``mlflow ui --backend-store-uri sqlite:///FILE`` shows it.
    """
    mlflow = needed("mlflow", "mlflow")
    place = path.absolute()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{place}")
    # No artifacts are written; without a place of their own MLflow makes a folder here.
    experiment = client.create_experiment(_EXPERIMENT, place.with_suffix(".artifacts").as_uri())
    rows = list(table.searched())
    search = table.spec.search
    begun = [row["started"] for row in rows if row["started"] is not None]
    ended = [row["finished"] for row in rows if row["finished"] is not None]
    span = _milliseconds(min(begun, default=None)), _milliseconds(max(ended, default=None))
    parent = client.create_run(experiment, start_time=span[0], run_name=table.run)
    params = {"method": search.method, "budget": search.budget, "seed": search.seed}
    best = table.best or {}
    result = {name: best[name] for name in _RESULT if best.get(name) is not None}
    _log(mlflow, client, parent, params, result, span[1])
    numbers = mlflow_names(name for row in rows for name in numbers_of(row))
    labels = mlflow_names(name for row in rows for name in labels_of(row))
    for row in rows:
        start = _milliseconds(row["started"]) or span[0]
        end = _milliseconds(row["finished"]) or start
        run = client.create_run(
            experiment,
            start_time=start,
            tags={"mlflow.parentRunId": parent.info.run_id},
            run_name=row["trial"],
        )
        texts = {labels[name]: text for name, text in labels_of(row).items()}
        values = {numbers[name]: value for name, value in numbers_of(row).items()}
        _log(mlflow, client, run, texts, values, end)
        status = "FINISHED" if row["score"] is not None else "FAILED"
        client.set_terminated(run.info.run_id, status, end)
    status = _STATUS.get(table.outcome, "FAILED")
    if status != "RUNNING":
        client.set_terminated(parent.info.run_id, status, span[1])
    return len(rows)


def _log(
    mlflow: Any,
    client: Any,
    run: Any,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    moment: int | None,
) -> None:
    """Write all of a run in one transaction: each waits for the disk."""
    kinds = mlflow.entities
    when = int(time.time() * 1000) if moment is None else moment
    client.log_batch(
        run.info.run_id,
        params=[kinds.Param(name, str(value)[:_MOST_CHARACTERS]) for name, value in params.items()],
        metrics=[kinds.Metric(name, value, when, 0) for name, value in metrics.items()],
    )


def mlflow_names(names: Iterable[str]) -> dict[str, str]:
    """Return MLflow's name of each name: the same, if it is valid there.

    Other characters become ``_``, and names that would then be equal get a number.
    """
    known = dict.fromkeys(names)
    found: dict[str, str] = {}
    for name in sorted(known, key=lambda name: _INVALID.search(name) is not None):
        valid = _INVALID.sub("_", name)[:_LONGEST_NAME]
        if posixpath.normpath(valid) != valid:  # a//b, a/
            valid = valid.replace("/", "_")
        other, number = valid, 2
        while other in found.values():
            other, number = f"{valid[: _LONGEST_NAME - 4]}_{number}", number + 1
        found[name] = other
    return found


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
