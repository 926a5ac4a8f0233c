"""Where a task's records come from, and their search and test splits.

A source is a file, the hub or a built-in data set.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from agenttts.errors import UserError, counted, valid_names
from agenttts.tasks.loading.hub import hub_id, read_hub
from agenttts.tasks.loading.json_records import Fields
from agenttts.tasks.loading.records import Record, RecordSet, read_file, undamaged

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
    """Return every record that the examples of ``split`` are drawn from.

    Damaged records have `Record.damage`.

    Args:
        data: A file, a hub id or ``builtin:NAME``.
        built_in: The files of built-in data sets, by NAME.
        split: ``search`` or ``test``; with a hub id also the name of a hub split.
        hub_split: The hub split that ``search`` and ``test`` come from.
        records_key: Key of the list of records, in a JSON document with several
            (`agenttts.tasks.loading.json_records.read_json`).
        fields: The fields that every record has.

    Raises:
        UserError: A name or split is unknown, or data are absent (`Unavailable`) or malformed. Also
            the errors of `read_hub`.
    """
    hub = None if data.startswith(BUILT_IN_PREFIX) else hub_id(data)
    if hub is not None:
        if records_key:
            raise UserError(
                f"the data '{data}' are a hub data set, not a JSON document; remove records_key",
                at=("options", "records_key"),
            )
        return read_hub(hub, hub_split if split in SPLITS else split)
    check_split(split)
    if hub_split:
        raise UserError(
            f"the data '{data}' are not a hub data set; remove hub_split",
            at=("options", "hub_split"),
        )
    found = read_file(data_file(data, built_in), fields=fields, key=records_key)
    if data.startswith(BUILT_IN_PREFIX):
        return dataclasses.replace(found, source=data)
    return found


def read_data(
    data: str, built_in: Mapping[str, Path], *, split: str = "search", hub_split: str = ""
) -> list[Record]:
    """Return the records of `read_source`; a damaged record is an error.

    This is for a task that reads its records itself and skips none.

    Raises:
        UserError: As `read_source`, and for a damaged record or no records.
    """
    return undamaged(read_source(data, built_in, split=split, hub_split=hub_split))


def check_split(split: str) -> None:
    """Check that a split is one that every data set has.

    Raises:
        UserError: Only a hub data set may have the split.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}'; {valid_names(split, SPLITS)}", at=("split",))


def data_file(data: str, built_in: Mapping[str, Path]) -> Path:
    """Return the file of ``data``, which is a path or ``builtin:NAME``."""
    if not data.startswith(BUILT_IN_PREFIX):
        return Path(data).expanduser()
    name = data.removeprefix(BUILT_IN_PREFIX)
    if name not in built_in:
        raise UserError(
            f"no built-in data set '{name}'; {valid_names(name, built_in)}", at=("data",)
        )
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
    """Return the items of a split, in the order that ``seed`` determines.

    ``search`` takes the first ``examples`` items, of ``search_examples`` if given. ``test`` takes
    the first items after ``search_examples`` if given, else after half of all items, which a search
    may have used. A hub split is taken from its start. ``data`` is the name for messages.

    Raises:
        UserError: There are too few items.
    """
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    skipped = 0
    if split == "test":
        skipped = (len(items) + 1) // 2 if search_examples is None else search_examples
    available = max(0, len(items) - skipped)
    limited = split == "search" and search_examples is not None and search_examples < available
    if limited:
        available = search_examples or 0
    wanted = available if examples is None else examples
    if wanted > available or available == 0:
        left = f", and {skipped} of them are the search split's" if skipped else ""
        hint = "; the option search_examples says how many" if split == "test" else ""
        if limited:
            left = (
                f", and the option search_examples leaves those after {available} to split 'test'"
            )
        raise UserError(
            f"{counted(wanted or 'no', 'example')} asked for, but '{data}' has "
            f"{len(items)}{left}{hint}; "
            f"valid for split '{split}': at most {available}",
            at=("examples",),
        )
    return shuffled[skipped : skipped + wanted]


def example_id(record: Record, number: int, fields: Sequence[str] = ("_id", "id")) -> str:
    """Return the record's own id, else its position in the data (``number``).

    The id comes from the first of ``fields`` that is not blank.

    Raises:
        UserError: It has no JSON form.
    """
    values = (record.value(field, "it is the record's id") for field in fields)
    given = next((value for value in values if value not in (None, "")), number)
    if isinstance(given, float) and given.is_integer():
        given = int(given)  # from a column of whole numbers with a null in it
    return str(given)


def check_ids(ids: Sequence[str], records: Sequence[Record]) -> None:
    """Check that no two records have the same id.

    Ids name examples in the result tables.

    Raises:
        UserError: Two have; the message names both records.
    """
    first: dict[str, int] = {}
    for number, found in enumerate(ids):
        if found in first:
            raise records[number].same_id_error(found, records[first[found]])
        first[found] = number
