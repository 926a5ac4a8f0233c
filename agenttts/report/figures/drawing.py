"""Figures as SVG, PNG and PDF, drawn by vl-convert without a browser or a network."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

import altair as alt
import vl_convert

from agenttts.files.atomic import atomic_write_bytes
from agenttts.report.figures.style import Figure

# vl-convert bundles several versions of Vega-Lite; Altair says for which one it writes.
_VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
_GLOBAL = "window.vegaEmbed = vegaEmbed;"
_NO_ADDRESSES: list[str] = []
# Pixels of a PNG a pixel of the figure: about 200 dots an inch at the width of a page.
_PNG_SCALE = 3.0


def svg(figure: Figure) -> str:
    """Return a figure as an SVG document."""
    drawn: str = vl_convert.vegalite_to_svg(
        figure.spec, vl_version=_VERSION, allowed_base_urls=_NO_ADDRESSES
    )
    return drawn


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG image."""
    drawn: bytes = vl_convert.vegalite_to_png(
        figure.spec, vl_version=_VERSION, scale=_PNG_SCALE, allowed_base_urls=_NO_ADDRESSES
    )
    return drawn


def pdf(figure: Figure) -> bytes:
    """Return a figure as a PDF document of one page."""
    drawn: bytes = vl_convert.vegalite_to_pdf(
        figure.spec, vl_version=_VERSION, allowed_base_urls=_NO_ADDRESSES
    )
    return drawn


@cache
def library() -> str:
    """Return the JavaScript that draws figures in a browser, with all that it needs.

    Bundling it takes two seconds, so it is kept in the user's cache directory.
    """
    name = f"vega-embed-{version('vl-convert-python')}-{_VERSION}.js"
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    kept = Path(base, "agenttts-hpc", name)
    with suppress(OSError, UnicodeDecodeError):  # not kept yet, or not readable: it is made anew
        return kept.read_text(encoding="utf-8")
    bundle: str = vl_convert.javascript_bundle(_GLOBAL, vl_version=_VERSION)
    # Without a home that can be written to, it is made each time.
    with suppress(OSError):
        if not kept.is_absolute():  # there is no home
            return bundle
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(kept, bundle.encode())
    return bundle
