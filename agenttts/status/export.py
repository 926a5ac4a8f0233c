"""``export``: a run's samples as JSON lines, and its trials for other trackers."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agenttts.errors import UserError
from agenttts.files.atomic import write_output
from agenttts.report.trackers.base import FinishedTable
from agenttts.run.directory import RunDirectory
from agenttts.run.drawn_samples import drawn_samples, sample_line
from agenttts.run.journal import read_state
from agenttts.status.opened_run import OpenedRun

# The module and function that write each form. Each module also has a `check`, which comes first.
_TRACKERS = {
    "optuna": ("agenttts.report.trackers.optuna_study", "write_study"),
    "wandb": ("agenttts.report.trackers.wandb_run", "write_wandb"),
    "mlflow": ("agenttts.report.trackers.mlflow_run", "write_mlflow"),
}


def export(run: RunDirectory, places: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Write a run in other forms.

    All forms are checked before the first is written. One that fails later leaves nothing of its
    own behind.

    Args:
        run: The run, finished or not.
        places: Where to write, by form: ``samples``, ``optuna``, ``wandb``, ``mlflow``. A file of
            samples replaces one that exists, and may be a pipe; the others replace nothing.

    Returns:
        {form, path, count, unit} of what was written.

    Raises:
        UserError: No form is asked for, a place is taken, or the samples cannot be written there.
        MissingRequirement: A package is missing.
    """
    if not places:
        raise UserError(
            "export: nothing is asked for; valid: --samples FILE.jsonl, --optuna FILE.db, "
            "--wandb DIR, --mlflow FILE.db, together or alone"
        )
    _check(run, places)
    written = []
    for form, place in places.items():
        if form == "samples":
            count, unit = _write_samples(run, place), "samples"
        else:
            count, unit = _write_trials(run, form, place), "trials"
        written.append({"form": form, "path": str(place), "count": count, "unit": unit})
    return written


def _check(run: RunDirectory, places: Mapping[str, Path]) -> None:
    """Check what can be known before the first form is written."""
    forms: dict[Path, str] = {}
    for form, place in places.items():
        other = forms.setdefault(place.resolve(), form)
        if other != form:
            raise UserError(f"--{other} and --{form} {place}: are one place; name another for one")
        if form != "samples":
            importlib.import_module(_TRACKERS[form][0]).check(place)
            continue
        run.check_not_own("--samples", place)
        if place.is_dir() or not place.absolute().parent.is_dir():
            raise UserError(
                f"--samples {place}: cannot be written, because it is a directory or its directory "
                "does not exist; name a file in one that does"
            )


def _write_trials(run: RunDirectory, form: str, place: Path) -> int:
    module, name = _TRACKERS[form]
    try:
        outcome = read_state(run.journal_file).finished
    except UserError:  # the trials are in their table
        outcome = None
    opened = OpenedRun(run)
    table = FinishedTable(run.name, run.spec(), opened.trials(), outcome, opened.best())
    try:
        count: int = getattr(importlib.import_module(module), name)(table, place)
    except BaseException:  # nothing was there before, and a part would be in the way of a repeat
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)
        raise
    return count


def _write_samples(run: RunDirectory, place: Path) -> int:
    count = 0
    reading = False

    def write(stream: Any) -> None:
        nonlocal count, reading
        reading = True
        records = drawn_samples(run.read())
        while True:
            reading = True
            record = next(records, None)
            reading = False
            if record is None:
                return
            stream.write(sample_line(record).encode("utf-8", "replace"))
            count += 1

    try:
        write_output(place, write)
    except OSError as error:
        if reading:  # the run's fault, and not the place's
            raise
        raise UserError(
            f"--samples {place}: cannot be written: {error.strerror or error}"
        ) from error
    return count
