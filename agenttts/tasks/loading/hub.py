"""Data sets of the Hugging Face hub, or in its formats in a local directory, through the
``datasets`` library.

That library runs no scripts of data sets any more (4.0, 2025). Of most data sets that have one the
hub keeps a conversion to Parquet in the revision ``refs/convert/parquet``, which is read without it
(`agenttts.tasks.loading.hub_parquet`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttts.errors import MissingRequirement, UserError, valid_names
from agenttts.tasks.loading.hub_parquet import PARQUET_REVISION, read_converted
from agenttts.tasks.loading.records import SUFFIXES, RecordSet
from agenttts.tasks.loading.table_records import row_record

_PREFIX = "hf:"
_ID = re.compile(r"(?P<name>[^:@]+)(:(?P<config>[^@]+))?(@(?P<revision>.+))?")
_OWNER_AND_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")

_SCRIPT = "Dataset scripts are no longer supported"
"""What the library says of a data set with a script (``datasets/load.py``, 4.0 to 5.2)."""

# Where `search` and `test` come from unless the user names a hub split. Not `test` first: the test
# splits of these data sets are published without answers.
_BASE_SPLITS = ("validation", "dev", "train", "test")


@dataclass(frozen=True)
class HubId:
    """A data set of the hub: ``NAME[:CONFIG][@REVISION]``."""

    name: str
    config: str | None = None
    revision: str | None = None


def hub_id(data: str) -> HubId | None:
    """The hub id that ``data`` is, or None when it is a path.

    ``hf:`` marks an id; without it, ``owner/name`` is one unless it is a path that exists or looks
    like a data file.
    """
    marked = data.startswith(_PREFIX)
    match = _ID.fullmatch(data.removeprefix(_PREFIX))
    if match is None:
        if marked:
            raise UserError(
                f"task.data: '{data}' is no data set id; valid: hf:NAME[:CONFIG][@REVISION]"
            )
        return None
    found = HubId(match["name"], match["config"], match["revision"])
    if marked:
        return found
    # "data/2wiki" beside an existing "data" is rather a mistyped path than an owner called "data".
    path_like = data.endswith(SUFFIXES) or Path(data).parent.exists()
    return found if _OWNER_AND_NAME.fullmatch(found.name) and not path_like else None


def read_hub(hub: HubId, split: str) -> RecordSet:
    """The records of a hub split; ``split`` may be empty for the one to draw `search` and `test`
    from.

    Raises `MissingRequirement` when ``datasets`` is not installed or the data set cannot be had
    here, `UserError` for an unknown configuration or split and for a data set that is a script.
    """
    if hub.revision == PARQUET_REVISION:
        return read_converted(
            hub.name, hub.config, lambda names: choose_split(hub.name, names, split)
        )
    splits = _load(hub)
    name = choose_split(hub.name, list(splits), split)
    source = f"hub data set '{hub.name}', split '{name}'"

    def place(number: int) -> Callable[[], str]:
        return lambda: f"{source}, record {number + 1}"

    return RecordSet(source, [row_record(row, place(n)) for n, row in enumerate(splits[name])])


def choose_split(data_set: str, splits: Sequence[str], wanted: str) -> str:
    """The split called ``wanted`` or, if empty, the one to draw `search` and `test` from.

    `UserError` lists them.
    """
    name = wanted or next((s for s in _BASE_SPLITS if s in splits), splits[0])
    if name not in splits:
        names = ["search", "test", *(s for s in splits if s not in ("search", "test"))]
        raise UserError(
            f"task.split: hub data set '{data_set}' has no split '{name}'; {valid_names(name, names)}"
        )
    return name


def _load(hub: HubId) -> Any:
    """The data set's splits by name."""
    try:
        import datasets
    except ImportError:
        raise MissingRequirement(
            f"task.data: reading '{hub.name}' takes the Python package 'datasets'",
            fix="pip install 'agenttts-hpc[hub]'",
        ) from None
    try:
        return datasets.load_dataset(hub.name, hub.config, revision=hub.revision)
    except (
        ValueError
    ) as error:  # an unknown or missing configuration; the library lists the valid ones
        raise UserError(
            f"task.data: hub data set '{hub.name}': {_one_line(error)}; valid: hf:NAME[:CONFIG][@REVISION]"
        ) from error
    except (
        Exception
    ) as error:  # offline, unknown, gated, damaged: the library's errors share no base class
        if isinstance(error, RuntimeError) and _SCRIPT in str(error):
            config = f":{hub.config}" if hub.config else "[:CONFIG]"
            raise UserError(
                f"task.data: hub data set '{hub.name}' is a script ({_one_line(error)}), and the library 'datasets' runs none; "
                f"name its conversion to Parquet instead: hf:{hub.name}{config}@{PARQUET_REVISION}, or a file of its records"
            ) from error
        raise MissingRequirement(
            f"task.data: hub data set '{hub.name}' can neither be downloaded from here nor is it in this machine's "
            f"cache ({type(error).__name__}: {_one_line(error)})",
            fix="check the id; then, on a login node with Internet access and with HF_HOME on a file system this "
            f'machine sees too, run: python -c "{_fetch(hub)}"',
        ) from error


def _fetch(hub: HubId) -> str:
    arguments = [repr(hub.name)]
    arguments += [repr(hub.config)] if hub.config else []
    arguments += [f"revision={hub.revision!r}"] if hub.revision else []
    return f"import datasets; datasets.load_dataset({', '.join(arguments)})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:300]
