"""The published schemas are those of the models, and what commands print keeps to them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import ValidationError

from agenttts.tables.documents import ChoiceDocument, printed

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"


def _writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_schemas", FOLDER / "write.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRITER = _writer()


def test_every_schema_is_there_and_none_is_left_over():
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(WRITER.SCHEMAS)
    page = (FOLDER / "README.md").read_text()
    assert all(f"`{name}.json`" in page for name in WRITER.SCHEMAS)


@pytest.mark.parametrize("name", WRITER.SCHEMAS)
def test_a_schema_is_what_its_model_says(name):
    assert (FOLDER / f"{name}.json").read_text() == WRITER.schema(name), "run 'make schemas'"


def test_they_are_written_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(WRITER, "FOLDER", tmp_path)
    WRITER.main()
    for path in FOLDER.glob("*.json"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_what_commands_print_keeps_to_them(cli, scripted_spec):
    spec = scripted_spec(search__iterations=1)
    commands = {
        "plan": ("launch", spec, "--dry-run", "--json"),
        "launch": ("launch", spec, "--wait", "--json"),
        "status": ("status", "small", "--json"),
        "resume": ("resume", "small", "--retry-failed", "--json"),
        "report": ("report", "small", "--format", "json"),
    }
    for name, command in commands.items():
        done = cli(*command)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert WRITER.SCHEMAS[name].model_validate(document).model_dump(mode="json", exclude_unset=True) == document  # fmt: skip


def test_what_no_schema_promises_is_not_printed():
    choice = {"stage": "answer", "model": "m", "samples": 3}
    assert printed(ChoiceDocument, choice) == choice
    for wrong in ({**choice, "more": 1}, {**choice, "samples": "many"}, {"stage": "answer"}):
        with pytest.raises(ValidationError):
            printed(ChoiceDocument, wrong)
