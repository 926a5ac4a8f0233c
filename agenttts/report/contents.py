"""The contents of a report as texts and tables, the same for every format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agenttts.errors import counted
from agenttts.report.summary import Report, RunReport
from agenttts.tables.aggregate import Interval
from agenttts.tables.confidence import since_text
from agenttts.tables.cost import ALONE_ASSUMPTIONS, PARTS, RunCost
from agenttts.tables.cuts import cut_by_stage
from agenttts.tables.difference import verdict_text
from agenttts.tables.forecast import Forecast, Span
from agenttts.tables.schema import stage_metrics

NO_TRIAL = "no trial has finished yet"
COST_TITLES = {"budget": "budget (units)", "tokens": "tokens", "gpu_seconds": "GPU-seconds"}
_LONGEST_ERROR = 400
_REPAIRS = 3
_MOST_JOBS = 20
_WITHOUT_SERVED = ", without the search's own model"


@dataclass(frozen=True)
class Grid:
    """A table of texts.

    ``numbers`` are the names of the columns to align right. ``keys`` has sort keys of the rows, for
    columns whose texts cannot be sorted. For example, the key of a time in minutes is its seconds.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[str] = frozenset()
    keys: Mapping[str, Sequence[float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunContents:
    """The contents of one run: a heading, a few lines and tables."""

    title: str
    lines: tuple[str, ...]
    best: Grid | None
    after: tuple[Grid, ...]
    """Finalists (scored again on more examples) and the final test."""
    improvements: Grid | None
    fronts: tuple[Grid, ...]
    costs: tuple[Grid, ...]
    """Where the time went, and what each job used."""
    failures: Grid | None
    guidelines: tuple[str, ...]


def run_contents(run: RunReport, title: str) -> RunContents:
    """Return the contents of one run."""
    return RunContents(
        title=title,
        lines=tuple(_lines(run)),
        best=_best_grid(run),
        after=tuple(_after_grids(run)),
        improvements=_improvements(run),
        fronts=tuple(_front(run, cost) for cost in COST_TITLES if _has_cost(run, cost)),
        costs=tuple(_cost_grids(run)),
        failures=_failures(run),
        guidelines=_guidelines(run),
    )


def comparison(report: Report) -> Grid:
    """Return the table that compares runs, one row for each run."""
    rows = []
    for title, run in zip(report.titles, report.runs, strict=True):
        best, totals = run.best, run.totals
        rows.append(
            (
                title + (" *" if run is report.best_run else ""),
                str(totals["trials"]),
                _on_two_lines(score_text(best["score"], run.interval)) if best else "-",
                number(best["examples"]) if best else "-",
                number(best["budget"]) if best else "-",
                allocation_text(best["allocation"]) if best else "-",
                _on_two_lines(_test_text(run)),
                number(totals["tokens"]),
                share(totals["reused_share"]),
                number(run.gpu_hours),
                duration(totals["wall_seconds"]),
            )
        )
    figures = ("tokens", "reused", "GPU-hours", "wall")
    about = ("best score", "examples", "budget", "best allocation", "test score")
    columns = ("run", "trials", *about, *figures)
    numbers = frozenset(columns) - {"run", "best allocation"}
    star = " (* has the best trial)" if report.best_run else ""
    return Grid(f"runs{star}", columns, tuple(rows), numbers)


def _on_two_lines(score: str) -> str:
    """Return a score with its interval below it, to leave room for allocations."""
    return score.replace(" [", "\n[", 1)


def _test_text(run: RunReport) -> str:
    """Return the best allocation's score in the final test.

    If only others were tested, it is the score of the most promising one, with its name.
    """
    tested = tested_row(run.tests, run.best["allocation"] if run.best else [])
    if tested is None:
        return "-"
    text = score_text(tested["score"], run.after_intervals.get(tested["trial"]))
    own = run.best is not None and tested["allocation"] == run.best["allocation"]
    return text if own else f"{text} ({allocation_text(tested['allocation'])})"


def tested_row(
    tests: Iterable[Mapping[str, Any]], allocation: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Return an allocation's row of the final test, else the first one with a score.

    It is None if no allocation has a score in the final test.

    Args:
        tests: The rows of the final test, each with a score and an allocation.
        allocation: The allocation.
    """
    rows = [row for row in tests if row["score"] is not None]
    wanted = [dict(choice) for choice in allocation]
    return next((row for row in rows if row["allocation"] == wanted), rows[0] if rows else None)


def allocation_text(records: Iterable[Mapping[str, Any]]) -> str:
    """Return an allocation in short form: ``qwen-7b×4 → llama-3b×20``."""
    return " → ".join(f"{choice['model']}×{choice['samples']}" for choice in records)


def score_text(score: float, interval: Interval | None) -> str:
    """Return a score, with its confidence interval if there is one."""
    text = f"{score:.4f}"
    return f"{text} [{interval.low:.3f}, {interval.high:.3f}]" if interval else text


def metrics_text(
    metrics: Mapping[str, float | None], stage: str, allocation: Iterable[Mapping[str, Any]]
) -> str:
    """Return the metrics of an allocation's stage as a text; ``-`` without metrics."""
    own = stage_metrics(metrics, stage, [choice["stage"] for choice in allocation])
    return ", ".join(f"{n} {v:.4f}" for n, v in own.items() if v is not None) or "-"


def number(value: float | None) -> str:
    """Format a quantity for a table; ``-`` if it is unknown."""
    if value is None:
        return "-"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def share(value: float | None) -> str:
    """Format a share in per cent."""
    return "-" if value is None else f"{value:.0%}"


def duration(seconds: float | None) -> str:
    """Format seconds as seconds, minutes and seconds, or hours and minutes."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _lines(run: RunReport) -> list[str]:
    over = {"done": "done", None: "not ended"}.get(run.outcome, f"ended: {run.outcome}")
    task, search = (_section(run.settings, name) for name in ("task", "search"))
    facts = {"task": task.get("name"), "search": search.get("method")}
    facts |= {name: search.get(name) for name in ("budget", "seed")}
    if isinstance(facts["budget"], float):
        facts["budget"] = number(facts["budget"])
    lines = [f"{over}; " + ", ".join(f"{k} {v}" for k, v in facts.items() if v is not None)]
    lines = [line.removesuffix("; ") for line in lines]
    if run.trials.is_empty():
        return [*lines, NO_TRIAL]
    totals = run.totals
    states = ", ".join(f"{count} {state}" for state, count in run.states.items())
    return [
        *lines,
        f"{counted(totals['trials'], 'trial')}: {states}",
        "proposed by: " + ", ".join(f"{count} {source}" for source, count in run.sources.items()),
        *_recommended_lines(run),
        *_agent_lines(run),
        f"{number(totals['tokens'])} tokens ({share(totals['reused_share'])} reused), "
        f"{number(run.gpu_hours)} GPU-hours, {duration(totals['wall_seconds'])} wall time",
        *_cost_lines(run),
        *_cut_lines(run),
    ]


def _cost_lines(run: RunReport) -> list[str]:
    """Return what the trials would have taken if each had had a job of its own."""
    alone = run.cost.alone if run.cost is not None else None
    if run.cost is None or alone is None:
        return []
    if alone.gpu_seconds:
        estimate = f"{number(alone.gpu_seconds / 3600)} GPU-hours"
        taken = f"{number(run.cost.gpu_seconds.used / 3600)} GPU-hours"
    else:
        estimate = f"{duration(alone.seconds)} of jobs"
        taken = duration(run.cost.seconds.used)
    return [
        f"with a job for each trial, {counted(alone.trials, 'trial')} would have taken about "
        f"{estimate} and {counted(alone.engine_starts, 'engine start')}; this run took {taken} and "
        f"{counted(run.cost.engine_starts, 'engine start')}"
        f"{_WITHOUT_SERVED if run.cost.served.seconds else ''} (estimated: {ALONE_ASSUMPTIONS})"
    ]


def _expected_grid(run: RunReport, cost: RunCost, expected: Forecast) -> Grid:
    """Return the table of the cost that was expected at launch, and the actual cost."""

    def span(found: Span, factor: float = 1.0) -> str:
        low, high = number(found.low * factor), number(found.high * factor)
        return low if low == high else f"{low} to {high}"

    wall_seconds = run.totals["wall_seconds"]  # None before the first trial has ended
    rows = [
        ("engine starts", span(expected.engine_starts), number(cost.engine_starts)),
        ("jobs", span(expected.jobs), number(len(cost.jobs))),
        (
            "hours from the first trial to the last",
            span(expected.wall_seconds, 1 / 3600),
            number(None if wall_seconds is None else wall_seconds / 3600),
        ),
    ]
    if expected.gpu_seconds.high:
        gpu_hours = (
            "GPU-hours",
            span(expected.gpu_seconds, 1 / 3600),
            number(cost.gpu_seconds.used / 3600),
        )
        rows.insert(0, gpu_hours)
    columns = ("quantity", "expected at launch", "actual")
    title = f"expected and actual cost (assumed: {'; '.join(expected.assumptions)})"
    return Grid(title, columns, tuple(rows), frozenset(columns[1:]))


def _cost_grids(run: RunReport) -> Iterator[Grid]:
    """Yield tables of the time by part, of the expected cost, and of the jobs."""
    cost = run.cost
    if cost is None:
        return
    rows = [
        (
            part,
            duration(getattr(cost.seconds, part)),
            number(getattr(cost.gpu_seconds, part) / 3600) if part != "queue" else "-",
            share(cost.share(part)) if part != "queue" else "-",
        )
        for part in PARTS
    ]
    columns = ("part", "time of jobs", "GPU-hours", "share")
    computed, reused = number(cost.tokens_computed), number(cost.tokens_reused)
    title = (
        f"where the time went: {counted(cost.engine_starts, 'engine start')}, "
        f"{computed} tokens computed, {reused} reused"
    )
    if cost.served.seconds:
        hours = f"{number(cost.served.gpu_seconds / 3600)} GPU-hours in "
        queued = f", which waited {duration(cost.served.queue)}" if cost.served.queue >= 1 else ""
        title += f"{_WITHOUT_SERVED} ({hours}{duration(cost.served.seconds)} of jobs{queued})"
    yield Grid(title, columns, tuple(rows), frozenset(columns[1:]))
    if cost.forecast is not None:
        yield _expected_grid(run, cost, cost.forecast)
    if not cost.jobs:
        return  # only the served model has run
    shown = ("queue", "load", "generate", "idle", "lost")
    names = ("job", "GPUs", "attempts", "engine starts", "GPU-hours", "time", *shown)
    jobs = [
        (
            job.job,
            str(job.gpus),
            str(job.attempts),
            str(job.engine_starts),
            number(job.gpu_seconds.used / 3600),
            duration(job.seconds.used),
            *(duration(getattr(job.seconds, part)) for part in shown),
        )
        for job in sorted(cost.jobs, key=lambda job: -job.seconds.used)[:_MOST_JOBS]
    ]
    rest = f" (the longest {_MOST_JOBS} of {len(cost.jobs)})" if len(cost.jobs) > _MOST_JOBS else ""
    yield Grid(f"jobs{rest}", names, tuple(jobs), frozenset(names[1:]))


def _cut_lines(run: RunReport) -> list[str]:
    """Return the share of cut samples by stage, and the warnings about cut samples."""
    shares = ", ".join(f"{part.stage} {share(part.share)}" for part in cut_by_stage(run.cuts))
    lines = [f"samples cut at decode_tokens: {shares}"] if shares else []
    return [*lines, *(f"warning: {warning}" for warning in run.warnings)]


def _best_grid(run: RunReport) -> Grid | None:
    if run.best is None:
        return None
    row = run.best
    interval = f" ({run.interval.level:.0%} interval over examples)" if run.interval else ""
    title = (
        f"best allocation: {row['trial']}, score "
        f"{score_text(row['score'], run.interval)}{interval}, "
        f"budget {number(row['budget'])}"
    )
    rows = [
        (
            choice["stage"],
            choice["model"],
            str(choice["samples"]),
            metrics_text(row["metrics"], choice["stage"], row["allocation"]),
        )
        for choice in row["allocation"]
    ]
    return Grid(
        title, ("stage", "model", "samples", "metrics"), tuple(rows), frozenset({"samples"})
    )


def _after_grids(run: RunReport) -> Iterator[Grid]:
    """Yield tables of the trials after the search.

    Each row also has the allocation's score in the search.
    """
    finals = "finalists on more examples of the search split (the best first)"
    tests = "final test on held-out examples (the most promising first)"
    for title, name, rows in ((finals, "score", run.finalists), (tests, "test score", run.tests)):
        if rows:
            columns = ("trial", "search score", name, "budget", "allocation")
            yield Grid(
                title, columns, tuple(_after_row(run, row) for row in rows), frozenset(columns[1:4])
            )


def _after_row(run: RunReport, row: Mapping[str, Any]) -> tuple[str, ...]:
    interval = run.after_intervals.get(row["trial"])
    return (
        row["trial"],
        "-" if row["search_score"] is None else f"{row['search_score']:.4f}",
        row["state"] if row["score"] is None else score_text(row["score"], interval),
        number(row["budget"]),
        allocation_text(row["allocation"]),
    )


def _guidelines(run: RunReport) -> tuple[str, ...]:
    """Return the guidelines, the latest first.

    Later guidelines may contradict earlier ones.
    """
    known = run.guidelines_from
    latest_first = sorted(run.guidelines, key=lambda text: -known.get(text, -1))
    return tuple(_dated(text, known.get(text)) for text in latest_first)


def _dated(guideline: str, iteration: int | None) -> str:
    """Return a guideline, with the last iteration that was over when it was written."""
    if iteration is None:
        return guideline
    when = f"after iteration {iteration}" if iteration >= 0 else "before iteration 0 was over"
    return f"{when}: {guideline}"


def _recommended_lines(run: RunReport) -> list[str]:
    """Return what is recommended, and how that differs from the best trial."""
    row, best = run.recommended_trial, run.best_finalist
    unscored = unscored_text(run) or ("not tried" if run.outcome else "not tried yet")
    trial = f" ({row['trial']}, score {row['score']:.4f})" if row else f" ({unscored})"
    lines, sure = [], "the recommended allocation"
    if best is not None:
        lines.append(
            f"recommended: {allocation_text(best['allocation'])} ({best['trial']}, score "
            f"{best['score']:.4f}): the best finalist"
        )
    if run.recommended is not None and not run.search_agrees:
        lines.append(
            f"the search recommended {allocation_text(run.recommended)}{trial} before the finalists"
        )
        sure = "by the search's scores, its recommendation"
    elif run.recommended is not None and best is None:
        lines.append(
            f"recommended: {allocation_text(run.recommended)}{trial}: the allocation that the "
            "search expects to score best; the best trial is the one with the highest measured "
            "score"
        )
    if not lines:
        return []
    return [
        *lines,
        *([since_text(run.scored_since)] if run.scored_since else []),
        *([f"{sure} is {run.confidence}"] if run.confidence else []),
        *(
            [f"{_compared_name(run)}against the baseline: {text}"]
            if (text := baseline_text(run))
            else []
        ),
    ]


def _compared_name(run: RunReport) -> str:
    """Return what is compared with the baseline; '' for the recommended allocation."""
    of = run.baseline["of"] if run.baseline else "recommended"
    return "" if of == "recommended" else f"the {of} allocation "


def unscored_text(run: RunReport) -> str:
    """Return how the recommended allocation's trial ended without a score.

    The text is '' if the allocation was not tried, or has a score.
    """
    row = run.recommended_failure
    return "" if row is None else f"{row['trial']} {row['state']}, no score"


def baseline_text(run: RunReport) -> str:
    """Return the comparison with the baseline in words; '' without a comparison."""
    found = run.baseline
    if found is None or found["score"] is None:
        return ""
    name = f"{allocation_text(found['allocation'])} ({found['trial']})"
    if found["same_allocation"]:
        return f"the {found['of']} allocation is the baseline, {name}"
    score, tokens = found["score"], found["tokens"]
    text = _compared(score, "score", "+.4f", name)
    if score["more_examples"]:
        text += (
            f"; about {counted(score['more_examples'], 'more example')} would tell the two apart"
        )
    if tokens is not None:
        text += f"; {_compared(tokens, 'tokens of one example', '+,.1f')}"
    if found["kind"] == "search":
        text += (
            f"; the {found['of']} allocation was chosen on these examples, so its score is too "
            "high on average"
        )
    return text


def _compared(part: Mapping[str, Any], what: str, form: str, name: str = "") -> str:
    """Return the verdict on a difference, and its size, in words."""
    difference, verdict = difference_text(part, form), verdict_text(part["verdict"])
    if part["verdict"] == "not to be told":
        return f"{verdict}{f' from {name}' if name else ''} in {what}: difference {difference}"
    return f"{verdict}{f' than {name}' if name else ''} in {what} by {difference}"


def difference_text(difference: Mapping[str, Any], form: str) -> str:
    """Return a difference with its 95 % interval."""
    text = f"{difference['difference']:{form}}"
    if difference["low"] is None:
        return text
    return f"{text} [{difference['low']:{form}}, {difference['high']:{form}}]"


def _agent_lines(run: RunReport) -> list[str]:
    """Return what the language model did, with its repaired proposals and failures."""
    agent = run.agent
    if agent is None or not agent["calls"]:
        return []
    failed = ", ".join(f"{count} {fault}" for fault, count in agent["failed"].items())
    decisions = ", ".join(f"{count} {what}" for what, count in agent["decisions"].items())
    lines = [
        f"agent: {agent['model']}, {counted(agent['calls'], 'call')} ({failed or 'none'} failed), "
        f"{number(agent['prompt_tokens'])} + {number(agent['completion_tokens'])} tokens, "
        f"{duration(agent['seconds'])}; proposals: {decisions or 'none'}"
    ]
    if agent["repairs"]:
        shown = agent["repairs"][:_REPAIRS]
        rest = len(agent["repairs"]) - len(shown)
        texts = [f"{allocation_text(r['allocation'])} ({'; '.join(r['notes'])})" for r in shown]
        lines.append("repaired: " + "; ".join(texts) + (f"; and {rest} more" if rest else ""))
    if agent["fallbacks"]:
        reasons = "; ".join(dict.fromkeys(_shortened(r) for r in agent["fallbacks"]))
        lines.append(
            f"{counted(len(agent['fallbacks']), 'batch', 'batches')} without the language model: "
            f"{_shortened(reasons)}"
        )
    return lines


def _improvements(run: RunReport) -> Grid | None:
    if run.trace.is_empty():
        return None
    allocations = dict(run.trials.select("trial", "allocation").iter_rows())
    rows = [
        (
            f"{row['step']}/{run.trace.height}",
            f"{row['score']:.4f}",
            number(row["budget"]),
            row["trial"],
            row["source"],
            allocation_text(allocations[row["trial"]]),
        )
        for row in run.trace.iter_rows(named=True)
        if row["improved"]
    ]
    columns = ("step", "best so far", "budget", "trial", "source", "allocation")
    return Grid("improvements", columns, tuple(rows), frozenset(columns[:3]))


def _has_cost(run: RunReport, cost: str) -> bool:
    """Return whether a cost has a Pareto front; without GPUs, GPU-seconds have none."""
    used = cost != "gpu_seconds" or run.totals["gpu_seconds"] > 0
    return used and run.pareto[cost].height > 0


def _front(run: RunReport, cost: str) -> Grid:
    rows = [
        (number(row[cost]), f"{row['score']:.4f}", row["trial"], allocation_text(row["allocation"]))
        for row in run.pareto[cost].iter_rows(named=True)
    ]
    columns = (COST_TITLES[cost], "score", "trial", "allocation")
    return Grid(
        f"Pareto front: score against {COST_TITLES[cost]}{compared_text(run)}",
        columns,
        tuple(rows),
        frozenset(columns[:2]),
    )


def compared_text(run: RunReport) -> str:
    """Return which trials can be on a Pareto front; '' if every scored trial can."""
    if run.compared is None:
        return ""
    compared, scored, examples = run.compared
    return f", among the {compared} of {scored} trials on the most examples ({examples})"


def _failures(run: RunReport) -> Grid | None:
    if not run.failures:
        return None
    rows = [
        (group["state"], _some(group["trials"]), _shortened(group["error"] or "-"))
        for group in run.failures
    ]
    return Grid("trials without a result", ("state", "trials", "error"), tuple(rows))


def _some(trials: Sequence[str]) -> str:
    rest = f" and {len(trials) - 5} more" if len(trials) > 6 else ""
    return ", ".join(trials[: 5 if rest else 6]) + rest


def _shortened(error: str) -> str:
    """Return an error as one paragraph; of a long error, only the end is kept.

    For a traceback, the end says what happened.
    """
    text = " ".join(error.split())
    return text if len(text) <= _LONGEST_ERROR else f"… {text[-_LONGEST_ERROR:]}"


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = settings.get(name)
    return section if isinstance(section, Mapping) else {}
