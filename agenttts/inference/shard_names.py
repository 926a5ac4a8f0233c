"""The names of the shards in a sample store.

They are apart from the store, because a job on a node looks at the names and reads no samples.
"""

from __future__ import annotations

import os
import re
from pathlib import Path


def trial_writer(run: str, trial: str) -> str:
    """Return the beginning of the ``writer`` of a trial's stores.

    The process number follows it.
    """
    return file_name(f"{run}-{trial}-")


def shard_names(directory: Path) -> list[str]:
    """Return the sorted names of the shards in a directory, which may be missing."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries]
    except FileNotFoundError:
        return []
    return sorted(n for n in names if n.endswith(".parquet") and not n.startswith("."))


def file_name(text: str) -> str:
    """Return a text with every character replaced that a file name should not have."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)
