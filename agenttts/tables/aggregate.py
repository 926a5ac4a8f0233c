"""Aggregate a table of trials: best trial, best-so-far, Pareto fronts, totals.

The functions are pure: frames in, frames out. Only a COMPLETED trial with a finite score takes part
in comparisons; a score of 0 is a score. Trials after the search
(`agenttts.tables.schema.AFTER_SEARCH`) are on other examples and take part in none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import polars as pl

from agenttts.tables.schema import (
    AFTER_SEARCH,
    FINALIST_SOURCE,
    NO_METRIC,
    TEST_SOURCE,
    TrialState,
    metric_names,
    read_trials,
    trials_schema,
)
from agenttts.tables.uncertainty import interval_of_equal

Cost = Literal["budget", "tokens", "gpu_seconds"]
COSTS: tuple[Cost, ...] = get_args(Cost)

_MOST_DRAWS = 4_000_000
"""The most values that a bootstrap draws at once: 12 bytes each."""
BY_TRIAL = (pl.col("trial").str.len_chars(), pl.col("trial"))
"""The order of trials in a table, as `agenttts.tables.schema.trial_order`."""
_BY_FINISH = (pl.col("finished"), *BY_TRIAL, pl.col("run"))
_SEARCHED = ~pl.col("source").is_in(AFTER_SEARCH)
_USABLE = (
    (pl.col("state") == TrialState.COMPLETED.value)
    & pl.col("score").is_finite().fill_null(False)
    & _SEARCHED
)
_SCORED_ON = pl.col("examples").filter(_USABLE).max()
_ON_MOST = (pl.col("examples") == _SCORED_ON) | _SCORED_ON.is_null()
_TOKENS = (pl.col("prompt_tokens") + pl.col("decode_tokens")).alias("tokens")


class Interval(NamedTuple):
    """A confidence interval: its bounds and its level."""

    low: float
    high: float
    level: float


def load_runs(paths: Iterable[Path]) -> pl.DataFrame:
    """Return the trials of several runs as one table.

    The metrics are those of any run, in order of first appearance. A metric is null for a run that
    does not have it.

    Args:
        paths: Directories of runs, or their trials.parquet.
    """
    tables = [read_trials(path / "trials.parquet" if path.is_dir() else path) for path in paths]
    return concat_trials(tables)


def concat_trials(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return tables of trials as one, with their metrics united as in `load_runs`."""
    names = list(dict.fromkeys(name for table in tables for name in metric_names(table)))
    schema = trials_schema(names)
    return pl.concat([pl.DataFrame(schema=schema), *(_with_metrics(t, names) for t in tables)])


def scored(trials: pl.DataFrame) -> pl.DataFrame:
    """Return the trials that can be compared.

    They are COMPLETED, have a finite score, and belong to the search itself.
    """
    return trials.filter(_USABLE)


def finalists(trials: pl.DataFrame, since: int = 0) -> pl.DataFrame:
    """Return the trials of the best allocations on more examples, best first.

    Trials that failed come last. Closing trials before an extension of the search do not count.

    Args:
        trials: The table of a run's trials.
        since: The number of the first trial after the last extension; 0 without one.
    """
    return _closing(trials, FINALIST_SOURCE, since).sort(
        -pl.col("score"), pl.col("budget"), *BY_TRIAL, nulls_last=True
    )


def held_out(trials: pl.DataFrame, since: int = 0) -> pl.DataFrame:
    """Return the trials of the final test, the most promising allocation first.

    Closing trials before an extension of the search do not count. The arguments are those of
    `finalists`.
    """
    return _closing(trials, TEST_SOURCE, since).sort(*BY_TRIAL)


def by_source(trials: pl.DataFrame) -> dict[str, int]:
    """Return how many trials each source proposed, in order of first appearance."""
    counts = trials.sort(*BY_TRIAL).group_by("source", maintain_order=True).len()
    return dict(counts.iter_rows())


def best_trial(trials: pl.DataFrame) -> dict[str, Any] | None:
    """Return the row of the best trial; None if none scored.

    It is the trial with the highest score. Ties go to the lower budget, then to the earlier finish,
    then to the lower id. Where trials are on different numbers of examples, it is one of those on
    the most examples of their run.
    """
    best = on_most_examples(scored(trials)).sort(
        -pl.col("score"), pl.col("budget"), *_BY_FINISH, nulls_last=True, maintain_order=True
    )
    return best.row(0, named=True) if best.height else None


def on_most_examples(trials: pl.DataFrame) -> pl.DataFrame:
    """Return the trials on the most examples of their run, of scored trials."""
    return trials.filter(_ON_MOST.over("run"))


def best_so_far(trials: pl.DataFrame, *, proposed: bool = False) -> pl.DataFrame:
    """Return the trace of a search: scored trials in order of finishing (ties: by id).

    With ``proposed`` they are in the order in which they were proposed.

    Columns: step (from 1), run, trial, iteration, source, finished, budget, score, best_so_far (the
    highest score up to here) and improved (whether this trial gave it). Where trials are on
    different numbers of examples, a score on more examples takes the place of all on fewer.
    """
    # Trials on as many examples as any before are compared with each other.
    most = pl.col("examples").fill_null(0).cum_max()
    counts = pl.col("examples").fill_null(0) == most
    best = pl.when(counts).then("score").cum_max().over(most).forward_fill()
    order = (pl.col("iteration"), *BY_TRIAL) if proposed else _BY_FINISH
    return (
        scored(trials)
        .sort(*order, nulls_last=True, maintain_order=True)
        .select(
            pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("step"),
            *("run", "trial", "iteration", "source", "finished", "budget", "score"),
            best.alias("best_so_far"),
            (counts & ((pl.col("score") > best.shift(1)) | (most > most.shift(1))))
            .fill_null(True)
            .alias("improved"),
        )
    )


