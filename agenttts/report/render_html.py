"""The report as one self-contained HTML page.

The page has no script and no external resource, and is readable in light and dark mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

from agenttts.report.contents import Grid, comparison, run_contents, run_titles
from agenttts.report.figures.choice import common_figures, run_figures
from agenttts.report.figures.drawing import svg
from agenttts.report.figures.style import Figure
from agenttts.report.summary import Report, RunReport


def render_html(report: Report) -> str:
    """Return the page as text, with everything that comes from a run escaped."""
    titles = run_titles(report)
    name = titles[0] if len(titles) == 1 else f"{len(titles)} runs"
    body = [f"<h1>{escape(name)}</h1>"]
    if len(report.runs) > 1:
        body.append(_grid(comparison(report)))
        body.append(_figures(common_figures(report.runs, titles), "all"))
    for index, (run, title) in enumerate(zip(report.runs, titles, strict=True)):
        body.extend(_run(run, title, f"run{index}", heading=len(report.runs) > 1))
    return _PAGE.format(title=escape(name), style=_STYLE, body="\n".join(body))


def _run(run: RunReport, title: str, prefix: str, *, heading: bool) -> Iterator[str]:
    contents = run_contents(run, title)
    if heading:
        yield f"<h2>{escape(title)}</h2>"
    yield "".join(f"<p>{escape(line)}</p>" for line in contents.lines)
    if contents.best:
        yield _grid(contents.best)
    for grid in contents.after:
        yield _grid(grid)
    yield _figures(run_figures(run, title), prefix)
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


def _figures(figures: Sequence[Figure], prefix: str) -> str:
    """Return figures with their captions.

    Args:
        figures: The figures.
        prefix: What tells their elements apart from those of other runs on the page.
    """
    drawn = "".join(
        f"<figure>{_inline(svg(each), f'{prefix}-{each.name}', each.title)}"
        f"<figcaption>{escape(each.caption)}</figcaption></figure>"
        for each in figures
    )
    return f'<div class="figures">{drawn}</div>' if drawn else ""


def _inline(drawn: str, name: str, title: str) -> str:
    """Return an SVG document as an element of the page, with ids of its own."""
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawn)
    drawn = re.sub(r'(id="|url\(#)', rf"\g<1>{name}-", drawn)
    return drawn.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


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
:root { color-scheme: light dark; --text: #1c2024; --soft: #60646c; --line: #d9dce1; --page: #ffffff; --band: #f4f5f7; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --soft: #a0a6ae; --line: #3a3f45; --page: #16181b;
  --band: #1e2125; } }
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
figcaption { color: var(--soft); font-size: .85rem; text-align: center; }
figure > svg { width: 100%; height: auto; display: block; background: #fff; border-radius: 6px; }
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
