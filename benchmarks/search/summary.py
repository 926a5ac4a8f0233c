"""Statistics of finished runs, as Markdown, CSV and a figure."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.search.figure import Panel, draw

NEAR = 0.01
CHECKPOINTS = (10, 20, 50)

COLUMNS = (
    "problem", "examples", "batch", "method", "runs", "trials_to_1%",
    "reached_by_20", "reached_by_50", "within_at_20", "within_at_50",
    *(f"{what}_{at}" for at in CHECKPOINTS for what in ("mean", "q25", "median", "q75")),
    "ms_per_proposal",
)  # fmt: skip

Setting = tuple[str, int, int, str]


def write_summary(records: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write summary.csv, summary.md and regret.svg into ``out``."""
    groups: dict[Setting, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        case = record["case"]
        groups[case["problem"], case["examples"], case["batch"], case["method"]].append(record)
    rows = [_row(setting, runs) for setting, runs in sorted(groups.items())]
    rows.sort(key=lambda row: (row["problem"], row["examples"], row["batch"], row["mean_50"]))
    with (out / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (out / "summary.md").write_text(_markdown(rows))
    panels = []
    for examples in (0, 100):
        for batch in (1, 10):
            lines = {
                setting[3]: _medians(runs)
                for setting, runs in groups.items()
                if setting[:3] == ("chain", examples, batch)
            }
            if lines:
                scores = f"scores from {examples} examples" if examples else "exact scores"
                panels.append(Panel(f"{scores}, batches of {batch}", lines))
    if panels:
        (out / "regret.svg").write_text(draw(panels))


def _row(setting: Setting, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    problem, examples, batch, method = setting
    traces = [run["regret"] for run in runs]
    firsts = [_first(trace) for trace in traces]
    row: dict[str, Any] = {
        "problem": problem,
        "examples": examples,
        "batch": batch,
        "method": method,
        "runs": len(runs),
        # Of runs that never got there the median is not known, only that it is more than all
        # trials.
        "trials_to_1%": statistics.median_low(firsts),
        "ms_per_proposal": round(1000 * statistics.median(run["seconds"] for run in runs), 1),
    }
    for at in (20, 50):
        row[f"reached_by_{at}"] = round(sum(first <= at for first in firsts) / len(runs), 3)
        row[f"within_at_{at}"] = round(sum(t[at - 1] <= NEAR for t in traces) / len(runs), 3)
    for at in CHECKPOINTS:
        regrets = [trace[at - 1] for trace in traces]
        lower, middle, upper = _quartiles(regrets)
        row |= {
            f"mean_{at}": round(statistics.fmean(regrets), 5),
            f"q25_{at}": round(lower, 5),
            f"median_{at}": round(middle, 5),
            f"q75_{at}": round(upper, 5),
        }
    return row


def _first(trace: Sequence[float]) -> int:
    """The first trial after which the recommendation is within 1 % of the optimum; one more
    than all when none is.
    """
    return next((step for step, regret in enumerate(trace, 1) if regret <= NEAR), len(trace) + 1)


def _medians(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    return [
        statistics.median(column) for column in zip(*(run["regret"] for run in runs), strict=True)
    ]


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, middle, upper


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One table a problem, scores and batch size."""
    lines = [
        "Regret of the recommended allocation, in % of the optimum's noise-free score. "
        "*Trials*: median number after",
        "which it is within 1 %; *reached*: runs in which it was by 20 / by 50 trials; "
        "*stays*: runs in which it is at 20 / at 50.",
    ]
    last: tuple[Any, ...] = ()
    for row in rows:
        setting = (row["problem"], row["examples"], row["batch"])
        if setting != last:
            last = setting
            scores = (
                f"scores from {row['examples']} examples" if row["examples"] else "exact scores"
            )
            lines += [
                "",
                f"### {row['problem']}, {scores}, batches of {row['batch']}",
                "",
                "| method | runs | trials | reached | stays | mean at 20 | at 50 | median at "
                "20 (quartiles) | at 50 | ms a proposal |",
                "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
            ]
        trials = row["trials_to_1%"]
        lines.append(
            f"| {row['method']} | {row['runs']} | "
            f"{trials if trials <= CHECKPOINTS[-1] else '> 50'} "
            f"| {row['reached_by_20']:.0%} / {row['reached_by_50']:.0%} "
            f"| {row['within_at_20']:.0%} / {row['within_at_50']:.0%} "
            f"| {100 * row['mean_20']:.2f} | {100 * row['mean_50']:.2f} "
            f"| {_spread(row, 20)} | {_spread(row, 50)} | {row['ms_per_proposal']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _spread(row: Mapping[str, Any], at: int) -> str:
    middle, lower, upper = (100 * row[f"{what}_{at}"] for what in ("median", "q25", "q75"))
    return f"{middle:.2f} ({lower:.2f}–{upper:.2f})"
