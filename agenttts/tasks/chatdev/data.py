"""The data sets of software development.

These are SRDD's files, records of any form and a small built-in set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agenttts.errors import UserError, nearest_name
from agenttts.tasks.base import Example
from agenttts.tasks.loading.hub import hub_id
from agenttts.tasks.loading.json_positions import item_lines, key_line
from agenttts.tasks.loading.records import Record, RecordSet, read_text
from agenttts.tasks.loading.report import LoadReport, convert
from agenttts.tasks.loading.source import (
    BUILT_IN_PREFIX,
    DATA_FOLDER,
    check_split,
    data_file,
    example_id,
    read_source,
    take_split,
)
from agenttts.tasks.loading.values import parse_json

BUILT_IN = {"small_programs": DATA_FOLDER / "small_programs.json"}
DEFAULT_DATA = "builtin:small_programs"

# SRDD is published as a table of Name, Description and Category. Its checked table has the longer
# names.
_NAMES = ("name", "Name", "SoftwareName")
_TASKS = ("task", "Description", "SoftwareDescription")
_COLUMNS = ("names", "tasks")


def load_requirements(
    data: str,
    *,
    split: str = "search",
    examples: int | None = None,
    search_examples: int | None = None,
    hub_split: str = "",
    records_key: str = "",
    seed: int = 0,
    report: LoadReport | None = None,
) -> list[Example]:
    """Return the examples of a split of ``data``.

    Splits are as in `agenttts.tasks.loading.source.take_split`, bad records as in
    `agenttts.tasks.loading.report.convert`. An example's data are ``name`` and ``requirement``. A
    record holds ``name`` and ``task``, or SRDD's ``Name`` and ``Description``. A JSON document or a
    hub's record may also be ``{"names": [..], "tasks": [..]}``.

    Raises:
        UserError: Data are missing, malformed or too few; the message names file and line. Also the
            errors of `read_hub`.
    """
    data = data or DEFAULT_DATA
    source = None
    if hub_id(data) is None and not (records_key or hub_split):
        source = _columns(data, data_file(data, BUILT_IN), split)
    if source is None:
        source = read_source(
            data,
            BUILT_IN,
            split=split,
            hub_split=hub_split,
            records_key=records_key,
            fields=[(*_TASKS, *_COLUMNS)],
        )
    pairs = convert(source, _pairs, report or LoadReport())
    return take_split(
        _examples(pairs),
        split=split,
        examples=examples,
        search_examples=search_examples,
        seed=seed,
        data=data,
    )


def _pairs(record: Record, number: int) -> list[tuple[str, str]]:
    """Return the (name, task) pairs of a record.

    A record has one pair, or all pairs if it is two lists, as the hub returns SRDD's document.
    """
    if not record.is_given("tasks") or any(map(record.is_given, _TASKS)):
        field = record.first_given(_TASKS)
        if field not in record.values:
            raise record.error(
                field, f"must be a text that is not empty (also read as {' or '.join(_TASKS[1:])})"
            )
        return [(example_id(record, number, _NAMES), record.text(field))]
    names, requirements = record.texts("names"), record.texts("tasks")
    if len(names) != len(requirements):
        raise record.error("names", f"must have as many texts as 'tasks', {len(requirements)}")
    return list(zip(names, requirements, strict=True))


def _examples(pairs: list[tuple[str, str]]) -> list[Example]:
    """Make examples; names are ids if they are unique, else they are numbered."""
    counts = Counter(name for name, _ in pairs)
    return [
        Example(
            id=name if counts[name] == 1 else f"{name}#{position}",
            data={"name": name, "requirement": " ".join(task.split())},
        )
        for position, (name, task) in enumerate(pairs)
    ]


def _columns(data: str, path: Path, split: str) -> RecordSet | None:
    """Return the records of a JSON document of two lists, names and tasks.

    It is None if the file has another form or is not there.
    """
    if not path.name.removesuffix(".gz").endswith(".json") or not path.is_file():
        return None
    text = read_text(path)
    if not text.lstrip().startswith("{"):
        return None
    try:
        content = parse_json(text)
    except (ValueError, RecursionError):  # one object a line, or damaged: read_source reports it
        return None
    if not any(isinstance(content.get(key), list | dict) for key in _COLUMNS):
        return None
    check_split(split)
    source = data if data.startswith(BUILT_IN_PREFIX) else str(path)
    return RecordSet(source, _rows(path, text, content))


def _rows(path: Path, text: str, content: dict[str, Any]) -> list[Record]:
    for key in _COLUMNS:
        if key not in content:
            near = nearest_name(key, content)
            hint = f"; is '{near}' meant to be it?" if near else ""
            raise UserError(
                f'{path}: key \'{key}\' is missing{hint}; valid: {{"names": [..], "tasks": [..]}}'
            )
        if not isinstance(content[key], list) or not content[key]:
            raise UserError(
                f"{path}:{key_line(text, (key,))}: '{key}' must be a list of one or more texts"
            )
    names, tasks = content["names"], content["tasks"]
    if len(names) != len(tasks):
        raise UserError(
            f"{path}: 'names' and 'tasks' must be of one length, and have {len(names)} and "
            f"{len(tasks)}"
        )
    lines: dict[str, list[int]] = {}

    def place(key: str, number: int) -> Callable[[], str]:
        def where() -> str:
            if key not in lines:
                lines[key] = item_lines(text, (key,))
            return f"{path}:{lines[key][number]} (number {number + 1} of '{key}')"

        return where

    return [
        _row(name, task, n, place) for n, (name, task) in enumerate(zip(names, tasks, strict=True))
    ]


def _row(
    name: Any, task: Any, number: int, place: Callable[[str, int], Callable[[], str]]
) -> Record:
    where = place("tasks", number)
    if isinstance(name, str) and name.strip():
        return Record({"name": name, "task": task}, where)
    named = Record({"name": name}, place("names", number))
    return Record({}, where, named.error("name", "must be a text that is not empty"))