def pareto_front(trials: pl.DataFrame, cost: Cost) -> pl.DataFrame:
    """Return the scored trials that no other one dominates, by rising cost.

    Their scores rise with the cost. A trial dominates another if it costs no more and scores no
    less, and is better in one of the two. Equal trials are all kept. Where trials are on different
    numbers of examples, only those on the most examples of their run are compared.

    Args:
        trials: The table of trials.
        cost: The column that is the cost. ``tokens`` are prompt and decode tokens, including reused
            ones.

    Returns:
        A table with the columns run, trial, allocation, COST and score.
    """
    points = (
        on_most_examples(scored(trials)).with_columns(_TOKENS).filter(pl.col(cost).is_not_null())
    )
    best_at_cost = points.group_by(cost).agg(top=pl.col("score").max()).sort(cost)
    front = best_at_cost.filter(
        (pl.col("top") > pl.col("top").cum_max().shift(1)).fill_null(True)
    ).rename({"top": "score"})
    return (
        points.join(front, on=[cost, "score"], how="semi")
        .sort(cost, *BY_TRIAL, pl.col("run"))
        .select("run", "trial", "allocation", cost, "score")
    )


def summarise_runs(trials: pl.DataFrame) -> pl.DataFrame:
    """Return one row per run, in order of first appearance.

    Columns: run, trials, one count per state (by its name), scored, best (score), prompt_tokens,
    decode_tokens, tokens, reused_tokens, reused_share (of all tokens; null without any),
    gpu_seconds, gpu_hours, and wall_seconds from the first start to the last finish (null when
    unknown).
    """
    sums = ("prompt_tokens", "decode_tokens", "tokens", "reused_tokens", "gpu_seconds")
    return (
        trials.with_columns(_TOKENS)
        .group_by("run", maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias("trials"),
            *((pl.col("state") == s.value).sum().cast(pl.Int64).alias(s.value) for s in TrialState),
            _USABLE.sum().cast(pl.Int64).alias("scored"),
            pl.col("score").filter(_USABLE & _ON_MOST).max().alias("best"),
            *(pl.col(name).sum() for name in sums),
            (pl.col("finished").max() - pl.col("started").min())
            .dt.total_microseconds()
            .truediv(1e6)
            .alias("wall_seconds"),
        )
        .with_columns(
            pl.when(pl.col("tokens") > 0)
            .then(pl.col("reused_tokens") / pl.col("tokens"))
            .alias("reused_share"),
            (pl.col("gpu_seconds") / 3600).alias("gpu_hours"),
        )
    )


def main_metric(trials: pl.DataFrame) -> str | None:
    """Return the metric that is the score, found by its values; None without one.

    If several metrics are equal to it, the last one of the last stage is returned.
    """
    done = scored(trials)
    if done.is_empty():
        return None
    matching = [
        name
        for name in metric_names(done)
        if (done["metrics"].struct.field(name) - done["score"])
        .abs()
        .le(1e-9)
        .fill_null(False)
        .all()
    ]
    return matching[-1] if matching else None


def bootstrap_interval(
    examples: pl.DataFrame,
    metric: str,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval | None:
    """Return the confidence interval of a trial's mean metric.

    It is the percentile interval of the bootstrap. If the metric is 0 for all examples, or 1 for
    all, it is Wilson's interval (`agenttts.tables.uncertainty`).

    The examples are resampled: the interval says how far the mean of other examples may be off. The
    samples of the models are not resampled. The same seed gives the same interval in any order of
    the rows.

    Args:
        examples: The trial's table of examples.
        metric: Name of the metric, ``STAGE.METRIC``.
        level: The level of the interval.
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        The interval; None with fewer than two examples, without the metric, or if all examples
        have one value other than 0 and 1.
    """
    values = _metric_values(examples, metric)
    count = values.len()
    if count < 2:
        return None
    if values.n_unique() == 1:
        bounds = interval_of_equal(values[0], count, level)
        return bounds and Interval(*bounds, level)
    block = max(1, _MOST_DRAWS // count)
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    means = pl.concat(
        [
            values.sample(size * count, with_replacement=True, seed=seed + number)
            .reshape((size, count))
            .arr.mean()
            for number, size in enumerate(sizes)
        ]
    )
    tail = (1 - level) / 2
    low = means.quantile(tail, interpolation="linear")
    high = means.quantile(1 - tail, interpolation="linear")
    assert low is not None
    assert high is not None
    return Interval(low, high, level)


def _closing(trials: pl.DataFrame, source: str, since: int) -> pl.DataFrame:
    # Iterations do not tell: an extension may end again without an iteration of the search.
    numbers = pl.col("trial").str.strip_prefix("t").cast(pl.Int64, strict=False)
    return trials.filter((pl.col("source") == source) & (numbers >= since).fill_null(True))


def _metric_values(examples: pl.DataFrame, metric: str) -> pl.Series:
    """Return the metric's value of each example, ordered by example."""
    known = metric_names(examples)
    for stage in examples["stage"].unique():
        name = metric.removeprefix(f"{stage}.")
        if name != metric and name in known:
            rows = examples.filter(pl.col("stage") == stage).sort("example")
            values = rows["metrics"].struct.field(name)
            return values.filter(values.is_finite().fill_null(False))
    return pl.Series(dtype=pl.Float64)


def _with_metrics(trials: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    known = set(metric_names(trials))

    def united(column: str) -> pl.Expr:
        parts = [
            pl.col(column).struct.field(name)
            if name in known
            else pl.lit(None, pl.Float64).alias(name)
            for name in names or [NO_METRIC]
        ]
        return pl.struct(parts).alias(column)

    return trials.with_columns(united("metrics"), united("metrics_stderr"))
