"""Names of models with brackets and colons, which Rich would take for mark-up and emoji."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.scripted import small_spec

NAMES = {"weak": "we[/b]ak", "strong": "qwen[7b]:fire:"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> Path:
    """A spec whose models have such names."""
    path = small_spec(tmp_path_factory.mktemp("odd-names"), search__iterations=1)
    document = yaml.safe_load(path.read_text())
    document["models"] = {NAMES[name]: model for name, model in document["models"].items()}
    for stage in document["stages"].values():
        stage["models"] = list(NAMES.values())
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def test_every_command_shows_the_names_as_they_are(cli, spec, tmp_path):
    commands = [
        ("launch", spec, "--dry-run"),
        ("launch", spec, "--wait"),
        ("status", "small"),
        ("list",),
        ("report", "small"),
        ("logs", "small"),
        ("compare", "small", "small"),
        ("replay", tmp_path / "results/small/trials.parquet", "--space", spec, "--searcher", "random"),
        ("evaluate", spec, "--allocation", "retrieval=we[/b]ak x1, answer=qwen[7b]:fire: x1"),
    ]  # fmt: skip
    for command in commands:
        done = cli(*command, env={"COLUMNS": "200"})
        assert done.returncode == 0, (command, done.stderr)
        if command[0] != "logs":
            assert any(name in done.stdout for name in NAMES.values()), (command, done.stdout)
