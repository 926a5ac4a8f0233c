"""A run in MLflow's SQLite store, with one run below it for each trial.

MLflow 3 refuses its older store of many files by default (seen with 3.17).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from agenttts.report.trackers.base import FinishedTable, check_new, labels_of, needed, numbers_of
from agenttts.tables.aggregate import best_trial

OPTION = "--mlflow"
_EXPERIMENT = "agenttts"
_MOST_CHARACTERS = 500
"""MLflow refuses longer values of parameters in some versions."""


def check(path: Path) -> None:
    """Check that MLflow's store can be written to a path.

    Raises:
        MissingRequirement: MLflow is not installed.
        UserError: Something is there, or its directory does not exist.
    """
    check_new(path, OPTION)
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
    parent = client.create_run(
        experiment,
        start_time=_milliseconds(rows[0]["started"] if rows else None),
        run_name=table.run,
    )
    for key, value in (("method", search.method), ("budget", search.budget), ("seed", search.seed)):
        client.log_param(parent.info.run_id, key, value)
    for row in rows:
        _write_trial(client, experiment, parent.info.run_id, row)
    best = best_trial(table.trials)
    if best is not None:
        client.log_metric(parent.info.run_id, "score", best["score"])
    client.set_terminated(parent.info.run_id)
    return len(rows)


def _write_trial(client: Any, experiment: str, parent: str, row: dict[str, Any]) -> None:
    run = client.create_run(
        experiment,
        start_time=_milliseconds(row["started"]),
        tags={"mlflow.parentRunId": parent},
        run_name=row["trial"],
    )
    ident = run.info.run_id
    for name, text in labels_of(row).items():
        client.log_param(ident, name, text[:_MOST_CHARACTERS])
    for name, number in numbers_of(row).items():
        client.log_metric(ident, name, number)
    status = "FINISHED" if row["score"] is not None else "FAILED"
    client.set_terminated(ident, status, _milliseconds(row["finished"]))


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
