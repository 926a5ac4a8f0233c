"""A run as an offline run of Weights & Biases, to be sent with ``wandb sync``."""

from __future__ import annotations

import json
from pathlib import Path

from agenttts.report.trackers.base import FinishedTable, check_new, labels_of, needed, numbers_of

OPTION = "--wandb"
_PROJECT = "agenttts"


def check(path: Path) -> None:
    """Check that an offline run can be written to a path.

    Raises:
        MissingRequirement: wandb is not installed.
        UserError: Something is there, or its directory does not exist.
    """
    check_new(path, OPTION)
    needed("wandb", "wandb")


def write_wandb(table: FinishedTable, directory: Path) -> int:
    """Write an offline run, and return its number of trials.

    Call `check` first. A trial is a step of it, with the best score so far. The trials are also a
    table.

    Args:
        table: The run.
        directory: A new directory; ``wandb sync DIRECTORY/wandb/offline-run-*`` sends it.
    """
    wandb = needed("wandb", "wandb")
    directory.mkdir()
    run = wandb.init(
        project=_PROJECT,
        name=table.run,
        dir=str(directory.absolute()),
        mode="offline",
        config=table.settings(),
        settings=wandb.Settings(silent=True),
    )
    rows = list(table.searched())
    trace = table.best_so_far()
    best: float | None = None
    lines = []
    for step, row in enumerate(rows):
        numbers, labels = numbers_of(row), labels_of(row)
        best = trace.get(row["trial"], best)
        so_far = {} if best is None else {"best_so_far": best}
        run.log({**numbers, **so_far}, step=step)
        lines.append([labels["trial"], labels["state"], json.dumps({**labels, **numbers})])
    run.log({"trials": wandb.Table(columns=["trial", "state", "all"], data=lines)})
    run.summary["trials"] = len(rows)
    run.finish()
    return len(rows)
