"""The result tables of trials and of examples.

`trials.parquet` has one row per trial, `trials/ID/examples.parquet` one row per example and stage.

Tokens, in both tables: ``prompt_tokens`` and ``decode_tokens`` are the tokens that the allocation
takes, drawn now or found in the sample store. ``reused_tokens`` are the tokens of both kinds that
were found in the store. They were drawn by other trials, or by earlier attempts of the same trial;
the GPU time of these attempts counts for the trial. If one engine call reads a prompt for several
trials, the prompt counts as reused for all of them except the first.

Metric names are ``STAGE.METRIC`` in the table of trials. The table of examples has a column for the
stage, so the names there are ``METRIC``.

Standard errors, in the table of trials: ``score_stderr`` is the standard error of the score over
the trial's examples, and ``metrics_stderr`` has the standard error of each metric. A standard error
is null if the trial has fewer than two examples, or if the table is of a version before these
columns.

Cost, in the table of trials: If a job of several trials or lists evaluated the trial, ``worker`` is
this job. If the trial had a job of its own, ``worker`` is null. ``engine_starts`` and ``seconds``
(`TrialSeconds`) are null if there was no job, or if the table is of a version before these columns.

Polars is imported only where a table is made or read, because a job on a node needs only the
states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import TypedDict  # before Python 3.12 pydantic accepts no other

from agenttts.errors import UserError
from agenttts.space import Allocation

if TYPE_CHECKING:
    import polars as pl

_Value = TypeVar("_Value")

# Placeholder metric: Parquet has no struct without fields, and a run whose trials all failed knows
# no metric.
NO_METRIC = "_none"

# The search's last trial: the allocation that the searcher recommends and has not tried.
RECOMMENDED_SOURCE = "recommended"

# Sources of trials after the search. The finalists are the best allocations, scored again on more
# of the search's examples. The final test uses held-out examples. Scores of one of these sources
# can be compared with each other, but not with the scores of the search.
FINALIST_SOURCE = "finalist"
TEST_SOURCE = "test"
AFTER_SEARCH = (FINALIST_SOURCE, TEST_SOURCE)

# Sources of all closing trials.
CLOSING_SOURCES = (RECOMMENDED_SOURCE, *AFTER_SEARCH)


class TrialState(StrEnum):
    """How a trial ended.

    Only a COMPLETED trial has a score. `OWN_FAULTS` are the trial's own fault.
    """

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    INFRA_FAILED = "INFRA_FAILED"
    TIMEOUT = "TIMEOUT"
    OOM = "OOM"
    PREEMPTED = "PREEMPTED"
    CANCELLED = "CANCELLED"


# States of a trial that failed by its allocation's own fault; the searcher learns from these
# states. Other ends without a score (a lost node, a cancelled job) say nothing about the
# allocation.
OWN_FAULTS = frozenset({TrialState.FAILED, TrialState.OOM, TrialState.TIMEOUT})

# States of an attempt whose time is lost, because the cluster ended the attempt.
LOST_STATES = frozenset({TrialState.PREEMPTED, TrialState.INFRA_FAILED})


class StageCuts(TypedDict):
    """How many samples of one stage were drawn, and how many of these were cut.

    ``samples`` includes fusing calls. A sample is cut if it reached the stage's
    ``decode_tokens`` before its end.
    """

    stage: str
    samples: int
    cut: int


class TrialSeconds(TypedDict):
    """Wall seconds of one trial; None where they are not known.

    ``queue`` is the time that the trial waited for jobs to start. All trials of a job have the same
    ``queue``. The other fields are the trial's part of the job's time. ``start`` is the time until
    the program began. ``load`` and ``generate`` are as in `agenttts.trial.result.TrialOutput`.
    ``lost`` is the time in attempts that ended by preemption or a failure of the node or the
    cluster.
    """

    queue: float | None
    start: float | None
    load: float | None
    generate: float | None
    lost: float | None


TRIAL_SECONDS = ("queue", "start", "load", "generate", "lost")


@dataclass(frozen=True)
class TrialRow:
    """One row of trials.parquet."""

    run: str
    """Name of the run."""
    trial: str
    """Id of the trial, such as ``t0003``."""
    iteration: int
    """Number of the iteration that proposed the trial."""
    source: str
    """What proposed the trial: initial, agent, insight, random, first, finalist, test, ..."""
    state: TrialState
    """How the trial ended."""
    score: float | None
    """The main metric: the mean over the examples; None without a result."""
    budget: float
    """What one example costs, in the budget's units."""
    allocation: Allocation
    """The model and the samples of each stage, in order."""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """The mean of every metric over the examples."""
    started: datetime | None = None
    """When the first attempt began; with a time zone, stored in UTC."""
    finished: datetime | None = None
    """When the last attempt ended."""
    gpu_seconds: float = 0.0
    """GPU-seconds of the attempts: the trial's part of the GPU-seconds of its jobs."""
    prompt_tokens: int = 0
    """Prompt tokens that the allocation takes, drawn now or found in the sample store."""
    decode_tokens: int = 0
    """Generated tokens that the allocation takes, drawn now or found in the sample store."""
    reused_tokens: int = 0
    """The part of ``prompt_tokens`` and ``decode_tokens`` that was found in the sample store."""
    job_id: str | None = None
    """The job of the last attempt."""
    attempts: int = 1
    """How often the trial was started."""
    error: str | None = None
    """Why the trial has no score."""
    score_stderr: float | None = None
    """Standard error of the score over the examples; None: not known."""
    cut_samples: Sequence[StageCuts] = ()
    """For each stage, the samples drawn and how many of them were cut; empty: not known."""
    metrics_stderr: Mapping[str, float | None] = field(default_factory=dict)
    """Standard error of each metric over the examples; metrics without a known one are left out."""
    worker: str | None = None
    """The job of several trials or lists that evaluated the trial.

    None: the trial had a job of its own.
    """
    engine_starts: int | None = None
    """Engines that were started for the trial; None: not known, or there was no job."""
    seconds: TrialSeconds | None = None
    """Wall seconds by phase; None: not known, or there was no job."""
    examples: int | None = None
    """The number of examples that the trial was scored on; None: no result, or not known."""

    @property
    def cut_share(self) -> float | None:
        """The share of the trial's samples that were cut; None: not known."""
        drawn = sum(part["samples"] for part in self.cut_samples)
        return sum(part["cut"] for part in self.cut_samples) / drawn if drawn else None

    def __post_init__(self) -> None:
        for name in ("started", "finished"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise ValueError(f"{name} of trial {self.trial} has no time zone: {moment}")


@dataclass(frozen=True)
class ExampleRow:
    """One row of examples.parquet: the result of one stage for one example."""

    trial: str
    """Id of the trial."""
    example: str
    """Id of the example."""
    stage: str
    """The stage."""
    model: str
    """The model of the stage."""
    samples: int
    """The number of samples of the stage."""
    output: str
    """The JSON text of the fused output."""
    candidates: Sequence[str] = ()
    """The samples in the order of their index, as the stage's parser saw them.

    The model's thinking is removed here. The sample store has the whole samples.
    """
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """Every metric of the stage."""
    prompt_tokens: int = 0
    """Prompt tokens, drawn now or found in the sample store."""
    decode_tokens: int = 0
    """Generated tokens, drawn now or found in the sample store."""
    reused_tokens: int = 0
    """The part of ``prompt_tokens`` and ``decode_tokens`` that was found in the sample store."""
    truncated: bool = False
    """Whether a prompt was too long for the model's context and lost tokens from its middle."""
    cut: int | None = None
    """Samples (fusing calls included) that reached the stage's ``decode_tokens``.

    None in tables of earlier versions.
    """


def trial_order(trial: str) -> tuple[int, str]:
    """Return the sort key of a trial's id.

    Ids have leading zeros, and t10000 follows t9999. So a longer id is always later.
    """
    return len(trial), trial


def trials_schema(metric_names: Iterable[str]) -> pl.Schema:
    """Return columns and types of trials.parquet for a task with these metrics."""
    import polars as pl

    metrics = _metrics_type(metric_names)
    moment = pl.Datetime("us", "UTC")
    choice = pl.Struct({"stage": pl.String, "model": pl.String, "samples": pl.Int64})
    cuts = pl.Struct({"stage": pl.String, "samples": pl.Int64, "cut": pl.Int64})
    seconds = pl.Struct(dict.fromkeys(TRIAL_SECONDS, pl.Float64()))
    return pl.Schema(
        {
            "run": pl.String(),
            "trial": pl.String(),
            "iteration": pl.Int64(),
            "source": pl.String(),
            "state": pl.String(),
            "score": pl.Float64(),
            "score_stderr": pl.Float64(),
            "budget": pl.Float64(),
            "metrics": metrics,
            "metrics_stderr": metrics,
            "allocation": pl.List(choice),
            "started": moment,
            "finished": moment,
            "gpu_seconds": pl.Float64(),
            "prompt_tokens": pl.Int64(),
            "decode_tokens": pl.Int64(),
            "reused_tokens": pl.Int64(),
            "job_id": pl.String(),
            "attempts": pl.Int64(),
            "error": pl.String(),
            "cut_share": pl.Float64(),
            "cut_samples": pl.List(cuts),
            "worker": pl.String(),
            "engine_starts": pl.Int64(),
            "seconds": seconds,
            "examples": pl.Int64(),
        }
    )


def examples_schema(metric_names: Iterable[str]) -> pl.Schema:
    """Return columns and types of examples.parquet for a task with these metrics."""
    import polars as pl

    return pl.Schema(
        {
            "trial": pl.String(),
            "example": pl.String(),
            "stage": pl.String(),
            "model": pl.String(),
            "samples": pl.Int64(),
            "output": pl.String(),
            "candidates": pl.List(pl.String),
            "metrics": _metrics_type(metric_names),
            "prompt_tokens": pl.Int64(),
            "decode_tokens": pl.Int64(),
            "reused_tokens": pl.Int64(),
            "truncated": pl.Boolean(),
            "cut": pl.Int64(),
        }
    )


# Columns with a field for each metric.
_METRICS = ("metrics", "metrics_stderr")

# Columns that were added after the first version of the tables. If a table lacks one of them, its
# values are null.
_ADDED = (
    "cut_share",
    "cut_samples",
    "cut",
    "score_stderr",
    "metrics_stderr",
    "worker",
    "engine_starts",
    "seconds",
    "examples",
)


def trials_frame(rows: Iterable[TrialRow], metric_names: Iterable[str]) -> pl.DataFrame:
    """Return the table of trials, with the right types even without rows.

    Raises:
        ValueError: A row has a metric that is not in ``metric_names``.
    """
    import polars as pl

    names = list(metric_names)
    records = [
        _record(row, names)
        | {
            "state": row.state.value,
            "allocation": row.allocation.to_records(),
            "started": _utc(row.started),
            "finished": _utc(row.finished),
            "cut_share": row.cut_share,
            "cut_samples": [dict(part) for part in row.cut_samples],
            "seconds": None if row.seconds is None else dict(row.seconds),
            "metrics_stderr": _by_name(row.trial, row.metrics_stderr, names),
        }
        for row in rows
    ]
    return pl.DataFrame(records, schema=trials_schema(names), orient="row")


def examples_frame(rows: Iterable[ExampleRow], metric_names: Iterable[str]) -> pl.DataFrame:
    """Return the table of examples, with the right types even without rows.

    Raises:
        ValueError: A row has a metric that is not in ``metric_names``.
    """
    import polars as pl

    names = list(metric_names)
    records = [_record(row, names) | {"candidates": list(row.candidates)} for row in rows]
    return pl.DataFrame(records, schema=examples_schema(names), orient="row")


def trial_rows(frame: pl.DataFrame) -> list[TrialRow]:
    """Return the rows of a `trials_frame`, each without the metrics that are null."""
    return [
        TrialRow(
            **{name: value for name, value in record.items() if name != "cut_share"}
            | {
                "state": TrialState(record["state"]),
                "allocation": Allocation.from_records(record["allocation"]),
                "metrics": _known(record["metrics"]),
                "metrics_stderr": _known(record["metrics_stderr"] or {}),
                "cut_samples": tuple(record["cut_samples"] or ()),
            }
        )
        for record in frame.iter_rows(named=True)
    ]


def metric_names(frame: pl.DataFrame) -> list[str]:
    """Return the metrics of a table of trials or of examples, in order."""
    import polars as pl

    dtype = frame.schema["metrics"]
    assert isinstance(dtype, pl.Struct)
    return [part.name for part in dtype.fields if part.name != NO_METRIC]


def stage_metrics(
    metrics: Mapping[str, _Value], stage: str, stages: Iterable[str]
) -> dict[str, _Value]:
    """Return the metrics of one stage, each by its name without the stage.

    The name of one stage may begin with the name of another stage ("plan.check" and "plan"). A
    metric belongs to the stage with the longest name that its own name starts with.

    Args:
        metrics: The metrics of all stages, by ``STAGE.METRIC``.
        stage: The stage.
        stages: All stages.
    """
    longer = tuple(f"{name}." for name in stages if name.startswith(f"{stage}."))
    return {
        name.removeprefix(f"{stage}."): value
        for name, value in metrics.items()
        if name.startswith(f"{stage}.") and not name.startswith(longer)
    }


def read_trials(path: Path) -> pl.DataFrame:
    """Return a trials.parquet, checked.

    Raises:
        UserError: The file is missing, damaged or another table; the message names the path.
    """
    return _read(path, trials_schema([]), "table of trials")


def read_examples(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Return an examples.parquet, checked.

    Args:
        path: The file.
        columns: The columns to read; None for all. The texts of samples make up most of it.

    Raises:
        UserError: The file is missing, damaged or another table; the message names the path.
    """
    import polars as pl

    schema = examples_schema([])
    if columns is not None:
        schema = pl.Schema({name: schema[name] for name in columns})
    return _read(path, schema, "table of examples")


def _read(path: Path, schema: pl.Schema, what: str) -> pl.DataFrame:
    import polars as pl

    if not path.is_file():  # Polars would read a directory as one table of all its files
        raise UserError(f"{path}: the file does not exist; expected a {what}")
    try:
        known = [name for name in pl.read_parquet_schema(path) if name in schema]
        # Columns that this version does not know are left out, so that an older reader opens a
        # newer table.
        frame = pl.read_parquet(path, columns=known, glob=False, hive_partitioning=False)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({_first_line(error)})") from error
    metrics = frame.schema.get("metrics", _metrics_type([]))
    frame = frame.with_columns(
        pl.lit(None, metrics if name in _METRICS else schema[name]).alias(name)
        for name in _ADDED
        if name in schema and name not in frame.columns
    )
    missing = [name for name in schema if name not in frame.columns]
    if missing:
        raise UserError(f"{path}: not a {what}: these columns are missing: {', '.join(missing)}")
    frame = frame.select(schema.names())
    for name, dtype in schema.items():
        found = frame.schema[name]
        fits = _is_metrics(found) if name in _METRICS else found == dtype
        if not fits:
            raise UserError(f"{path}: not a {what}: column '{name}' is {found}, not {dtype}")
    if "state" in schema:
        unknown = set(frame["state"].unique()) - set(TrialState)
        if unknown:
            valid = ", ".join(TrialState)
            raise UserError(f"{path}: unknown state {unknown.pop()!r}; valid: {valid}")
    return frame


def _metrics_type(names: Iterable[str]) -> pl.Struct:
    import polars as pl

    return pl.Struct(dict.fromkeys(names, pl.Float64()) or {NO_METRIC: pl.Float64()})


def _is_metrics(dtype: pl.DataType) -> bool:
    import polars as pl

    return isinstance(dtype, pl.Struct) and all(part.dtype == pl.Float64 for part in dtype.fields)


def _record(row: TrialRow | ExampleRow, names: Sequence[str]) -> dict[str, Any]:
    record = {p.name: getattr(row, p.name) for p in fields(row)}
    record["metrics"] = _by_name(row.trial, row.metrics, names)
    return record


def _by_name(
    trial: str, values: Mapping[str, float | None], names: Sequence[str]
) -> dict[str, float | None]:
    """Return a value for each of the table's metrics, None if the row has none."""
    stray = [name for name in values if name not in names]
    if stray:
        raise ValueError(f"trial {trial} has metrics {stray} that are not among {list(names)}")
    return {name: values.get(name) for name in names or [NO_METRIC]}


def _known(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
