"""Where a task's records come from (a file, the hub, a built-in data set), and their search and
test splits.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from agenttts.errors import UserError, valid_names
from agenttts.tasks.loading.hub import hub_id, read_hub
from agenttts.tasks.loading.json_records import Fields
from agenttts.tasks.loading.records import Record, RecordSet, read_file

SPLITS = ("search", "test")
BUILT_IN_PREFIX = "builtin:"
DATA_FOLDER = Path(__file__).parents[1] / "data"

_Item = TypeVar("_Item")


def read_source(
    data: str,
    built_in: Mapping[str, Path],
    *,
    split: str = "search",
    hub_split: str = "",
    records_key: str = "",
    fields: Fields = (),
) -> RecordSet:
    """Every record that the examples of ``split`` are drawn from; damaged ones have
    `Record.damage`.

    ``data`` is a file, a hub id or ``builtin:NAME``, NAME one of ``built_in``. For hub ids the
    splits ``search`` and ``test`` come from one hub split, ``hub_split`` if given; any other
    ``split`` is the hub's of that name. ``fields`` are those that every record has, and
    ``records_key`` is the key of the list of records in a JSON document with several
    (`agenttts.tasks.loading.json_records.read_json`).

    Raises `UserError` for an unknown name or split and for data that are absent (`Unavailable`) or
    malformed, and what `read_hub` raises.
    """
    hub = None if data.startswith(BUILT_IN_PREFIX) else hub_id(data)
    if hub is not None:
        if records_key:
            raise UserError(
                f"task.options.records_key: '{data}' is a hub data set, not a JSON document; leave it out"
            )
        return read_hub(hub, hub_split if split in SPLITS else split)
    check_split(split)
    if hub_split:
        raise UserError(f"task.options.hub_split: '{data}' is no hub data set; leave it out")
    found = read_file(data_file(data, built_in), fields=fields, key=records_key)
    if data.startswith(BUILT_IN_PREFIX):
        return dataclasses.replace(found, source=data)
    return found


def read_data(
    data: str, built_in: Mapping[str, Path], *, split: str = "search", hub_split: str = ""
) -> list[Record]:
    """The records of `read_source`, none of them damaged: for a task that reads them itself and
    skips none.

    Raises `UserError` as `read_source` does, for a damaged record, and when there are no records.
    """
    found = read_source(data, built_in, split=split, hub_split=hub_split)
    for record in found.records:
        if record.damage is not None:
            raise record.damage
    if not found.records:
        raise UserError(f"{found.source} holds no records")
    return list(found.records)


def check_split(split: str) -> None:
    """Raise `UserError` for a split that only a hub data set may have."""
    if split not in SPLITS:
        raise UserError(f"task.split: unknown split '{split}'; {valid_names(split, SPLITS)}")


def data_file(data: str, built_in: Mapping[str, Path]) -> Path:
    """The file that ``data``, a path or ``builtin:NAME``, stands for."""
    if not data.startswith(BUILT_IN_PREFIX):
        return Path(data).expanduser()
    name = data.removeprefix(BUILT_IN_PREFIX)
    if name not in built_in:
        raise UserError(f"task.data: no built-in data set '{name}'; {valid_names(name, built_in)}")
    return built_in[name]


def take_split(
    items: Sequence[_Item],
    *,
    split: str,
    examples: int | None,
    search_examples: int | None,
    seed: int,
    data: str,
) -> list[_Item]:
    """The items of a split, in the order that ``seed`` determines.

    ``search`` takes the first ``examples`` of it, ``test`` the first after those of the search:
    after ``search_examples`` if given, else after half of all items. A hub split is taken from its
    start. ``data`` is the name for messages. Raises `UserError` when there are too few.
    """
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    skipped = 0
    if split == "test":
        skipped = (len(items) + 1) // 2 if search_examples is None else search_examples
    available = max(0, len(items) - skipped)
    wanted = available if examples is None else examples
    if wanted > available or available == 0:
        left = f", and {skipped} of them are the search split's" if skipped else ""
        hint = "; task.options.search_examples says how many" if split == "test" else ""
        raise UserError(
            f"task.examples: {wanted or 'no'} examples asked for, but '{data}' has {len(items)}{left}{hint}; "
            f"valid for split '{split}': at most {available}"
        )
    return shuffled[skipped : skipped + wanted]


def example_id(record: Record, number: int, fields: Sequence[str] = ("_id", "id")) -> str:
    """The record's own id, from the first of ``fields`` that is not blank, else ``number``, its
    position in the data.
    """
    given = next(
        (record.values[f] for f in fields if record.values.get(f) not in (None, "")), number
    )
    if isinstance(given, float) and given.is_integer():
        given = int(given)  # of a column of whole numbers with a null in it
    return str(given)


def check_ids(ids: Sequence[str], records: Sequence[Record]) -> None:
    """Ids name examples in the result tables, so two must not share one: `UserError` naming
    both records.
    """
    first: dict[str, int] = {}
    for number, found in enumerate(ids):
        if found in first:
            other = records[first[found]].place()
            raise UserError(f"{records[number].place()}: id '{found}' is also that of {other}")
        first[found] = number
