"""Build one `Report` from run directories, with everything that the formats show.

A run may be unfinished. A run without a table gives a report without trials.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from agenttts.errors import UserError, counted
from agenttts.files.json_lines import readable_json_lines
from agenttts.report.background import Background
from agenttts.report.document import ReportDocument
from agenttts.spec.yaml_document import load_plain
from agenttts.tables.aggregate import (
    COSTS,
    Interval,
    best_so_far,
    best_trial,
    bootstrap_interval,
    by_source,
    concat_trials,
    finalists,
    held_out,
    main_metric,
    on_most_examples,
    pareto_front,
    scored,
    summarise_runs,
)
from agenttts.tables.confidence import Confidence
from agenttts.tables.cost import RunCost
from agenttts.tables.cuts import CutSamples, cut_by_model, cut_document, cut_warnings
from agenttts.tables.documents import printed
from agenttts.tables.failures import failure_groups
from agenttts.tables.schema import (
    AFTER_SEARCH,
    FINALIST_SOURCE,
    NO_METRIC,
    TrialState,
    read_examples,
    read_trials,
    trial_rows,
    trials_frame,
)

_Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class RunReport:
    """One run, read from its directory.

    Attributes:
        run: Name of the run.
        path: Its directory.
        outcome: How the run ended ('done' or the reason); None while it is not over.
        trials: The table of its trials.
        interval: Confidence interval of the best trial's score over its examples, if these are
            recorded.
        guidelines: The searcher's guidelines.
        guidelines_from: For each guideline, the last iteration that had ended when it was written;
            -1 if none had ended. Empty if that is not known.
        settings: The run's resolved spec.
        after_intervals: Confidence intervals of the trials after the search, by trial.
        agent: What the language model did (see `agenttts.search.llm.transcript.summarise`); None
            without a language model.
        recommended: The allocation, as records, that the searcher expects to score best; None if it
            names none.
        scored_since: Number of trials that got a score after the searcher was last told results;
            ``recommended`` does not take them into account.
        confidence: How sure the searcher is of ``recommended``; None if it does not say.
        baseline: The recommended allocation compared with the user's baseline
            (`BaselineDocument`); None without one.
        cost: What the run used; None for runs of versions that did not record it.
        background: What the page shows of the run besides its trials.
        since: The number of the first trial after the last extension of the search; 0 without one.
            Finalists and final tests before it do not count.
        rests: The spans without a controller and without jobs, oldest first. They lie between the
            end of the run, or the death of a controller, and the next start.
    """

    run: str
    path: Path
    outcome: str | None
    trials: pl.DataFrame
    interval: Interval | None = None
    guidelines: tuple[str, ...] = ()
    guidelines_from: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    after_intervals: Mapping[str, Interval] = field(default_factory=dict)
    agent: Mapping[str, Any] | None = None
    recommended: Sequence[Mapping[str, Any]] | None = None
    scored_since: int = 0
    confidence: Confidence | None = None
    baseline: Mapping[str, Any] | None = None
    cost: RunCost | None = None
    background: Background = field(default_factory=Background)
    since: int = 0
    rests: tuple[tuple[datetime, datetime], ...] = ()

    @cached_property
    def best(self) -> dict[str, Any] | None:
        """The row of the best trial; None if no trial has a score.

        It is the best finalist if a finalist has a score, else the best trial of the search.
        """
        return _best(self.trials, self.since)

    @property
    def best_scored_on(self) -> str:
        """What the best score is on, such as ``20 examples of the search``.

        It is '' without a score.
        """
        if self.best is None:
            return ""
        count, finalist = self.best["examples"], self.best["source"] == FINALIST_SOURCE
        examples = counted("an unknown number of" if count is None else count, "example")
        return f"{examples} of the {'finalists' if finalist else 'search'}"

    @property
    def best_finalist(self) -> dict[str, Any] | None:
        """The row of the best finalist, which is the run's result.

        It is None if no finalist has a score; then the recommended allocation is the result.
        """
        found = self.finalists[0] if self.finalists else None
        return None if found is None or found["score"] is None else found

    @cached_property
    def trace(self) -> pl.DataFrame:
        """The best score so far, from `agenttts.tables.aggregate.best_so_far`."""
        return best_so_far(self.trials)

    @cached_property
    def pareto(self) -> dict[str, pl.DataFrame]:
        """The Pareto front of the score against each cost, by cost."""
        return {cost: pareto_front(self.trials, cost) for cost in COSTS}

    @cached_property
    def compared(self) -> tuple[int, int, int] | None:
        """The numbers of compared trials, scored trials, and examples per compared trial.

        Only the trials on the most examples are compared. None if every scored trial is compared.
        """
        every = scored(self.trials)
        most = on_most_examples(every)
        if most.height == every.height:
            return None
        return most.height, every.height, most["examples"][0]

    @cached_property
    def totals(self) -> dict[str, Any]:
        """Counts and sums from `agenttts.tables.aggregate.summarise_runs`.

        Without trials, counts and sums are 0 and other values None. The wall seconds do not include
        ``rests``.
        """
        rows = summarise_runs(self.trials)
        if rows.is_empty():
            zeros = {name: None if name in _UNKNOWN_AT_FIRST else 0 for name in rows.columns}
            return {name: value for name, value in zeros.items() if name != "run"}
        totals = {name: value for name, value in rows.row(0, named=True).items() if name != "run"}
        first: Any = self.trials["started"].min()
        last: Any = self.trials["finished"].max()
        return {**totals, "wall_seconds": self.seconds_between(first, last)}

    def seconds_between(self, start: datetime | None, end: datetime | None) -> float | None:
        """Return the wall seconds between two moments, without the run's rests.

        It is None if a moment is None.
        """
        if start is None or end is None:
            return None
        rests = ((max(start, since), min(end, until)) for since, until in self.rests)
        rested = sum(max(0.0, (until - since).total_seconds()) for since, until in rests)
        return (end - start).total_seconds() - rested

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of the run's jobs; of its trials if the jobs left no records.

        The GPU-hours in ``totals`` do not include the starts and the idle time of jobs.
        """
        hours: float = self.totals["gpu_hours"]
        return hours if self.cost is None else self.cost.gpu_hours

    @cached_property
    def states(self) -> dict[str, int]:
        """The number of trials in each state that occurs."""
        return {s.value: self.totals[s.value] for s in TrialState if self.totals[s.value]}

    @cached_property
    def sources(self) -> dict[str, int]:
        """The number of trials by source, i.e. by what proposed them."""
        return by_source(self.trials)

    @cached_property
    def finalists(self) -> list[dict[str, Any]]:
        """The rows of the finalists (scored again on more examples), best first.

        ``search_score`` is the score in the search.
        """
        return self._with_search_score(finalists(self.trials, self.since))

    @cached_property
    def tests(self) -> list[dict[str, Any]]:
        """The rows of the allocations in the final test.

        ``search_score`` is the score in the search.
        """
        return self._with_search_score(held_out(self.trials, self.since))

    @cached_property
    def cuts(self) -> list[CutSamples]:
        """Cut samples by stage and model."""
        return cut_by_model(trial_rows(self.trials))

    @cached_property
    def warnings(self) -> list[str]:
        """Warnings that the reader should see before the scores."""
        return cut_warnings(self.cuts, self._decode_tokens)

    @property
    def _decode_tokens(self) -> dict[str, int | None]:
        stages = self.settings.get("stages")
        return {
            str(name): section.get("decode_tokens") if isinstance(section, dict) else None
            for name, section in (stages.items() if isinstance(stages, dict) else ())
        }

    @cached_property
    def failures(self) -> list[dict[str, Any]]:
        """Trials without a result, as `failure_groups` groups them.

        Each entry has the keys state, error and trials.
        """
        failed = self.trials.filter(pl.col("state") != TrialState.COMPLETED.value)
        groups = failure_groups(
            (row["trial"], TrialState(row["state"]), row["error"])
            for row in failed.select("trial", "state", "error").iter_rows(named=True)
        )
        return [
            {"state": group.state.value, "error": group.error, "trials": list(group.trials)}
            for group in groups
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the run in the form of the JSON document."""
        counts = [state.value for state in TrialState]
        best = None if self.best is None else _plain(self.best)
        if best is not None and self.interval is not None:
            best["confidence"] = self.interval._asdict()
        return {
            "run": self.run,
            "path": str(self.path),
            "finished": self.outcome is not None,
            "outcome": self.outcome,
            "states": self.states,
            "sources": self.sources,
            "trials": _plain(self.trials.to_dicts()),
            "best": best,
            "recommended": self._recommended_document(),
            "baseline": self.baseline,
            "finalists": [self._after_document(row) for row in self.finalists],
            "test": [self._after_document(row) for row in self.tests],
            "agent": None if self.agent is None else dict(self.agent),
            "trace": _plain(self.trace.drop("run").to_dicts()),
            "pareto": {
                cost: _plain(front.drop("run").to_dicts()) for cost, front in self.pareto.items()
            },
            "totals": {k: _plain(v) for k, v in self.totals.items() if k not in counts},
            "cost": None if self.cost is None else self.cost.document(),
            "jobs": [] if self.cost is None else self.cost.jobs_document(),
            "forecast": None if self.cost is None else self.cost.forecast_document(),
            "one_trial_a_job": None if self.cost is None else self.cost.alone_document(),
            "cut_share": cut_document(self.cuts),
            "warnings": self.warnings,
            "guidelines": list(self.guidelines),
        }

    @cached_property
    def recommended_trial(self) -> dict[str, Any] | None:
        """The row of the search trial that evaluated the recommended allocation.

        If there are several, it is the one on the most examples.
        """
        return self._search_trial(self.recommended)

    @cached_property
    def result_trial(self) -> dict[str, Any] | None:
        """The row of the search trial that evaluated the best finalist's allocation.

        Without finalists it is `recommended_trial`.
        """
        if self.best_finalist is None:
            return self.recommended_trial
        return self._search_trial(self.best_finalist["allocation"])

    def _search_trial(self, allocation: _Records | None) -> dict[str, Any] | None:
        if allocation is None:
            return None
        return _row_of(allocation, scored(self.trials).sort("examples", descending=True))

    @cached_property
    def recommended_failure(self) -> dict[str, Any] | None:
        """The row of the recommended allocation's last search trial.

        It is None if a trial of the allocation has a score.
        """
        if self.recommended_trial is not None:
            return None
        searched = self.trials.filter(~pl.col("source").is_in(AFTER_SEARCH))
        return _row_of(self.recommended or (), searched.reverse())

    @property
    def search_agrees(self) -> bool:
        """Whether the best finalist, if there is one, is what the searcher recommends."""
        if self.best_finalist is None or self.recommended is None:
            return True
        return bool(self.best_finalist["allocation"] == [dict(c) for c in self.recommended])

    def _recommended_document(self) -> dict[str, Any] | None:
        row = self.best_finalist or self.recommended_trial or self.recommended_failure or {}
        allocation = row.get("allocation") or self.recommended
        if allocation is None:
            return None
        found = {name: _plain(row.get(name)) for name in ("trial", "score", "budget")}
        sure = asdict(self.confidence) if self.confidence and self.search_agrees else None
        return {**found, "allocation": [dict(c) for c in allocation], "confidence": sure}

    def _with_search_score(self, rows: pl.DataFrame) -> list[dict[str, Any]]:
        searched = {
            str(row["allocation"]): row["score"]
            for row in scored(self.trials).sort("examples", nulls_last=False).iter_rows(named=True)
        }
        return [
            {**row, "search_score": searched.get(str(row["allocation"]))}
            for row in rows.iter_rows(named=True)
        ]

    def _after_document(self, row: Mapping[str, Any]) -> dict[str, Any]:
        interval = self.after_intervals.get(row["trial"])
        names = ("trial", "state", "score", "search_score", "budget", "metrics", "allocation")
        document: dict[str, Any] = _plain({name: row[name] for name in names})
        return document | ({"confidence": interval._asdict()} if interval else {})


@dataclass(frozen=True)
class Report:
    """The report on one or many runs."""

    runs: tuple[RunReport, ...]

    @cached_property
    def trials(self) -> pl.DataFrame:
        """The trials of all runs in one table, with the metrics of all of them.

        The column ``run`` has the runs' titles.
        """
        return concat_trials(
            [
                run.trials.with_columns(pl.lit(title).alias("run"))
                for run, title in zip(self.runs, self.titles, strict=True)
            ]
        )

    @cached_property
    def titles(self) -> list[str]:
        """A title for each run: its name, or its path if two runs share the name."""
        names = Counter(run.run for run in self.runs)
        return [run.run if names[run.run] == 1 else str(run.path) for run in self.runs]

    @cached_property
    def best_run(self) -> RunReport | None:
        """The run with the best trial of all.

        It is None if no trial has a score, or if the best scores are not on comparable examples: a
        score on few examples is more often high by luck.
        """
        runs = [run for run in self.runs if run.best is not None]
        if len({run.best_scored_on for run in runs}) > 1:
            return None
        return max(runs, key=_by_best, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document.

        It holds plain types, times as ISO 8601 in UTC, and null for non-finite numbers.
        """
        runs = [run.as_dict() for run in self.runs]
        best = None if self.best_run is None else runs[self.runs.index(self.best_run)]["best"]
        return printed(ReportDocument, {"runs": runs, "best": best})


def build_report(
    run_dirs: Sequence[Path],
    *,
    guidelines: Mapping[Path, Sequence[str]] | None = None,
    agents: Mapping[Path, Mapping[str, Any] | None] | None = None,
    recommended: Mapping[Path, Sequence[Mapping[str, Any]] | None] | None = None,
    confidences: Mapping[Path, Confidence | None] | None = None,
    costs: Mapping[Path, RunCost | None] | None = None,
    backgrounds: Mapping[Path, Background] | None = None,
    main_metrics: Mapping[Path, str] | None = None,
    extended_at: Mapping[Path, Sequence[int]] | None = None,
) -> Report:
    """Read runs, finished or not, and build the report on them.

    Args:
        run_dirs: Run directories, ``results/RUN``.
        guidelines: The searcher's guidelines, by entry of ``run_dirs``.
        agents: What the language model did, by entry of ``run_dirs``.
        recommended: The allocation that the searcher recommends, by entry of ``run_dirs``.
        confidences: How sure the searcher is of its recommendation, by entry of ``run_dirs``.
        costs: What the run used, by entry of ``run_dirs``.
        backgrounds: What the page shows of the run besides its trials, by entry of ``run_dirs``.
        main_metrics: The metric that is the score, by entry of ``run_dirs``. If none is given, it
            is the metric whose values equal the score (`main_metric`).
        extended_at: For each extension of the search, the number of the next trial, by entry of
            ``run_dirs``. The journal has these numbers too, but the journal may be lost.

    Raises:
        UserError: A directory is absent or not a run, or a table is damaged; the message names the
            path.
    """
    told = (
        guidelines or {},
        agents or {},
        recommended or {},
        confidences or {},
        costs or {},
        backgrounds or {},
        main_metrics or {},
        extended_at or {},
    )
    return Report(tuple(_read_run(path, *told) for path in run_dirs))


_UNKNOWN_AT_FIRST = ("best", "reused_share", "wall_seconds")


def _read_run(
    path: Path,
    guidelines: Mapping[Path, Sequence[str]],
    agents: Mapping[Path, Mapping[str, Any] | None],
    recommended: Mapping[Path, Sequence[Mapping[str, Any]] | None],
    confidences: Mapping[Path, Confidence | None],
    costs: Mapping[Path, RunCost | None],
    backgrounds: Mapping[Path, Background],
    main_metrics: Mapping[Path, str],
    extended_at: Mapping[Path, Sequence[int]],
) -> RunReport:
    if not path.is_dir():
        raise UserError(f"{path}: the run directory does not exist")
    table, spec, journal = path / "trials.parquet", path / "spec.yaml", path / "journal.jsonl"
    if not (table.exists() or spec.exists() or journal.exists()):
        raise UserError(
            f"{path}: not a run directory: it has none of {spec.name}, {journal.name}, {table.name}"
        )
    trials = read_trials(table) if table.exists() else trials_frame([], [])
    # A run has the name of its directory, so that the rows of a copied or renamed run differ from
    # those of the original.
    name = path.resolve().name
    trials = trials.with_columns(pl.lit(name).alias("run"))
    events = readable_json_lines(journal)
    since = max([0, *_extended_at(events), *extended_at.get(path, ())])
    best = _best(trials, since)
    cost = costs.get(path)
    metric = main_metrics.get(path) or main_metric(trials)
    intervals = {
        trial: interval
        for trial in (*finalists(trials, since)["trial"], *held_out(trials, since)["trial"])
        if (interval := _interval(path, metric, trial)) is not None
    }
    return RunReport(
        run=name,
        path=path,
        outcome=_outcome(events),
        since=since,
        rests=_rests(events, () if cost is None else cost.spans),
        trials=trials,
        interval=_interval(path, metric, best["trial"]) if best else None,
        guidelines=tuple(guidelines.get(path, ())),
        settings=_settings(spec),
        after_intervals=intervals,
        agent=agents.get(path),
        recommended=recommended.get(path),
        confidence=confidences.get(path),
        cost=cost,
        background=backgrounds.get(path, Background()),
    )


def _row_of(allocation: _Records, rows: pl.DataFrame) -> dict[str, Any] | None:
    """Return the first row of an allocation."""
    wanted = [dict(choice) for choice in allocation]
    return next((r for r in rows.iter_rows(named=True) if r["allocation"] == wanted), None)


def _best(trials: pl.DataFrame, since: int) -> dict[str, Any] | None:
    again = finalists(trials, since)
    if again.height and again["score"][0] is not None:
        return again.row(0, named=True)
    return best_trial(trials)


def _interval(path: Path, metric: str | None, trial: str) -> Interval | None:
    """Return a trial's confidence interval; None if its examples were not kept."""
    examples = path / "trials" / trial / "examples.parquet"
    if metric is None or not examples.exists():
        return None
    table = read_examples(examples, ("example", "stage", "metrics"))
    return bootstrap_interval(table, metric)


# Events of a journal after which the run is not over, however it ended before.
_REOPENING = ("started", "resumed", "retried", "extended")
# Events that commands write while no controller runs.
_OF_COMMANDS = (
    *("resumed", "retried", "rebuilt", "profile_changed", "profile_written"),
    *("extended", "extension_written"),
)


def _outcome(events: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the outcome in the last ``ended`` event.

    It is None if there is no such event, or if the run has gone on after it.
    """
    outcome: str | None = None
    for event in events:
        kind = event.get("event")
        if kind in _REOPENING:
            outcome = None
        elif kind == "ended":
            outcome = str(event.get("outcome") or "ended")
    return outcome


def _extended_at(events: Iterable[Mapping[str, Any]]) -> list[int]:
    """Return the numbers of the trials that followed extensions of the search."""
    numbers = [event.get("trials") for event in events if event.get("event") == "extended"]
    return [number for number in numbers if isinstance(number, int)]


_Span = tuple[datetime, datetime]


def _rests(events: Iterable[Mapping[str, Any]], worked: Iterable[_Span]) -> tuple[_Span, ...]:
    """Return the spans without a controller and without jobs of the run.

    Args:
        events: The run's events.
        worked: When its jobs ran. Jobs keep running when their controller is killed.
    """
    rests: list[_Span] = []
    end: datetime | None = None
    latest: datetime | None = None
    for event in events:
        kind, moment = event.get("event"), _moment(event)
        if kind == "ended":
            end = end or moment
        elif kind == "started":
            seen = _moment(event, "seen")
            if moment is not None and end is not None and moment > end:
                rests.append((end, moment))
            elif moment is not None and end is None and seen is not None:
                since = seen if latest is None else max(seen, latest)
                rests += _without((since, moment), worked)
            end = None
        if kind not in _OF_COMMANDS:
            latest = moment or latest
    return tuple(rests)


def _without(span: _Span, others: Iterable[_Span]) -> list[_Span]:
    """Return what is left of a span without other spans, oldest first."""
    since, until = span
    left = []
    for start, end in sorted(others):
        if min(start, until) > since:
            left.append((since, min(start, until)))
        since = max(since, end)
    return [*left, (since, until)] if since < until else left


def _moment(event: Mapping[str, Any], key: str = "time") -> datetime | None:
    """Return the moment under ``key`` of an event; None if there is none."""
    try:
        moment = datetime.fromisoformat(str(event.get(key)))
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _settings(spec: Path) -> dict[str, Any]:
    if not spec.exists():
        return {}
    try:
        settings = load_plain(spec.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{spec}: cannot be read as YAML ({' '.join(str(error).split())})"
        ) from error
    return settings if isinstance(settings, dict) else {}


def _by_best(run: RunReport) -> tuple[float, float, float]:
    """Sort key of runs, in the order of `best_trial`.

    The order is by score, then by lower budget, then by earlier finish.
    """
    assert run.best is not None
    finished = run.best["finished"]
    return (
        run.best["score"],
        -(math.inf if run.best["budget"] is None else run.best["budget"]),
        -(math.inf if finished is None else finished.timestamp()),
    )


def _plain(value: Any) -> Any:
    """Return a table's values as JSON values."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items() if key != NO_METRIC}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
