"""The report as one self-contained HTML page, the answer first.

The page refers to nothing outside itself, and is readable on paper and in light and dark mode.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from agenttts.report.answer import answer, enough_grid
from agenttts.report.background import Provenance
from agenttts.report.comparable import comparison_warnings
from agenttts.report.contents import Grid, RunContents, comparison, run_contents
from agenttts.report.figures.choice import (
    insight_figures,
    pareto_figures,
    progress_figures,
    time_figures,
)
from agenttts.report.figures.drawing import svg
from agenttts.report.figures.style import Figure
from agenttts.report.page import page
from agenttts.report.story import iterations_grid, trials_grid
from agenttts.report.summary import Report, RunReport

# A table with more rows is folded. A text of a table that is not longer is kept on one line.
_MOST_OPEN_ROWS, _ONE_LINE = 40, 28
# With more runs than this, their own figures are left out, so that the page stays small.
_MOST_RUNS_WITH_FIGURES = 12


_DESCRIPTIONS = re.compile(r' (aria-label|aria-roledescription|aria-hidden|role)="[^"]*"')
_TAG = re.compile(r'<(?:[^>"]|"[^"]*")*>')
_LONG_NUMBERS = re.compile(r"-?\d+\.\d{3,}(e-?\d+)?")


def render_html(report: Report, *, with_figures: bool = True) -> str:
    """Return the page as text, with everything that comes from a run escaped."""
    titles = report.titles
    many = len(titles) > 1
    name = f"{len(titles)} runs" if many else titles[0]
    body = [f"<h1>{escape(name)}</h1>"]
    specs: dict[str, Mapping[str, Any]] = {}
    if many:
        links = "".join(f'<a href="#run{i}">{escape(t)}</a>' for i, t in enumerate(titles))
        body.append(f"<nav>{links}</nav>")
        body += [_warning(each) for each in comparison_warnings(report.runs, titles)]
        if len(titles) > _MOST_RUNS_WITH_FIGURES:
            body.append(
                f"<p>More than {_MOST_RUNS_WITH_FIGURES} runs: the figures of each run are in its "
                "own report ('agenttts-hpc report RUN --format html').</p>"
            )
        body.append(_grid(comparison(report)))
        if with_figures:
            common = [*progress_figures(report.runs, titles), *time_figures(report.runs, titles)]
            body.append(_figures(common, "all", specs))
    if not with_figures:
        body.append("<p>Figures: 'agenttts-hpc report RUN --format html'.</p>")
    for index, (run, title) in enumerate(zip(report.runs, titles, strict=True)):
        if many:
            body.append(f'<h2 id="run{index}">{escape(title)}</h2>')
        drawn = with_figures and len(titles) <= _MOST_RUNS_WITH_FIGURES
        body += _run(run, title, f"run{index}", specs, drawn)
    return page(name, "\n".join(body), specs)


def _run(
    run: RunReport,
    title: str,
    prefix: str,
    specs: dict[str, Mapping[str, Any]],
    with_figures: bool,
) -> Iterator[str]:
    contents = run_contents(run, title)

    def draw(figures: Sequence[Figure]) -> str:
        return _figures(figures, prefix, specs)

    yield f"<p>{escape(contents.lines[0])}</p>"
    sections = [
        (name, "".join(part for part in parts if part))
        for name, parts in _sections(run, contents, draw if with_figures else None)
    ]
    shown = [(number, *each) for number, each in enumerate(sections) if each[1]]
    links = (f'<a href="#{prefix}-{number}">{escape(name)}</a>' for number, name, _ in shown[1:])
    yield "".join(_warning(each) for each in run.warnings)
    for place, (number, name, text) in enumerate(shown):
        yield f'<section id="{prefix}-{number}"><h3>{escape(name)}</h3>{text}</section>'
        if place == 0:
            yield f"<nav>{''.join(links)}</nav>"


def _sections(
    run: RunReport,
    contents: RunContents,
    draw: Callable[[Sequence[Figure]], str] | None,
) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield names and parts of a run's sections; empty parts are not shown.

    ``draw`` returns figures as HTML; None leaves figures out.
    """

    def drawn(make: Callable[[], Sequence[Figure]]) -> str:
        return draw(make()) if draw else ""

    outlook = run.background.outlook
    yield (
        "Answer",
        [
            _answer(run),
            _grids(contents.after),
            _grid(contents.best),
        ],
    )
    yield (
        "Best score so far",
        [drawn(lambda: progress_figures([run], [contents.title])), _grid(contents.improvements)],
    )
    yield (
        "Score against cost",
        [drawn(lambda: pareto_figures(run)), _grids(contents.fronts)],
    )
    yield (
        "What models and samples bring",
        [
            drawn(lambda: insight_figures(run)),
            _grid(enough_grid(outlook)) if outlook else "",
            _guidelines(contents.guidelines),
        ],
    )
    lines = "".join(f"<p>{escape(line)}</p>" for line in contents.lines[1:])
    yield "The search", [lines, _grid(iterations_grid(run))]
    yield (
        "Cost",
        [drawn(lambda: time_figures([run], [contents.title])), _grids(contents.costs)],
    )
    yield "Failures", [_grid(contents.failures)]
    yield "All trials", [_grid(trials_grid(run), sortable=True)]
    yield "What it was made with", [_provenance(run)]


