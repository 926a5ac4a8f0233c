"""Every figure of a report in files of its own: SVG, PNG and PDF."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from agenttts.errors import UserError
from agenttts.files.atomic import atomic_write_bytes
from agenttts.report.figures.choice import (
    insight_figures,
    pareto_figures,
    progress_figures,
    time_figures,
)
from agenttts.report.figures.drawing import pdf, png, svg
from agenttts.report.figures.style import Figure
from agenttts.report.summary import Report


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Write every figure of a report into a folder.

    The folder is made if it does not exist. Figures that compare several runs are in the folder
    itself, and each run's own figures in a folder of its name. Files of the same names are
    replaced.

    Returns:
        The files, three for each figure.

    Raises:
        UserError: A file cannot be written.
    """
    written: list[Path] = []
    try:
        for place, figure in _placed(report):
            (folder / place).mkdir(parents=True, exist_ok=True)
            stem = folder / place / _file_name(figure.name)
            for ending, content in (
                (".svg", svg(figure).encode()),
                (".png", png(figure)),
                (".pdf", pdf(figure)),
            ):
                path = stem.with_name(stem.name + ending)
                atomic_write_bytes(path, content)
                written.append(path)
    except OSError as error:
        raise UserError(
            f"{folder}: the figures cannot be written: {error.strerror or error}; "
            "name a folder that can be written to with --figures"
        ) from error
    return written


def _placed(report: Report) -> Iterator[tuple[str, Figure]]:
    """Yield each figure with its folder; the empty one is the main folder."""
    titles = report.titles
    many = len(titles) > 1
    if many:
        for figure in (*progress_figures(report.runs, titles), *time_figures(report.runs, titles)):
            yield "", figure
    used: set[str] = set()
    for run, title in zip(report.runs, titles, strict=True):
        place = ""
        if many:
            place = name = _file_name(run.run)
            number = 1
            while place in used:
                number += 1
                place = f"{name}-{number}"
            used.add(place)
        for figure in (
            *progress_figures([run], [title]),
            *pareto_figures(run),
            *insight_figures(run),
            *time_figures([run], [title]),
        ):
            yield place, figure


def _file_name(name: str) -> str:
    """Return a name without characters that files cannot have everywhere."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "figure"
