"""The result tables of trials and of examples.

`trials.parquet` has one row per trial, `trials/ID/examples.parquet` one row per example and stage.

Tokens, in both: ``prompt_tokens`` and ``decode_tokens`` are the tokens that the allocation takes,
whether drawn now or found in the sample store. ``reused_tokens`` is the part of their sum that was
found there: of other trials, or of earlier attempts of this one, whose GPU time counts for the
trial. A prompt that one engine call reads for several trials counts as reused for all but the
first. Metric names are ``STAGE.METRIC`` in the table of trials. In the table of examples, which has
a column for the stage, they are ``METRIC``.

Standard errors, in the table of trials: ``score_stderr`` is that of the score and
``metrics_stderr`` that of every metric, over the trial's examples. They are null if they are not
known: with fewer than two examples, and in tables of versions before these columns.

Cost, in the table of trials: ``worker`` is the job of several trials or lists that evaluated the
trial; null if the trial had a job of its own. ``engine_starts`` and ``seconds`` (`TrialSeconds`)
are null in tables of versions before these columns, and where there was no job.

Polars is imported where a table is made or read: a job on a node needs only the states.
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

# Trials after the search, which are not part of it: the best ones again on more of the search's
# examples, and the final test on held-out ones. Their scores can be compared with each other, not
# with those of the search.
FINALIST_SOURCE = "finalist"
TEST_SOURCE = "test"
AFTER_SEARCH = (FINALIST_SOURCE, TEST_SOURCE)

# All trials with which a search ends.
CLOSING_SOURCES = (RECOMMENDED_SOURCE, *AFTER_SEARCH)


class TrialState(StrEnum):
    """How a trial ended.

    Only a COMPLETED trial has a score. FAILED is the trial's own fault.
    """

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    INFRA_FAILED = "INFRA_FAILED"
    TIMEOUT = "TIMEOUT"
    OOM = "OOM"
    PREEMPTED = "PREEMPTED"
    CANCELLED = "CANCELLED"


# States of a trial that failed by its allocation's own fault; the searcher learns from them. Other
# ends without a score (a lost node, a cancelled job) say nothing about the allocation.
OWN_FAULTS = frozenset({TrialState.FAILED, TrialState.OOM, TrialState.TIMEOUT})

# States of an attempt whose time is lost: the cluster ended it, not the trial.
LOST_STATES = frozenset({TrialState.PREEMPTED, TrialState.INFRA_FAILED})


class StageCuts(TypedDict):
    """The samples of one stage that were drawn, and how many of them were cut.

    ``samples`` includes fusing calls. A sample is cut if the model had not ended it after the
    stage's ``decode_tokens``.
    """

    stage: str
    samples: int
    cut: int


class TrialSeconds(TypedDict):
    """Wall seconds of one trial; None where they are not known.

    ``queue`` is the time that the trial waited for jobs to start, the same for all trials of a job.
    The others are its part of its job's time: ``start`` until the program began, ``load`` and
    ``generate`` as in `agenttts.trial.result.TrialOutput`, and ``lost`` in attempts that ended by
    preemption or a failure of the node or the cluster.
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
    """Number of the iteration that proposed it."""
    source: str
    """What proposed it: initial, agent, insight, random, first, finalist, test, ..."""
    state: TrialState
    """How it ended."""
    score: float | None
    """The main metric: the mean over the examples; None without a result."""
    budget: float
    """What one example costs, in the budget's units."""
    allocation: Allocation
    """The model and the samples of each stage, in order."""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """The mean of every metric over the examples."""
    started: datetime | None = None
    """When its first attempt began; with a time zone, stored in UTC."""
    finished: datetime | None = None
    """When its last attempt ended."""
    gpu_seconds: float = 0.0
    """Seconds of GPUs that its attempts took; its part of its job's."""
    prompt_tokens: int = 0
    """Prompt tokens that the allocation takes, drawn now or found in the sample store."""
    decode_tokens: int = 0
    """Generated tokens that the allocation takes, drawn now or found in the sample store."""
    reused_tokens: int = 0
    """The part of both that was found in the sample store."""
    job_id: str | None = None
    """The job of its last attempt."""
    attempts: int = 1
    """How often it was started."""
    error: str | None = None
    """Why it has no score."""
    score_stderr: float | None = None
    """Standard error of the score over the examples; None: not known."""
    cut_samples: Sequence[StageCuts] = ()
    """For each stage, the samples drawn and how many of them were cut; empty: not known."""
    metrics_stderr: Mapping[str, float | None] = field(default_factory=dict)
    """Standard error of every metric over the examples; left out: not known."""
    worker: str | None = None
    """The job of several trials or lists that evaluated it; None: it had a job of its own."""
    engine_starts: int | None = None
    """Engines that were started for it; None: not known, or there was no job."""
    seconds: TrialSeconds | None = None
    """Wall seconds by phase; None: not known, or there was no job."""
    examples: int | None = None
    """The number of examples that it was scored on; None: no result, or not known."""

    @property
    def cut_share(self) -> float | None:
        """The share of its samples that were cut, over all stages; None: not known."""
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
    """Its model."""
    samples: int
    """Its number of samples."""
    output: str
    """The JSON text of the fused output."""
    candidates: Sequence[str] = ()
    """The samples in the order of their index, as the stage's parser saw them.

    They are without the model's thinking. The sample store has them whole.
    """
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """Every metric of the stage."""
    prompt_tokens: int = 0
    """Prompt tokens, drawn now or found in the sample store."""
    decode_tokens: int = 0
    """Generated tokens, drawn now or found in the sample store."""
    reused_tokens: int = 0
    """The part of both that was found in the sample store."""
    truncated: bool = False
    """Whether a prompt was too long for the model's context and lost tokens from its middle."""
    cut: int | None = None
    """Samples (fusing calls included) that reached the stage's ``decode_tokens``.

    None in tables of earlier versions.
    """


def trial_order(trial: str) -> tuple[int, str]:
    """Return the sort key of a trial's id.

    Ids are numbered with leading zeros, and t10000 follows t9999: a longer id is a later one.
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

# Columns added since the first version of the tables; null if a table lacks them.
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
    """Inverse of `trials_frame`; metrics that are null in a row are left out of it."""
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
    """Return the metrics of one stage by ``METRIC``, of those by ``STAGE.METRIC``.

    The name of a stage may be the beginning of another's ("plan" and "plan.check"): a metric is
    that of the longest name that it begins with.

    Args:
        metrics: The metrics of all stages.
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
        UserError: It is missing, damaged or another table; the message names the path.
    """
    return _read(path, trials_schema([]), "table of trials")


def read_examples(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Return an examples.parquet, checked.

    Args:
        path: The file.
        columns: The columns to read; None for all. The samples' texts are most of the file.

    Raises:
        UserError: It is missing, damaged or another table; the message names the path.
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