def _answer(run: RunReport) -> str:
    found = answer(run)
    if found is None:
        return ""
    unscored = f" ({escape(found.unscored)})" if found.unscored else ""
    facts = "".join(f"<dt>{escape(n)}</dt><dd>{escape(text)}</dd>" for n, text in found.facts)
    kind = "Recommended allocation" if run.recommended else "Allocation with the highest score"
    if run.best_finalist is not None:
        kind = "Best finalist"
    return (
        f'<div class="answer"><p>{kind}{unscored}</p>'
        f'<p class="found">{escape(found.allocation)}</p>'
        f"{_grid(found.stages)}<dl>{facts}</dl></div>"
    )


def _guidelines(guidelines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in guidelines)
    return f"<h4>Guidelines of the search</h4><ul>{items}</ul>" if items else ""


def _provenance(run: RunReport) -> str:
    made = run.background.provenance
    if made is None:
        return ""
    facts = {**made.facts, **{f"SHA-256 of {name}": d for name, d in made.examples.items()}}
    names = "".join(f"<dt>{escape(n)}</dt><dd>{escape(t)}</dd>" for n, t in facts.items())
    rows = tuple((*model[:3], _fingerprint(made, *model[::3])) for model in made.models)
    models = Grid("Models", ("model", "engine", "path", "fingerprint of its files"), rows)
    return (
        f'<dl class="facts">{names}</dl>{_grid(models)}'
        f"<h4>The command that repeats it</h4><p><code>{escape(made.command)}</code></p>"
    )


def _fingerprint(made: Provenance, model: str, weights: str) -> str:
    """Return the fingerprint of a model's files; of an older run, with its kind."""
    if model in made.contents:
        return made.contents[model]
    return f"{weights} (with the times of the files)" if weights else ""


def _figures(figures: Sequence[Figure], prefix: str, specs: dict[str, Mapping[str, Any]]) -> str:
    """Return figures with their captions, and add their specifications to ``specs``.

    Args:
        figures: The figures.
        prefix: What tells their elements apart from those of other runs on the page.
        specs: Specifications by the ids of the elements.
    """
    parts = []
    for number, each in enumerate(figures):
        name = f"{prefix}-{_id(each.name)}-{number}"
        specs[name] = each.spec
        parts.append(
            f'<figure id="{name}"><div class="drawn">{_inline(svg(each), name, each.title)}</div>'
            f'<div class="live"></div><figcaption>{escape(each.caption)}</figcaption></figure>'
        )
    return f'<div class="figures">{"".join(parts)}</div>' if parts else ""


def _id(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name)


def _inline(drawn: str, name: str, title: str) -> str:
    """Return an SVG document as an element of the page, small and with ids of its own."""
    head, rest = drawn[drawn.index("<svg") :].split(">", 1)
    head = re.sub(r' xmlns(:\w+)?="[^"]*"', "", head)
    head = head.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
    # What is between the tags is text to read: numbers of ticks, names of models.
    return f"{head}>" + _TAG.sub(lambda tag: _small_tag(tag[0], name), rest)


def _small_tag(tag: str, name: str) -> str:
    """Return a tag of a figure with short coordinates and an id of its own."""
    # The figure is described as a whole; a description of each point doubles its size.
    tag = _DESCRIPTIONS.sub("", tag)
    tag = _LONG_NUMBERS.sub(lambda found: f"{float(found[0]):.2f}", tag)
    return re.sub(r'(id="|url\(#)', rf"\g<1>{name}-", tag)


def _warning(text: str) -> str:
    return f'<p class="warning">{escape(text)}</p>'


def _grids(grids: Sequence[Grid]) -> str:
    """Return tables, beside each other where there is room."""
    if not grids:
        return ""
    return f'<div class="grids">{"".join(f"<div>{_grid(grid)}</div>" for grid in grids)}</div>'


def _grid(grid: Grid | None, *, sortable: bool = False) -> str:
    """Return a table; a long one is folded."""
    if grid is None:
        return ""
    head = "".join(_cell("th", name, name in grid.numbers) for name in grid.columns)
    keys = {(n, name): key for name, column in grid.keys.items() for n, key in enumerate(column)}
    rows = "".join(
        "<tr>"
        + "".join(
            _cell("td", text, name in grid.numbers, keys.get((number, name)))
            for name, text in zip(grid.columns, row, strict=True)
        )
        + "</tr>"
        for number, row in enumerate(grid.rows)
    )
    kind = ' class="sortable"' if sortable else ""
    table = (
        f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    if len(grid.rows) > _MOST_OPEN_ROWS:
        return f"<details><summary>{escape(grid.title)}</summary>{table}</details>"
    return (f"<h4>{escape(grid.title)}</h4>" if grid.title else "") + table


def _cell(tag: str, text: str, is_number: bool, key: float | None = None) -> str:
    kinds = [*(["number"] if is_number else []), *(["short"] if len(text) <= _ONE_LINE else [])]
    of = f' class="{" ".join(kinds)}"' if kinds else ""
    of += "" if key is None else f' data-sort="{key}"'
    return f"<{tag}{of}>{escape(text)}</{tag}>"
