"""``export``: a run's samples as JSON lines, and its trials for other trackers."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agenttts.errors import UserError
from agenttts.files.atomic import atomic_write
from agenttts.report.trackers.base import FinishedTable
from agenttts.run.directory import RunDirectory
from agenttts.run.drawn_samples import drawn_samples, sample_line
from agenttts.status.opened_run import OpenedRun

# The function that writes each form, and what it is called for users.
_TRACKERS = {
    "optuna": ("agenttts.report.trackers.optuna_study:write_study", "trials"),
    "wandb": ("agenttts.report.trackers.wandb_run:write_wandb", "trials"),
    "mlflow": ("agenttts.report.trackers.mlflow_run:write_mlflow", "trials"),
}


def export(run: RunDirectory, places: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Write a run in other forms.

    Args:
        run: The run, finished or not.
        places: Where to write, by form: ``samples``, ``optuna``, ``wandb``, ``mlflow``.

    Returns:
        {form, path, count, unit} of what was written.

    Raises:
        UserError: No form is asked for, or something is at a place already.
        MissingRequirement: A package is missing.
    """
    if not places:
        raise UserError(
            "export: nothing is asked for; valid: --samples FILE.jsonl, --optuna FILE.db, "
            "--wandb DIR, --mlflow FILE.db, together or alone"
        )
    written = []
    for form, place in places.items():
        if form == "samples":
            count, unit = _write_samples(run, place), "samples"
        else:
            home, unit = _TRACKERS[form]
            module, _, name = home.partition(":")
            count = getattr(importlib.import_module(module), name)(_table(run), place)
        written.append({"form": form, "path": str(place), "count": count, "unit": unit})
    return written


def _table(run: RunDirectory) -> FinishedTable:
    return FinishedTable(run.name, run.spec(), OpenedRun(run).trials())


def _write_samples(run: RunDirectory, place: Path) -> int:
    count = 0

    def write(stream: Any) -> None:
        nonlocal count
        for record in drawn_samples(run.read()):
            stream.write(sample_line(record).encode("utf-8", "replace"))
            count += 1

    try:
        atomic_write(place, write)
    except OSError as error:
        raise UserError(
            f"--samples {place}: cannot be written: {error.strerror or error}"
        ) from error
    return count
