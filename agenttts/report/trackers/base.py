"""What the trackers share: a run's table and settings, and optional packages."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl

from agenttts.errors import MissingRequirement, UserError
from agenttts.spec import JobSpec
from agenttts.tables.aggregate import BY_TRIAL, best_so_far, on_most_examples, scored
from agenttts.tables.schema import AFTER_SEARCH


@dataclass(frozen=True)
class FinishedTable:
    """A run's table of trials, with the spec that it was launched with.

    Attributes:
        run: The run's name.
        spec: The spec.
        trials: The table.
        outcome: How the run ended, as in its journal; None if it goes on.
        best: The row of the best trial, as in reports: a finalist if there are any. None if no
            trial has a score.
    """

    run: str
    spec: JobSpec
    trials: pl.DataFrame
    outcome: str | None = None
    best: Mapping[str, Any] | None = None

    def searched(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the search, in the order of the trials.

        Finalists and the final test are left out, because they are scored on other examples.
        """
        for row in self.trials.sort(*BY_TRIAL).iter_rows(named=True):
            if row["source"] not in AFTER_SEARCH:
                yield row

    def best_may_be(self) -> set[str]:
        """Return the trials with scores on the most examples; one of them is the best."""
        return set(on_most_examples(scored(self.trials))["trial"])

    def best_so_far(self) -> dict[str, float]:
        """Return the best score when a trial was proposed and scored, by trial.

        A score on more examples takes the place of all on fewer.
        """
        trace = best_so_far(self.trials, proposed=True)
        return dict(trace.select("trial", "best_so_far").iter_rows())

    def settings(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        settings: dict[str, Any] = self.spec.model_dump(mode="json")
        return settings


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a trial.

    They are score, examples, budget, cost, samples by stage and metrics. What is not known is left
    out.
    """
    found = {name: row[name] for name in _COLUMNS}
    found |= {f"samples.{c['stage']}": c["samples"] for c in row["allocation"]}
    found |= {f"metrics.{name}": value for name, value in row["metrics"].items()}
    return {name: float(value) for name, value in found.items() if value is not None}


_COLUMNS = (
    "score",
    "score_stderr",
    "examples",
    "budget",
    "gpu_seconds",
    "prompt_tokens",
    "decode_tokens",
    "reused_tokens",
    "attempts",
)


def labels_of(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of a trial: its id, state, source and models by stage."""
    models = {f"model.{choice['stage']}": choice["model"] for choice in row["allocation"]}
    error = {"error": row["error"]} if row["error"] else {}
    return {
        "trial": row["trial"],
        "state": row["state"],
        "source": row["source"],
        **models,
        **error,
    }


def needed(module: str, extra: str) -> ModuleType:
    """Import an optional package.

    Raises:
        MissingRequirement: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingRequirement(
            f"this export needs the package '{error.name or module}'",
            fix=f"pip install 'agenttts-hpc[{extra}]'",
        ) from error


def check_new(path: Path, option: str) -> None:
    """Check that nothing is at the path of an export, and that its folder exists.

    Raises:
        UserError: There is something, or no folder.
    """
    if path.exists():
        raise UserError(f"{option} {path}: exists already; name another one, or remove it")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{option} {path}: its directory does not exist; make it, or name another")


def check_sqlite(path: Path, option: str) -> None:
    """Check that the address of a SQLite store can hold a path.

    Raises:
        UserError: It has a character with another meaning there.
    """
    odd = next((character for character in "%?" if character in str(path.absolute())), None)
    if odd is not None:
        raise UserError(
            f"{option} {path}: '{odd}' in {path.absolute()} has another meaning in the address of "
            "a SQLite store; name a file elsewhere"
        )
