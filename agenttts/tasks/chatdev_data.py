"""The data sets of software development: SRDD's file, records a line or a hub's, and a small built-in one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from agenttts.errors import UserError, nearest_name, valid_names
from agenttts.tasks.base import Example
from agenttts.tasks.hub import hub_id
from agenttts.tasks.records import Record, line_of_item, parse_json, read_text
from agenttts.tasks.source import DATA_FOLDER, SPLITS, data_file, example_id, read_data, take_split

BUILT_IN = {"small_programs": DATA_FOLDER / "small_programs.json"}
DEFAULT_DATA = "builtin:small_programs"


def load_requirements(
    data: str,
    *,
    split: str = "search",
    examples: int | None = None,
    search_examples: int | None = None,
    hub_split: str = "",
    seed: int = 0,
) -> list[Example]:
    """The examples of a split of ``data``; splits are as in `agenttts.tasks.source.take_split`.

    An example's data are ``name`` and ``requirement``. A ``.json`` file is SRDD's ``{"names": [..], "tasks": [..]}`` or
    a list of ``{"name", "task"}``; a ``.jsonl`` file holds such records, as does a hub's data set (or SRDD's two lists).

    Raises `UserError` for data that are missing, malformed or too few, naming file and line, and what `read_hub` raises.
    """
    data = data or DEFAULT_DATA
    columns = None if hub_id(data) is not None else _columns(data_file(data, BUILT_IN), split)
    if columns is None:
        records = read_data(data, BUILT_IN, split=split, hub_split=hub_split)
        pairs = [pair for number, record in enumerate(records) for pair in _pairs(record, number)]
    else:
        pairs = columns
    return take_split(
        _examples(pairs),
        split=split,
        examples=examples,
        search_examples=search_examples,
        seed=seed,
        data=data,
    )


def _pairs(record: Record, number: int) -> list[tuple[str, str]]:
    """(name, task) of a record; of one that is SRDD's whole file, as a hub hands it on, all of them."""
    if "tasks" not in record.values or "task" in record.values:
        return [(example_id(record, number, ("name",)), record.text("task"))]
    names, requirements = record.texts("names"), record.texts("tasks")
    if len(names) != len(requirements):
        raise record.error("names", f"must have as many texts as 'tasks', {len(requirements)}")
    return list(zip(names, requirements, strict=True))


def _examples(pairs: list[tuple[str, str]]) -> list[Example]:
    """Names are ids where they differ; equal ones are numbered."""
    counts = Counter(name for name, _ in pairs)
    return [
        Example(
            id=name if counts[name] == 1 else f"{name}#{position}",
            data={"name": name, "requirement": " ".join(task.split())},
        )
        for position, (name, task) in enumerate(pairs)
    ]


def _columns(path: Path, split: str) -> list[tuple[str, str]] | None:
    """(name, task) pairs of a file of SRDD's own shape; None when it is of another, or not there."""
    if not path.name.removesuffix(".gz").endswith(".json") or not path.is_file():
        return None
    text = read_text(path)
    if not text.lstrip().startswith("{"):
        return None
    if split not in SPLITS:
        raise UserError(f"task.split: unknown split '{split}'; {valid_names(split, SPLITS)}")
    return _read_columns(path, text)


def _read_columns(path: Path, text: str) -> list[tuple[str, str]]:
    """SRDD's own shape: two lists of one length."""
    content: dict[str, Any] = parse_json(path, text)
    columns = []
    for key in ("names", "tasks"):
        if key not in content:
            near = nearest_name(key, content)
            hint = f"; is '{near}' meant to be it?" if near else ""
            raise UserError(
                f'{path}: key \'{key}\' is missing{hint}; valid: {{"names": [..], "tasks": [..]}}'
            )
        if not isinstance(content[key], list) or not content[key]:
            raise UserError(
                f"{path}:{_line(text, key, 0)}: '{key}' must be a list of one or more texts"
            )
        for position, value in enumerate(content[key]):
            if not isinstance(value, str) or not value.strip():
                raise UserError(
                    f"{path}:{_line(text, key, position)}: '{key}' must hold texts that are not empty, and number "
                    f"{position + 1} is {json.dumps(value)[:60]}"
                )
        columns.append(content[key])
    names, tasks = columns
    if len(names) != len(tasks):
        raise UserError(
            f"{path}: 'names' and 'tasks' must be of one length, and have {len(names)} and {len(tasks)}"
        )
    return list(zip(names, tasks, strict=True))


def _line(text: str, key: str, position: int) -> int:
    """The line of an item of a list under a key of the top."""
    place = text.index(f'"{key}"') + len(key) + 2
    place = text.index(":", place) + 1
    while place < len(text) and text[place].isspace():
        place += 1
    if text[place] != "[":
        return text.count("\n", 0, place) + 1
    return line_of_item(text, place, position)
