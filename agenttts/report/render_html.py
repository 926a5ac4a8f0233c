"""The report as one self-contained HTML page.

The page has no script and no external resource, and is readable in light and dark mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import polars as pl

from agenttts.report.contents import (
    COST_TITLES,
    Grid,
    comparison,
    run_contents,
    run_titles,
    trial_text,
)
from agenttts.report.figures import SERIES_COLOURS, Point, scatter_figure, trace_figure
from agenttts.report.summary import Report, RunReport
from agenttts.tables.aggregate import scored


def render_html(report: Report) -> str:
    """Return the page as text, with everything that comes from a run escaped."""
    titles = run_titles(report)
    name = titles[0] if len(titles) == 1 else f"{len(titles)} runs"
    body = [f"<h1>{escape(name)}</h1>"]
    if len(report.runs) > 1:
        body.append(_grid(comparison(report)))
        body.append(_traces(report.runs, titles))
    for run, title in zip(report.runs, titles, strict=True):
        body.extend(_run(run, title, heading=len(report.runs) > 1))
    return _PAGE.format(title=escape(name), style=_STYLE, body="\n".join(body))


def _run(run: RunReport, title: str, *, heading: bool) -> Iterator[str]:
    contents = run_contents(run, title)
    if heading:
        yield f"<h2>{escape(title)}</h2>"
    yield "".join(f"<p>{escape(line)}</p>" for line in contents.lines)
    if contents.best:
        yield _grid(contents.best)
    for grid in contents.after:
        yield _grid(grid)
    figures = [_traces([run], [title]), _scatter(run, title)]
    yield '<div class="figures">' + "".join(figures) + "</div>"
    if contents.improvements:
        yield _grid(contents.improvements)
    for front in contents.fronts:
        yield _grid(front)
    for grid in contents.costs:
        yield _grid(grid)
    if contents.failures:
        yield _grid(contents.failures)
    if contents.guidelines:
        items = "".join(f"<li>{escape(text)}</li>" for text in contents.guidelines)
        yield f"<h3>guidelines</h3><ul>{items}</ul>"


def _traces(runs: Sequence[RunReport], titles: Sequence[str]) -> str:
    series = []
    for run in runs:
        # Scores and tooltips in the order of the trace.
        rows = run.trace.join(run.trials.select("trial", "allocation"), on="trial", how="left")
        rows = rows.sort("step")
        dots = [Point(r["step"], r["score"], trial_text(r)) for r in rows.iter_rows(named=True)]
        series.append((dots, rows["best_so_far"].to_list()))
    svg = trace_figure(series, "best score so far by trials finished")
    legend = ""
    if len(runs) > 1:
        keys = [
            f'<span><i class="key s{index % SERIES_COLOURS}"></i>{escape(title)}</span>'
            for index, title in enumerate(titles)
        ]
        legend = f'<div class="legend">{"".join(keys)}</div>'
    return _captioned(svg, "best score so far (line) and every trial's score (dots)", legend)


def _scatter(run: RunReport, title: str) -> str:
    rows = scored(run.trials).filter(pl.col("budget").is_not_null())
    points = [Point(r["budget"], r["score"], trial_text(r)) for r in rows.iter_rows(named=True)]
    front = list(run.pareto["budget"].select("budget", "score").iter_rows())
    svg = scatter_figure(points, front, COST_TITLES["budget"], f"score against budget of {title}")
    return _captioned(svg, "score against budget; the line is the Pareto front")


def _captioned(svg: str, caption: str, legend: str = "") -> str:
    if not svg:
        return ""
    return f"<figure>{svg}{legend}<figcaption>{escape(caption)}</figcaption></figure>"


def _grid(grid: Grid) -> str:
    kinds = [' class="number"' if name in grid.numbers else "" for name in grid.columns]
    head = "".join(f"<th{k}>{escape(c)}</th>" for k, c in zip(kinds, grid.columns, strict=True))
    rows = "".join(
        "<tr>"
        + "".join(f"<td{k}>{escape(cell)}</td>" for k, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in grid.rows
    )
    return (
        f"<h3>{escape(grid.title)}</h3>"
        "<div "
        f'class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


_STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #60646c; --line: #d9dce1; --page: #ffffff; --band: #f4f5f7;
  --c0: #1f6fd0; --c1: #d2691e; --c2: #2a9355; --c3: #a845b8; --c4: #b88a00; --c5: #c6364a; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --soft: #a0a6ae; --line: #3a3f45; --page: #16181b;
  --band: #1e2125; --c0: #6cb0ff; --c1: #f2a065; --c2: #62cc8c; --c3: #d58be2; --c4: #e2be4a; --c5: #f37f8e; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 1180px; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; border-top: 1px solid var(--line); padding-top: 1.25rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p { margin: .15rem 0; color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem .9rem .25rem .5rem; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; white-space: nowrap; }
td { overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; }
tbody tr:hover { background: var(--band); }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 1rem 0 0; flex: 1 1 420px; max-width: 640px; }
figcaption, .legend { color: var(--soft); font-size: .85rem; text-align: center; }
.legend span { margin: 0 .6rem; white-space: nowrap; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .35em; background: var(--c); }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 12px; }
svg .axis { fill: var(--text); }
svg .grid { stroke: var(--line); }
svg .line { fill: none; stroke: var(--c); stroke-width: 2; }
svg .dot { fill: var(--c); }
svg .faint { fill-opacity: .45; }
.rest { --c: var(--soft); } .s0 { --c: var(--c0); } .s1 { --c: var(--c1); } .s2 { --c: var(--c2); }
.s3 { --c: var(--c3); } .s4 { --c: var(--c4); } .s5 { --c: var(--c5); }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - agenttts-hpc report</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
