"""The site's hooks: links, sections, pages made from the code, and pages without a network.

`make docs` builds the site, and fails at a link that leads nowhere.
"""

from __future__ import annotations

import re
from functools import cache

import pytest
import yaml

from agenttts.dispatch.profile import Profile
from agenttts.inference.engines import ENGINES
from agenttts.search import SEARCHERS
from agenttts.spec import JobSpec
from agenttts.spec.section import Options
from agenttts.tasks import create, task_names
from agenttts.tasks.declarative.document import Document
from docs.hooks import offline, pages, reference, sections
from tests.support.documentation import ROOT


@cache
def made() -> dict[str, str]:
    """The pages made from the code: a second of CPU time, which is not for every worker's import."""
    return reference.pages()


def test_every_page_is_in_the_navigation_once():
    text = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    listed = re.findall(r"([\w/-]+\.md)", text)
    own = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(listed) == sorted(own | {*made()} | {*pages.INCLUDED})


def test_the_build_is_strict_of_all_links():
    text = (ROOT / "mkdocs.yml").read_text().partition("validation:")[2].partition("nav:\n")[0]
    assert {*yaml.safe_load(text)["links"].values()} == {"warn"}
    assert "mkdocs build --strict" in (ROOT / "Makefile").read_text()


KINDS = [kind for model in (JobSpec, Profile, Document) for _, kind in sections.sections(model)]
OPTIONS = [
    *(kind.options_model for kind in SEARCHERS.values()),
    *(model for name in task_names() if (model := create(name).options_model)),
    *(e.options for e in ENGINES.values() if isinstance(e.options, type)),
]


@pytest.mark.parametrize("kind", dict.fromkeys([*KINDS, *OPTIONS]), ids=lambda kind: kind.__name__)
def test_every_key_says_what_it_is(kind):
    keys = sections.keys(kind)
    assert keys or kind is Options
    assert [key.name for key in keys if not key.description] == []


def test_every_command_and_option_is_in_its_page():
    text = made()["reference/commands.md"]
    for command in ("launch", "compare", "image build"):
        assert f"\n## {command}\n\n```\nagenttts-hpc {command} " in text
    assert (
        "| `--format table\\|json\\|csv\\|parquet\\|html` |  | The format. Default: by the ending of --out;"
        in text
    )
    assert "| `RUN` | required |" in text
    assert "| 3 | The machine lacks" in text


def test_keys_have_paths_bounds_and_defaults():
    text = made()["reference/spec-keys.md"]
    assert "\n## stages.NAME\n" in text
    assert "\n## agent (kind: serve)\n" in text
    assert "| `examples` | whole number at least 1 | unset |" in text
    assert "| `retry_pauses` | list (number at least 0) | `[0.0, 30.0, 120.0, 600.0]` |" in made()["reference/profile-keys.md"]  # fmt: skip
    assert "None" not in re.sub(r"`[^`]*`", "", text)


def test_all_methods_tasks_engines_and_columns_are_in_their_pages():
    for page, names in {
        "searchers": SEARCHERS, "tasks": task_names(), "engines": ENGINES,
    }.items():  # fmt: skip
        assert all(f"\n## {name}\n" in made()[f"reference/{page}.md"] for name in names)
    assert (
        "| `score_stderr` | number | Standard error of the score" in made()["reference/tables.md"]
    )


def test_a_readme_is_shown_once_in_parts():
    """A section that a page of docs/ shows is left out of the README's own page."""
    shown = pages.fitted("# Cost\n\nSee [Where](../../results/README.md#where-the-time-went).\n", "how-to/cost.md")  # fmt: skip
    assert "## Where the time went\n" in shown
    assert "| `queue` |" in shown
    rest = pages.added_pages()["reference/runs.md"]
    assert "## Where the time went" not in rest
    assert "trials.parquet" in rest


def test_links_become_those_of_the_site():
    fitted = pages.fitted(
        "[a](../results/README.md#where-the-time-went) [b](../jobs/README.md#methods) [c](../jobs/demo.yaml)\n"
        "[d](concepts.md) [e](https://x.y) [f](#here) [g](../results/README.md)\n```yaml own.yaml\n",
        "quick-start.md",
    )
    assert re.findall(r"\]\(([^)]+)\)", fitted) == [
        "how-to/cost.md#where-the-time-went", "reference/job-specs.md#methods", "files/jobs/demo.yaml",
        "concepts.md", "https://x.y", "#here", "reference/runs.md",
    ]  # fmt: skip
    assert '```yaml title="own.yaml"' in fitted
    assert "jobs/demo.yaml" in pages.linked_files()


def test_what_a_page_asks_the_network_for_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        "<a href='https://a.b'>x</a><img src=\"https://c.d/e.png\"><script src=/own.js></script>"
        "<link rel=stylesheet href='//f.g/h.css'>"
    )
    (tmp_path / "b.css").write_text(
        "p {background: url('https://i.j/k.png')} @import 'http://l.m';"
    )
    (tmp_path / "c.svg").write_text('<style>@font-face {src: url("https://n.o")}</style>')
    assert offline.asked_of_the_network(tmp_path) == [
        "a.html: https://c.d/e.png", "a.html: //f.g/h.css",
        "b.css: https://i.j/k.png", "b.css: http://l.m", "c.svg: https://n.o",
    ]  # fmt: skip
