"""Errors carry the place of a value in attributes: only the modules that read a spec write its key
paths into texts, and no error of a launch begins with one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from agenttts.spec import JobSpec
from agenttts.spec.field_types import models, options

PACKAGE = Path(__file__).parents[1] / "agenttts"
# They read the spec, write one, or check it as a whole.
BOUNDARY = {"spec", "init", "launch", "cli"}
# Its errors have their places in attributes too. Their advice may name other keys.
ONLY_ADVICE = {"launch"}
EXCEPTIONS = {
    "tables/cuts.py": "advice in a report, not an error about a value",
}


def section_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Regular expressions of the key paths in a section's sections."""
    for name, field in model.model_fields.items():
        for inner, step in sections(field.annotation):
            below = "|".join(inner.model_fields)
            yield rf"{prefix}{name}{step}\.(?:{below})\b"
            yield from section_paths(inner, rf"{prefix}{name}{step}\.")


def sections(annotation: Any) -> list[tuple[type[BaseModel], str]]:
    found = [(model, "") for model in models(annotation)]
    for option in options(annotation):
        if get_origin(option) is dict:
            # The name of a model or stage: written out, a replacement field, NAME or *.
            found += [(model, r"\.[\w{}*-]+") for model in models(get_args(option)[1])]
    return found


PATHS = list(section_paths(JobSpec))
WRITTEN = re.compile(r"(?<![\w.-])(?:" + "|".join(PATHS) + ")")
TOP = re.compile(rf"(?:{'|'.join(JobSpec.model_fields)})(?:\.[\w{{}}]+)*: ")


def texts(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Every text of a module that is not a docstring: line, text, and whether an error has it."""
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    raised = {
        id(argument)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and re.fullmatch(r"\w*Error|Unavailable|MissingRequirement|RunFailed", call.func.id)
        for argument in call.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [v.value if isinstance(v, ast.Constant) else "{}" for v in node.values]
            skipped |= {id(v) for v in node.values}
            yield node.lineno, "".join(map(str, parts)), id(node) in raised
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in skipped
        ):
            yield node.lineno, node.value, id(node) in raised


def written_paths(source: str) -> list[int]:
    """The lines of texts with a key path."""
    return [
        line
        for line, text, raised in texts(ast.parse(source))
        if WRITTEN.search(text) or (raised and TOP.match(text))
    ]


def begun_paths(source: str) -> list[int]:
    """The lines of errors whose text begins with a key path."""
    return [line for line, text, raised in texts(ast.parse(source)) if raised and TOP.match(text)]


def test_no_error_of_a_launch_begins_with_a_key_path():
    found = {
        str(path.relative_to(PACKAGE)): lines
        for folder in sorted(ONLY_ADVICE)
        for path in sorted((PACKAGE / folder).rglob("*.py"))
        if (lines := begun_paths(path.read_text(encoding="utf-8")))
    }
    assert not found


def test_an_error_that_begins_with_a_key_path_is_found():
    source = 'raise UserError(f"models.{name}.path: there is none; set task.data")\n'
    assert begun_paths(source) == [1]
    assert begun_paths('raise UserError("there is none; set task.data")\n') == []


def test_only_those_who_read_a_file_write_its_key_paths():
    found = {
        str(path.relative_to(PACKAGE)): lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in BOUNDARY
        and (lines := written_paths(path.read_text(encoding="utf-8")))
    }
    assert set(found) == set(EXCEPTIONS), found


@pytest.mark.parametrize(
    "text",
    [
        'raise UserError("task.data: no such file")',
        'raise UserError(f"x; set search.budget to {n}")',
        'raise Unavailable(f"models.{name}.options.{key}: wrong", fix="")',
        'fix = "set models.NAME.gpus"',
        'note = "give stages.answer.decode_tokens"',
        'note = "container.image is missing"',
        'raise UserError("agent: asks nobody")',
        'raise UserError(f"stages.{stage}: there is none")',
    ],
)
def test_a_path_that_is_written_by_hand_is_found(text):
    assert written_paths(f"def f(name, key, n, stage):\n    {text}\n") == [2]


@pytest.mark.parametrize(
    "text",
    [
        '"""Set task.data in the spec."""',
        'raise UserError("no such file", at=("task", "data"))',
        'file = "agent.jsonl"',
        'page = f"agent: {name}"',
        'from_module = "agenttts.tasks.chatdev.task:ChatDev"',
    ],
)
def test_other_texts_are_not(text):
    assert written_paths(f"def f(name):\n    {text}\n") == []
