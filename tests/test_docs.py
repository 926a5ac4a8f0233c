"""The documentation is true: links lead somewhere, options exist, examples load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from agenttts.cli.app import app
from agenttts.dispatch.profile import ContainerDefaults, ControllerResources, Profile
from agenttts.errors import UserError
from agenttts.spec import JobSpec, load_spec, load_strict, parse_spec
from agenttts.spec.model import ContainerSection, SearchSection
from docs.hooks import reference
from tests.support.documentation import PAGES, ROOT, blocks, codes, console

# Pages that the site makes when it is built have no file (tests/docs/test_site.py).
MADE = {ROOT / "docs" / place for place in reference.PLACES}
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMANDS = typer.main.get_command(app).commands


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def broken_links(page: Path) -> list[str]:
    """The links of a page that lead to no file, or to no heading of it; those to other places
    are not followed.
    """
    broken = []
    for target in LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        if linked in MADE:
            continue
        if not linked.exists() or (anchor and anchor not in headings(linked)):
            broken.append(f"{page.relative_to(ROOT)}: {target}")
    return broken


def missing_files(page: Path) -> list[str]:
    """The files that a page names and that are not there."""
    named = re.findall(
        r"(?<![\w/])(?:jobs|slurm|containers|locks|benchmarks)/[\w./-]*\w", page.read_text()
    )
    return [
        f"{page.relative_to(ROOT)} names {name}"
        for name in named
        if not re.search(r"(mine|mycluster|NAME|my-\w+)\b", name) and not (ROOT / name).exists()
    ]


def test_links_lead_somewhere():
    assert ROOT / "README.md" in PAGES
    assert [found for page in PAGES for found in broken_links(page)] == []


def test_files_named_in_code_exist():
    """`jobs/x.yaml`, `slurm/x.sh`, `containers/x` and the like are there (mine and mycluster
    are the reader's).
    """
    assert [found for page in PAGES for found in missing_files(page)] == []


def test_broken_links_and_missing_files_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    page = tmp_path / "a.md"
    page.write_text(
        "# A heading\n[1](#a-heading) [2](#another) [3](b.md) [4](a.md#a-heading) [5](https://x.y)\n"
        "jobs/none.yaml jobs/mine.yaml\n"
    )
    assert broken_links(page) == ["a.md: #another", "a.md: b.md"]
    assert missing_files(page) == ["a.md names jobs/none.yaml"]


def options(command: str) -> set[str]:
    place = COMMANDS
    for part in command.split():
        found = place[part]
        place = getattr(found, "commands", {})
    return {option for parameter in found.params for option in parameter.opts}


def table_commands() -> list[tuple[str, str]]:
    """(command, what is written behind it) for each command in README's table."""
    rows = re.findall(r"^\| (`.+?) \|(?! *does)", (ROOT / "README.md").read_text(), re.MULTILINE)
    cells = [cell.replace("\\|", "/") for row in rows for cell in re.findall(r"`([^`]+)`", row)]
    found = []
    for cell in cells:
        words = cell.split()
        count = 2 if words[0] == "image" else 1
        found.append((" ".join(words[:count]), " ".join(words[count:])))
    return found


def test_every_command_is_in_the_readme_and_every_one_there_exists():
    listed = {command.split()[0] for command, _ in table_commands()}
    assert listed == set(COMMANDS)


def test_every_option_in_the_readme_exists():
    wrong = {
        command: set(re.findall(r"--[a-z-]+", arguments)) - options(command)
        for command, arguments in table_commands()
    }
    assert {command: names for command, names in wrong.items() if names} == {}


COMMAND_LINE = re.compile(r"agenttts-hpc ((?:image )?[a-z]+)([^\n`'\"|─]*)")


def wrong_command_lines(page: Path) -> list[str]:
    """The command lines of a page with options that their command does not have."""
    return [
        f"{page.relative_to(ROOT)}: agenttts-hpc {command}{arguments}"
        for command, arguments in COMMAND_LINE.findall(page.read_text())
        if command.split()[0] in COMMANDS
        and set(re.findall(r"--[a-z-]+", arguments)) - options(command) - {"--help", "--debug"}
    ]


def test_command_lines_in_the_documentation_are_valid():
    assert [found for page in PAGES for found in wrong_command_lines(page)] == []


def test_wrong_command_lines_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    page = tmp_path / "a.md"
    page.write_text("agenttts-hpc launch x --wait\nagenttts-hpc launch x --wiat\n")
    assert wrong_command_lines(page) == ["a.md: agenttts-hpc launch x --wiat"]


JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
EXAMPLES = sorted((ROOT / "slurm" / "examples").glob("*.yaml"))
PROFILES = [*sorted((ROOT / "slurm").glob("*.yaml")), *EXAMPLES]


@pytest.mark.parametrize("path", JOBS, ids=names(JOBS))
def test_every_job_loads(path):
    spec = load_spec(path)
    assert spec.space().least_budget <= spec.search.budget
    assert spec.cluster == "local" or (ROOT / "slurm" / f"{spec.cluster}.yaml").exists()


@pytest.mark.parametrize("path", PROFILES, ids=names(PROFILES))
def test_every_profile_loads(path):
    profile = load_strict(Profile, path.read_text(), str(path))
    assert profile.kind in ("local", "slurm")


@pytest.mark.parametrize("path", EXAMPLES, ids=names(EXAMPLES))
def test_an_example_of_a_public_cluster_names_its_source_and_says_that_it_was_not_tried(path):
    head = path.read_text().partition("\nkind:")[0]
    assert re.search(r"as of \w+ 20\d\d, and NOT TRIED", head)
    assert "https://" in head
    assert f"slurm/{path.name}" in head
    assert path.name in (ROOT / "slurm" / "README.md").read_text()


def test_the_template_shows_every_key_of_a_profile():
    text = (ROOT / "slurm" / "template.yaml").read_text()
    keys = set(re.findall(r"^(?:  )?(?:# )?([a-z_]+):", text, re.MULTILINE))
    # What is not written into a profile is an old name of another key.
    shown = {name for name, field in Profile.model_fields.items() if not field.exclude}
    assert shown <= keys


def test_the_template_shows_every_key_of_each_section():
    """Resources are shown in either of the two kinds of jobs."""
    text = (ROOT / "slurm" / "template.yaml").read_text()
    parts = dict(re.findall(r"^(\w+):[^\n]*\n((?:  .*\n)+)", text, re.MULTILINE))
    keys = {name: set(re.findall(r"^  (?:# )?(\w+):", part, re.MULTILINE)) for name, part in parts.items()}  # fmt: skip
    assert {*ContainerDefaults.model_fields} == keys["container"]
    assert {*ControllerResources.model_fields} == keys["controller"] | keys["trial"]


def yaml_blocks(page: Path) -> list[str]:
    return blocks(page, "yaml")


# The tutorial's files are checked by running them; a README about a task's script is about no spec.
WITH_YAML = [
    (page, block)
    for page in PAGES
    if page.name not in ("own-task.md", "CONTRIBUTING.md")
    for block in yaml_blocks(page)
]
FIRST_EXAMPLE = yaml_blocks(ROOT / "jobs" / "README.md")[0]


def load_part(given: dict[str, Any], page: Path) -> None:
    """Load a spec or a profile, or a part of one put into an example that has every key."""
    container = given.get("container") or {}
    if not {*given} <= {*JobSpec.model_fields} or not {*container} <= {
        *ContainerSection.model_fields
    }:
        template = yaml.safe_load((ROOT / "slurm" / "template.yaml").read_text())
        whole = given if "kind" in given else merged(template, given)
        load_strict(Profile, yaml.safe_dump(whole), str(page))
        return
    if "name" not in given:
        given = merged(yaml.safe_load(FIRST_EXAMPLE), given)
    parse_spec(yaml.safe_dump(given), str(page), page.parent)


def merged(whole: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """A mapping with the keys of another one; a section of a spec stands for the whole section."""
    sections = {"search", "task", "controller", "trial"}
    return whole | {
        key: whole[key] | value if key in sections and isinstance(whole.get(key), dict) else value
        for key, value in part.items()
    }


@pytest.mark.parametrize(("page", "block"), WITH_YAML, ids=lambda x: getattr(x, "name", ""))
def test_examples_load(page, block):
    """A whole spec or profile as it stands; a part of one put into an example."""
    load_part(yaml.safe_load(block), page)


def key_values(page: Path) -> list[tuple[str, dict[str, Any]]]:
    """The codes of a page such as `search.stop: {within: 0.02}`, and what they say.

    The first key is one of a spec, of its section ``search`` or of a profile. Values that stand
    for the reader's own (NAME, DIR) are texts like any other.
    """
    found = []
    for code in codes(page):
        path, colon, _ = code.partition(": ")
        keys = path.split(".")
        if not colon or not re.fullmatch(r"[a-z_.]+", path) or "…" in code:
            continue
        value = yaml.safe_load(code)[path]
        if keys[0] in SearchSection.model_fields and keys[0] not in JobSpec.model_fields:
            keys = ["search", *keys]
        if keys[0] in (*JobSpec.model_fields, *Profile.model_fields):
            for key in reversed(keys):
                value = {key: value}
            found.append((code, value))
    return found


INLINE = [(page, *each) for page in PAGES if ROOT / "docs" in page.parents for each in key_values(page)]  # fmt: skip


@pytest.mark.parametrize(("page", "code", "given"), INLINE, ids=lambda x: x if isinstance(x, str) else "")  # fmt: skip
def test_keys_within_lines_load(page, code, given):
    load_part(given, page)


def test_keys_within_lines_are_found(tmp_path):
    page = tmp_path / "a.md"
    page.write_text("`stop: {within: 2}` and `trial: {gpus: 4}`, `python: x`, `search.seed: 1`\n")
    found = dict(key_values(page))
    assert [*found] == ["stop: {within: 2}", "trial: {gpus: 4}", "search.seed: 1"]
    load_part(found.pop("search.seed: 1"), page)
    for wrong in found.values():
        with pytest.raises(UserError):
            load_part(wrong, page)


def test_the_first_example_shows_every_key_of_a_spec():
    keys = yaml.safe_load(yaml_blocks(ROOT / "jobs" / "README.md")[0])
    assert set(JobSpec.model_fields) - set(keys) <= {"agent"}


def test_make_help_lists_the_commands_that_pages_show():
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = [code.split() for page in PAGES for code in codes(page)]
    shown += [line.split() for page in PAGES for line in "".join(blocks(page, "")).splitlines()]
    shown += [words for page in PAGES for words in console(page)]
    used = {words[1] for words in shown if words[:1] == ["make"] and len(words) > 1}
    assert used >= {"demo", "test", "docs", "check"}
    assert used <= targets
