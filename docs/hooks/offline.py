"""What built pages would ask the network for: nothing, so that they open on a login node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# Links that a reader follows (<a href>) ask for nothing by themselves.
_TAG = re.compile(r"<(?P<tag>link|script|img|iframe|source|video|audio|object|embed)\b[^>]*>", re.I)
_ADDRESS = re.compile(
    r"(?:src|href|srcset|data|poster)\s*=\s*[\"']?\s*((?:https?:)?//[^\s\"'>]+)", re.I
)
_STYLE = re.compile(r"(?:url\(|@import)\s*[\"']?\s*((?:https?:)?//[^\s\"')]+)", re.I)


def asked_of_the_network(site: Path) -> list[str]:
    """Return ``page: address`` for everything that opening a page of a site would ask for."""
    return [
        f"{path.relative_to(site)}: {address}"
        for path in sorted(site.rglob("*"))
        if path.suffix in (".html", ".css", ".svg")
        for address in _addresses(path.read_text(encoding="utf-8"))
    ]


def _addresses(text: str) -> Iterator[str]:
    for tag in _TAG.finditer(text):
        yield from _ADDRESS.findall(tag[0])
    yield from _STYLE.findall(text)
