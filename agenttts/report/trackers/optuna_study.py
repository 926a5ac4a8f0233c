"""A run as an Optuna study, which optuna-dashboard opens."""

from __future__ import annotations

from datetime import UTC, datetime
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
from agenttts.space import Stage

OPTION = "--optuna"
_JOURNAL = "optuna.storages.journal"
_SQLITE = (".db", ".sqlite", ".sqlite3")


def check(path: Path) -> None:
    """Check that a study can be written to a path.

    Raises:
        MissingRequirement: Optuna is not installed.
        UserError: Something is there, its directory does not exist, or its name cannot be used.
    """
    check_new(path, OPTION)
    if path.suffix.lower() in _SQLITE:
        check_sqlite(path, OPTION)
    needed("optuna", "optuna")
    needed("sqlalchemy" if path.suffix.lower() in _SQLITE else _JOURNAL, "optuna")


def write_study(table: FinishedTable, path: Path) -> int:
    """Write a study of the run's name, and return its number of trials.

    Call `check` first. Models and sample counts of stages are its parameters. Trials without a
    score are failed ones. Optuna's best trial is the best complete one, so trials that are scored
    on fewer examples than others are pruned ones; the step of their value is the number of
    examples.

    Args:
        table: The run.
        path: The file: SQLite if its name ends in ``.db`` or ``.sqlite``, else Optuna's journal.
    """
    optuna = needed("optuna", "optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    stages = {stage.name: stage for stage in table.spec.space().stages}
    study = optuna.create_study(
        study_name=table.run, storage=_storage(optuna, path), direction="maximize"
    )
    study.set_user_attr("budget", table.spec.search.budget)
    study.set_user_attr("method", table.spec.search.method)
    best_may_be = table.best_may_be()
    trials = [
        _trial(optuna, row, stages, pruned=row["trial"] not in best_may_be)
        for row in table.searched()
    ]
    study.add_trials(trials)
    return len(trials)


def _storage(optuna: Any, path: Path) -> Any:
    if path.suffix.lower() in _SQLITE:
        return optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}")
    backend = needed(_JOURNAL, "optuna").JournalFileBackend(str(path))
    return optuna.storages.JournalStorage(backend)


def _trial(optuna: Any, row: dict[str, Any], stages: dict[str, Stage], *, pruned: bool) -> Any:
    """Return a trial of the study.

    ``pruned`` is whether a trial with a score is on fewer examples than others.
    """
    params: dict[str, Any] = {}
    distributions: dict[str, Any] = {}
    for choice in row["allocation"]:
        stage = stages[choice["stage"]]
        model, samples = f"{stage.name}.model", f"{stage.name}.samples"
        params |= {model: choice["model"], samples: choice["samples"]}
        models = [known.name for known in stage.models]
        distributions[model] = optuna.distributions.CategoricalDistribution(models)
        distributions[samples] = _counts(optuna, stage.samples)
    state = optuna.trial.TrialState
    scored, examples = row["score"] is not None, row["examples"]
    trial = optuna.trial.create_trial(
        state=state.FAIL if not scored else state.PRUNED if pruned else state.COMPLETE,
        value=row["score"],
        intermediate_values={examples: row["score"]} if scored and examples is not None else {},
        params=params,
        distributions=distributions,
        user_attrs={**labels_of(row), **numbers_of(row)},
    )
    trial.datetime_start = _moment(row["started"]) or trial.datetime_start
    trial.datetime_complete = _moment(row["finished"]) or trial.datetime_complete
    return trial


def _counts(optuna: Any, samples: tuple[int, ...]) -> Any:
    low, high = samples[0], samples[-1]
    if len(samples) == high - low + 1:
        return optuna.distributions.IntDistribution(low, high)
    return optuna.distributions.CategoricalDistribution(list(samples))


def _moment(moment: datetime | None) -> datetime | None:
    """Return a moment as Optuna keeps it: in local time, without a zone."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return aware.astimezone().replace(tzinfo=None)
