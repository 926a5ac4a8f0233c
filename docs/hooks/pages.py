"""The pages of the site that are not files of docs/, sections of READMEs, and all links.

READMEs stay in their folders, where they are read beside the files that they are about. The site
shows them, so that each fact has one place. A paragraph ``See [NAME](README.md#section).`` of a page
is that section in the site, and the page of its README leaves the section out. Links are written for
the repository; in the site they become links between pages, or to a copy of the file that they name.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from docs.hooks import reference

ROOT = Path(__file__).parents[2]

INCLUDED = {
    "reference/job-specs.md": "jobs/README.md",
    "reference/cluster-profiles.md": "slurm/README.md",
    "reference/runs.md": "results/README.md",
    "reference/images.md": "containers/README.md",
    "design/architecture.md": "ARCHITECTURE.md",
    "design/contributing.md": "CONTRIBUTING.md",
    "design/changelog.md": "CHANGELOG.md",
    "design/searchers-compared.md": "benchmarks/search/README.md",
    "design/searchers-figures.md": "benchmarks/search/results/summary.md",
    "design/gpu-figures.md": "benchmarks/gpu/README.md",
    "design/cost-figures.md": "benchmarks/cost/README.md",
    "design/locks.md": "locks/README.md",
}
"""The file of the repository that a page of the site shows."""

_FILES = "files"
"""The folder of the site for copies of the repository's files that pages link to."""
_PLACES = {home: place for place, home in INCLUDED.items()} | {"README.md": "index.md"}
_LINK = re.compile(r"(?P<text>\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"^(?P<fence>```+)(?P<language>\w+) (?P<name>[\w./-]+)$", re.MULTILINE)
_SEE = re.compile(r"^See \[[^\]]+\]\((?P<target>[^)\s#]+#[^)\s]+)\)\.$", re.MULTILINE)
_HEADING = re.compile(r"^(?P<level>#+) (?P<text>.+)$")


def added_pages() -> dict[str, str]:
    """Return the text of each page that is not a file of docs/, by its place in the site."""
    return {place: _without_moved(home) for place, home in INCLUDED.items()} | reference.pages()


def place_of_file(name: str) -> str:
    """Return where the site has its copy of a file of the repository."""
    return f"{_FILES}/{name}"


def linked_files() -> set[str]:
    """Return the files of the repository, other than pages, that pages link to."""
    homes = [*INCLUDED.values(), *(f"docs/{name}" for name in _own_pages())]
    texts = [(home, _read(home)) for home in homes]
    texts += [(f"docs/{place}", text) for place, text in reference.pages().items()]
    found = {_linked(h, link["target"])[0] for h, text in texts for link in _LINK.finditer(text)}
    return {name for name in found if name and _place(name) == place_of_file(name)}


def fitted(text: str, place: str) -> str:
    """Return the text of the page at ``place`` with sections, links and titles of the site."""
    home = INCLUDED.get(place, f"docs/{place}")
    title = text.lstrip().partition("\n")[0].removeprefix("# ")
    parts = []
    end = 0
    for see in _SEE.finditer(text):
        parts.append(_moved_links(text[end : see.start()], home, place))
        name, anchor = _linked(home, see["target"])
        heading, body = sections(_read(name))[anchor.removeprefix("#")]
        whole = body if heading == title else f"## {heading}\n{body}"
        parts.append(_moved_links(whole.strip(), name, place))
        end = see.end()
    parts.append(_moved_links(text[end:], home, place))
    return _FENCE.sub(r'\g<fence>\g<language> title="\g<name>"', "".join(parts))


def sections(text: str) -> dict[str, tuple[str, str]]:
    """Return heading and text of each section of the second level, by its anchor."""
    found: dict[str, tuple[str, str]] = {}
    heading, lines = "", []
    for line, level in _with_levels(text):
        if level in (1, 2):
            if heading:
                found[anchor_of(heading)] = (heading, "\n".join(lines))
            heading, lines = line.lstrip("# ") if level == 2 else "", []
        else:
            lines.append(line)
    if heading:
        found[anchor_of(heading)] = (heading, "\n".join(lines))
    return found


def anchor_of(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _with_levels(text: str) -> Iterator[tuple[str, int]]:
    """Yield each line and the level of its heading; 0 for all others, also in code."""
    in_code = False
    for line in text.splitlines():
        in_code ^= line.startswith("```")
        heading = None if in_code else _HEADING.match(line)
        yield line, len(heading["level"]) if heading else 0


@cache
def _moved() -> Mapping[tuple[str, str], str]:
    """Return the places of sections that pages of docs/ show, by README and anchor."""
    found = {}
    for name in _own_pages():
        for see in _SEE.finditer(_read(f"docs/{name}")):
            file, anchor = _linked(f"docs/{name}", see["target"])
            found[file, anchor.removeprefix("#")] = name
    return found


def _without_moved(home: str) -> str:
    """Return a README without the sections that other pages show."""
    kept, shown = [], True
    for line, level in _with_levels(_read(home)):
        if level in (1, 2):
            shown = (home, anchor_of(line.lstrip("# "))) not in _moved()
        if shown:
            kept.append(line)
    return "\n".join(kept) + "\n"


def _moved_links(text: str, home: str, place: str) -> str:
    """Return a text with links of the site; ``home`` is the file that they are relative to."""

    def moved(link: re.Match[str]) -> str:
        name, anchor = _linked(home, link["target"])
        if not name:
            return link[0]
        to = _moved().get((name, anchor.removeprefix("#")), _place(name))
        if to == place and anchor:
            return f"{link['text']}({anchor})"
        return f"{link['text']}({posixpath.relpath(to, posixpath.dirname(place) or '.')}{anchor})"

    return _LINK.sub(moved, text)


def _linked(home: str, target: str) -> tuple[str, str]:
    """Return the file of the repository that a link leads to ("": none), and its anchor."""
    file, mark, anchor = target.partition("#")
    if ":" in file:
        return "", ""
    name = posixpath.normpath(posixpath.join(posixpath.dirname(home), file)) if file else home
    if (ROOT / name).is_dir():
        name = f"{name}/README.md"
    if name.startswith("docs/") and name.removeprefix("docs/") in reference.PLACES:
        return name, mark + anchor
    return (name, mark + anchor) if (ROOT / name).is_file() else ("", "")


def _place(name: str) -> str:
    if name in _PLACES:
        return _PLACES[name]
    return name.removeprefix("docs/") if name.startswith("docs/") else place_of_file(name)


@cache
def _own_pages() -> tuple[str, ...]:
    folder = ROOT / "docs"
    return tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.md")))


@cache
def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
