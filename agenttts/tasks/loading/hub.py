"""Data sets of the Hugging Face hub, or of its formats in a local directory.

They are read with the ``datasets`` library. Since 4.0 (2025) that library runs no scripts of data
sets. For most data sets with a script, the hub keeps a conversion to Parquet in the revision
``refs/convert/parquet``. `agenttts.tasks.loading.hub_parquet` reads it without that library.
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
"""The library's message about a data set with a script.

Source: ``datasets/load.py``, 4.0 to 5.2.
"""

# The hub splits that `search` and `test` are drawn from, unless the user names one. `test` is not
# first, because the test splits of these data sets are published without answers.
_BASE_SPLITS = ("validation", "dev", "train", "test")


@dataclass(frozen=True)
class HubId:
    """A data set of the hub: ``NAME[:CONFIG][@REVISION]``."""

    name: str
    config: str | None = None
    revision: str | None = None


def hub_id(data: str) -> HubId | None:
    """Return the hub id that ``data`` is, or None if it is a path.

    ``hf:`` marks an id. Without it, ``owner/name`` is an id unless it is a path that exists or
    looks like a data file.
    """
    marked = data.startswith(_PREFIX)
    match = _ID.fullmatch(data.removeprefix(_PREFIX))
    if match is None:
        if marked:
            raise UserError(
                f"'{data}' is not a valid data set id; valid: hf:NAME[:CONFIG][@REVISION]",
                at=("data",),
            )
        return None
    found = HubId(match["name"], match["config"], match["revision"])
    if marked:
        return found
    # If "data" exists, "data/2wiki" is probably a mistyped path and not a data set of an owner
    # "data".
    path_like = data.endswith(SUFFIXES) or Path(data).parent.exists()
    return found if _OWNER_AND_NAME.fullmatch(found.name) and not path_like else None


def read_hub(hub: HubId, split: str) -> RecordSet:
    """Return the records of a hub split.

    Args:
        hub: The data set.
        split: Name of the hub split; empty: the one to draw `search` and `test` from.

    Raises:
        MissingRequirement: ``datasets`` is not installed, or the data set is not available here.
        UserError: The configuration or split is unknown, or the data set is a script.
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
    """Return the split ``wanted``.

    If it is empty, return the split to draw `search` and `test` from.

    Raises:
        UserError: There is no such split; the message lists the splits.
    """
    name = wanted or next((s for s in _BASE_SPLITS if s in splits), splits[0])
    if name not in splits:
        names = ["search", "test", *(s for s in splits if s not in ("search", "test"))]
        raise UserError(
            f"hub data set '{data_set}' has no split '{name}'; {valid_names(name, names)}",
            at=("split",),
        )
    return name


def _load(hub: HubId) -> Any:
    """Return the data set's splits by name."""
    try:
        import datasets
    except ImportError:
        raise MissingRequirement(
            f"reading '{hub.name}' takes the Python package 'datasets'",
            fix="pip install 'agenttts-hpc[hub]'",
            at=("data",),
        ) from None
    try:
        return datasets.load_dataset(hub.name, hub.config, revision=hub.revision)
    except (
        ValueError
    ) as error:  # an unknown or missing configuration; the library lists the valid ones
        raise UserError(
            f"hub data set '{hub.name}': {_one_line(error)}; valid: hf:NAME[:CONFIG][@REVISION]",
            at=("data",),
        ) from error
    except (
        Exception
    ) as error:  # offline, unknown, gated, damaged: the library's errors share no base class
        if isinstance(error, RuntimeError) and _SCRIPT in str(error):
            config = f":{hub.config}" if hub.config else "[:CONFIG]"
            raise UserError(
                f"hub data set '{hub.name}' is a script ({_one_line(error)}), and "
                "the library 'datasets' runs none; "
                "name its conversion to Parquet instead: "
                f"hf:{hub.name}{config}@{PARQUET_REVISION}, or a file of its records",
                at=("data",),
            ) from error
        raise MissingRequirement(
            f"hub data set '{hub.name}' can neither be downloaded from here nor is "
            "it in this machine's "
            f"cache ({type(error).__name__}: {_one_line(error)})",
            fix="check the id; then, on a login node with Internet access and with HF_HOME on "
            "a file system this "
            f'machine sees too, run: python -c "{_fetch(hub)}"',
            at=("data",),
        ) from error


def _fetch(hub: HubId) -> str:
    arguments = [repr(hub.name)]
    arguments += [repr(hub.config)] if hub.config else []
    arguments += [f"revision={hub.revision!r}"] if hub.revision else []
    return f"import datasets; datasets.load_dataset({', '.join(arguments)})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:300]
